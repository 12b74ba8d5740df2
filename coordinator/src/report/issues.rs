//! What went wrong, from the reasons of records: one issue per cause, open until a reason ends it.

use std::collections::BTreeMap;

use bellwether_protocol::action::ActionOutcome;
use bellwether_protocol::id::{Ordinal, Region};
use bellwether_protocol::reason::{Ending, Hold, Judgement, Lack, Reason, Verdict};
use bellwether_protocol::report::Priority;
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::Timestamp;

/// Most causes that are told apart.
const ISSUES_MAX: usize = 200;

/// What went wrong so far.
#[derive(Default)]
pub(super) struct Issues {
    by_cause: BTreeMap<String, Cause>,
    pub(super) left_out: u64,
}

/// One cause.
#[derive(Clone)]
pub(super) struct Cause {
    /// What it is called, such as `verdict/error_rate/canary/sjc`.
    pub(super) name: String,
    pub(super) priority: Priority,
    pub(super) since: Timestamp,
    pub(super) until: Option<Timestamp>,
    pub(super) what: Reason,
    pub(super) times: u32,
    pub(super) records: (Ordinal, Ordinal),
}

/// What a reason means for the cause that it names.
enum Means {
    Begins(Priority),
    Ends,
}

impl Issues {
    /// Takes one reason.
    pub(super) fn take(&mut self, at: Timestamp, record: Ordinal, reason: &Reason) {
        match reason {
            // A new epoch judges anew; what held, or was soft, is over with what it held.
            Reason::StageEntered { .. } => self.close(at, |_| true),
            Reason::TakingBack { .. } | Reason::Ended { .. } => {
                self.close(at, |what| matches!(what, Reason::Held { .. }));
            }
            _ => {}
        }
        let Some((cause, means)) = meaning(reason) else { return };
        let is_full = self.by_cause.len() >= ISSUES_MAX;
        match (means, self.by_cause.get_mut(&cause)) {
            (Means::Begins(priority), Some(own)) => {
                own.times += u32::from(own.until.is_some());
                // Since when it is as bad as it is, this time.
                if own.until.is_some() || priority < own.priority {
                    (own.since, own.records.0) = (at, record);
                }
                (own.until, own.priority, own.what) = (None, priority, reason.clone());
                own.records.1 = record;
            }
            (Means::Begins(_), None) if is_full => self.left_out += 1,
            (Means::Begins(priority), None) => {
                let (until, what, records) = (None, reason.clone(), (record, record));
                let name = cause.clone();
                self.by_cause.insert(cause, Cause { name, priority, since: at, until, what, times: 1, records });
            }
            (Means::Ends, Some(own)) => {
                own.until.get_or_insert(at);
                own.records.1 = record;
            }
            (Means::Ends, None) => {}
        }
    }

    /// All of them, the most pressing first, then the oldest.
    pub(super) fn sorted(self) -> Vec<Cause> {
        let mut all: Vec<Cause> = self.by_cause.into_values().collect();
        all.sort_by_key(|own| (own.priority, own.since));
        all
    }

    fn close(&mut self, at: Timestamp, which: impl Fn(&Reason) -> bool) {
        for own in self.by_cause.values_mut().filter(|own| is_lasting(&own.what) && which(&own.what)) {
            own.until.get_or_insert(at);
        }
    }
}

/// Whether it goes on until something ends it; the rest happened once.
fn is_lasting(reason: &Reason) -> bool {
    matches!(reason, Reason::Held { .. } | Reason::VerdictChanged { .. })
}

/// What is wrong by a reason, and how pressing it is; nothing where nothing is wrong.
fn meaning(reason: &Reason) -> Option<(String, Means)> {
    use Priority::{High, Low, Medium};
    let begins = |cause: String, priority| Some((cause, Means::Begins(priority)));
    match reason {
        Reason::VerdictChanged { judgement } => {
            let Judgement { criterion, cohort, region, .. } = judgement;
            let region = region.as_ref().map_or("all", Region::as_str);
            let cause = format!("verdict/{criterion}/{cohort}/{region}");
            let is_canary = *cohort == Cohort::Canary;
            Some((
                cause,
                match judgement.verdict {
                    Verdict::Fail if is_canary && judgement.hard => Means::Begins(High),
                    Verdict::Fail if is_canary => Means::Begins(Medium),
                    Verdict::Fail => Means::Begins(Low),
                    // Silence is told by its region, not once more by each criterion.
                    Verdict::Inconclusive(Lack::NoData) => Means::Ends,
                    _ if judgement.over_target && is_canary => Means::Begins(Medium),
                    _ => Means::Ends,
                },
            ))
        }
        Reason::Held { hold } => begins(held(hold)?, if *hold == Hold::NotRecovered { High } else { Medium }),
        Reason::Released { hold } => Some((held(hold)?, Means::Ends)),
        Reason::TakingBack { level, .. } => begins(format!("taking back/{level}"), High),
        Reason::LevelGaveWay { level, .. } => begins(format!("gave way/{level}"), High),
        Reason::Ended { ending: Ending::NotTakenBack | Ending::NotStarted, .. } => begins("ended".to_owned(), High),
        Reason::Answered { lever, outcome, .. } if *outcome != ActionOutcome::Done => {
            begins(format!("lever/{lever}/{outcome}"), Medium)
        }
        Reason::DataFault { agent, .. } => begins(format!("fault/{agent}"), Medium),
        Reason::StreamReset { source } => begins(format!("stream/{source}"), Medium),
        Reason::CommandRefused { verb, principal, .. } => begins(format!("refused/{verb}/{principal}"), Low),
        _ => None,
    }
}

/// The cause of a hold; none where a person holds it, or where the verdict says the same.
fn held(hold: &Hold) -> Option<String> {
    match hold {
        Hold::BaselineAsRed { criterion } => Some(format!("baseline/{criterion}")),
        Hold::Lever { lever } => Some(format!("moved/{lever}")),
        Hold::NoData { region, .. } => Some(format!("silent/{region}")),
        Hold::NotRecovered => Some("not recovered".to_owned()),
        Hold::TooFewEvents { criterion } => Some(format!("few/{criterion}")),
        Hold::Activity { lever } => Some(format!("run/{lever}")),
        Hold::Approval | Hold::Frozen { .. } | Hold::NotProven { .. } | Hold::Paused | Hold::SoftRed { .. } => None,
    }
}
