//! What an assessment tells people, and CI.

use bellwether_protocol::action::ActionResult;
use bellwether_protocol::assessment::Assessment;
use bellwether_protocol::id::{CriterionName, Region};
use bellwether_protocol::reason::{Judgement, Lack, Verdict};
use bellwether_protocol::time::Span;
use bellwether_runtime::Lever;
use serde_json::{Value, json};

use super::End;
use super::journal::Move;
use crate::error::exit;
use crate::out::outln;

/// What is told on the way, and, in JSON, at the end.
pub(super) struct Shown {
    is_json: bool,
    told: Value,
    subject: String,
    looks: u32,
    /// Hard criteria on what other agents look at.
    unseen: Vec<CriterionName>,
}

impl Shown {
    pub(super) fn new(is_json: bool, lever: &Lever, regions: Vec<Region>, unseen: Vec<CriterionName>) -> Self {
        let told = json!({ "service": lever.service, "lever": lever.name, "regions": regions, "unseen": unseen });
        Self { is_json, told, subject: format!("{} ({})", lever.service, lever.name), looks: 0, unseen }
    }

    pub(super) fn say(&self, line: &str) {
        if !self.is_json {
            outln!("{line}");
        }
    }

    pub(super) fn assessed(&mut self, assessment: &Assessment, looks: u32, every: Span) {
        self.looks = looks;
        self.told["looks"] = json!(looks);
        self.told["assessment"] = json!(assessment);
        self.say(&format!("looked {looks} times, every {every}"));
        for judgement in &assessment.judgements {
            self.say(&line(judgement));
        }
        let unseen = self.unseen.iter().map(|criterion| (criterion, &"is looked at by other agents"));
        for (criterion, why) in assessment.left_out.iter().chain(unseen) {
            self.say(&format!("  LEFT OUT  {criterion}: {why}"));
        }
        for seen in &assessment.evidence {
            self.say(&format!("  {} {}: {}", seen.at.seconds(), seen.class, seen.text));
        }
    }

    pub(super) fn chosen(&mut self, chosen: &Move) {
        self.told["from"] = json!(chosen.from);
        self.told["to"] = json!(chosen.to);
        self.say(&format!("{} is what runs; {} is the last release before it", chosen.from, chosen.to));
    }

    pub(super) fn acted(&mut self, result: &ActionResult) {
        self.told["result"] = json!(result);
        let targets = result.targets.iter().map(|target| {
            let value = target.value.as_ref().map_or("unknown", |value| value.as_str());
            format!("{} at {value}", target.id)
        });
        let targets: Vec<String> = targets.collect();
        let said = [result.outcome.to_string(), result.detail.clone(), targets.join(", ")];
        let said: Vec<String> = said.into_iter().filter(|part| !part.is_empty()).collect();
        self.say(&format!("set: {}", said.join("; ")));
    }

    pub(super) fn proven(&mut self, green: u32) {
        self.told["green"] = json!(green);
        self.say(&format!("looked again: {green} good looks in a row"));
    }

    /// The last word, and the exit code.
    pub(super) fn end(&mut self, end: &End) -> u8 {
        let subject = &self.subject;
        let (word, code, text) = match end {
            End::AllWell => ("all_well", exit::DONE, format!("ALL WELL {subject}: {}", proof(self.looks))),
            End::WouldRollBack => {
                ("would_roll_back", exit::HELD, format!("WOULD ROLL BACK {subject}: nothing was done"))
            }
            End::RolledBack => ("rolled_back", exit::TAKEN_BACK, format!("ROLLED BACK {subject}: read back, and seen")),
            End::Undecided => {
                let text = "some looks were bad, too few to act on; look more often with --looks";
                ("undecided", exit::HELD, format!("UNDECIDED {subject}: {text}; nothing was done"))
            }
            End::NoData => {
                let text = "too little was seen; see --probe for a control target";
                ("no_data", exit::UNKNOWN, format!("COULD NOT TELL {subject}: {text}; nothing was done"))
            }
            End::Failed(why) => ("failed", exit::NOT_TAKEN_BACK, format!("NOT TAKEN BACK {subject}: {why}")),
            End::NotBetter(why) => {
                let text = format!("SET BACK, NOT BETTER {subject}: {why}; the cause may be elsewhere");
                ("not_better", exit::NOT_TAKEN_BACK, text)
            }
            End::Blind(why) => {
                let text = format!("SET, NOT SEEN {subject}: {why}; run this again to look on");
                ("blind", exit::UNKNOWN, text)
            }
        };
        self.say(&text);
        if self.is_json {
            self.told["decision"] = json!(word);
            self.told["text"] = json!(text);
            self.told["exit"] = json!(code);
            outln!("{}", self.told);
        }
        code
    }
}

fn line(judgement: &Judgement) -> String {
    let word = match judgement.verdict {
        Verdict::Fail => "FAIL",
        Verdict::Inconclusive(Lack::NoData) => "NO DATA",
        Verdict::Inconclusive(Lack::NotProven) => "UNPROVEN",
        Verdict::Pass => "PASS",
    };
    let region = judgement.region.as_ref().map(|region| format!(" in {region}")).unwrap_or_default();
    let numbers = &judgement.numbers;
    let (value, bad, n) = (&numbers.value, numbers.bad, numbers.n);
    format!("  {word:<9} {}{region}: {value} ({bad} bad of {n}), limit {}", judgement.criterion, numbers.limit)
}

/// What so many good looks prove: with 95 % confidence, at most this share of answers is bad.
fn proof(looks: u32) -> String {
    let share = 100.0 * (1.0 - 0.05_f64.powf(1.0 / f64::from(looks.max(1))));
    format!(
        "{looks} of {looks} looks were good; by themselves they show that fewer than {share:.1}% of answers are bad"
    )
}
