//! One decision as event lines: short ones for people, `key=value` ones for pipes.
//!
//! An event is a fact in the past tense; what is still to come is "due". Text from agents is cut.

use std::collections::BTreeSet;

use bellwether_protocol::id::{CriterionName, LeverName, LeverValue, Ordinal, Region, RolloutId};
use bellwether_protocol::reason::{Cause, Ending, Hold, Judgement, Lack, Reason, Verdict};
use bellwether_protocol::record::Record;
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::Timestamp;

use super::watch::after;
use super::{Line, Look, Style, count, face, span};

/// One event, in both of its forms, with the reason as the log holds it.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) at: Timestamp,
    pub(crate) record: Ordinal,
    pub(crate) reason: Reason,
    short: Line,
    long: String,
}

/// Longest text of an agent or a person that an event line repeats, in characters.
const DETAIL_LEN_MAX: usize = 160;

impl Event {
    /// `HH:MM:SSZ text`, for the terminal.
    pub(crate) fn short(&self) -> Line {
        let mut line = Line::of(format!("{} ", self.at.clock()));
        line.pieces.extend(self.short.pieces.iter().cloned());
        line
    }

    /// One whole line of fixed shape, for pipes and CI.
    pub(crate) fn long(&self, rollout: &RolloutId) -> String {
        Line::of(format!("{} {rollout} {}", self.at.seconds(), self.long)).plain()
    }

    /// One JSON object.
    pub(crate) fn json(&self, rollout: &RolloutId) -> serde_json::Value {
        serde_json::json!({
            "at": self.at,
            "rollout": rollout,
            "record": self.record,
            "event": self.reason,
        })
    }
}

/// The events of one record, in the order of its reasons.
pub(crate) fn events(record: &Record, look: Look) -> Vec<Event> {
    record.reasons.iter().map(|reason| reason_event(record.now, record.ordinal, reason, look)).collect()
}

/// One reason as an event.
pub(crate) fn reason_event(at: Timestamp, record: Ordinal, reason: &Reason, look: Look) -> Event {
    Event { at, record, reason: reason.clone(), short: short(reason, look), long: long(reason) }
}

/// Which verdicts people have been told of that were not a plain pass.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeSet<(CriterionName, Cohort, Option<Region>)>);

impl Told {
    /// The events of one record that a person wants to see: a rollout's life in a few dozen lines.
    ///
    /// A first pass, or one not proven yet, is what everybody expects; what a take-back asks, its own
    /// line says.
    pub(crate) fn news(&mut self, record: &Record, look: Look) -> Vec<Event> {
        let takes_back = record.reasons.iter().any(|reason| matches!(reason, Reason::TakingBack { .. }));
        let mut events = events(record, look);
        events.retain(|event| match &event.reason {
            Reason::Asked { .. } => !takes_back,
            Reason::VerdictChanged { judgement } => self.is_news(judgement),
            _ => true,
        });
        events
    }

    fn is_news(&mut self, judgement: &Judgement) -> bool {
        let series = (judgement.criterion.clone(), judgement.cohort, judgement.region.clone());
        // Proof takes its time: that it is not there yet is news only after bad news.
        let is_quiet = matches!(judgement.verdict, Verdict::Pass | Verdict::Inconclusive(Lack::NotProven));
        if is_quiet && !judgement.over_target {
            return self.0.remove(&series);
        }
        self.0.insert(series);
        true
    }
}

/// The last two lines of a rollout that was waited for.
pub(crate) fn final_lines(rollout: &RolloutId, release: &str, ending: Ending, summary: &str) -> [String; 2] {
    let (word, meaning) = match ending {
        Ending::Aborted => ("ABORTED", "ended by a person"),
        Ending::Completed => ("COMPLETED", "completed"),
        Ending::NotStarted => ("NOT STARTED", "not started, nothing was moved"),
        Ending::NotTakenBack => ("NOT TAKEN BACK", "failed and NOT taken back"),
        Ending::RolledBack => ("ROLLED BACK", "failed and taken back"),
        Ending::Superseded => ("SUPERSEDED", "another rollout went on from there"),
        Ending::WouldTakeBack => ("WOULD TAKE BACK", "failed in the shadow, nothing was moved"),
    };
    // The record's words name the release too, for those who read them alone.
    let summary = summary.strip_prefix(release).map_or(summary, str::trim_start);
    [
        Line::of(format!("{word} {} {release}: {summary}", rollout.service)).plain(),
        format!("next: {}    exit {}: {meaning}", after(rollout, Some(ending)), ending.exit_code()),
    ]
}

/// Why it does not go on, in words.
pub(crate) fn hold_words(hold: &Hold) -> String {
    match hold {
        Hold::Approval => "waiting for approval".to_owned(),
        Hold::BaselineAsRed { criterion } => {
            format!("{criterion} fails on the baseline as on the canary: the release is not the cause")
        }
        Hold::Activity { lever } => format!("the run of {lever} was not done in time"),
        Hold::Frozen { until } => format!("the plan enters no stage before {}", until.seconds()),
        Hold::Lever { lever } => format!("lever {lever} does not stand where it was put, or cannot be read"),
        Hold::NoData { region, since } => format!("no data from {region} since {}", since.clock()),
        Hold::NotRecovered => "every lever is back and it is still not green: the cause is elsewhere".to_owned(),
        Hold::Paused => "paused".to_owned(),
        Hold::SoftRed { criterion } => format!("{criterion} is over its limit (soft)"),
        Hold::NotProven { criterion } => format!("{criterion} is not proven yet"),
        Hold::TooFewEvents { criterion } => format!("too few events for {criterion}"),
    }
}

fn settings(set: &[(LeverName, LeverValue)], between: &str, joint: &str) -> String {
    let one = |(lever, to): &(LeverName, LeverValue)| format!("{lever}{between}{to}");
    set.iter().map(one).collect::<Vec<_>>().join(joint)
}

fn cut(text: &str) -> String {
    text.chars().take(DETAIL_LEN_MAX).collect()
}

fn place(judgement: &Judgement) -> String {
    let region = judgement.region.as_ref().map(|region| format!(" in {region}")).unwrap_or_default();
    format!("{region} ({})", judgement.cohort)
}

fn judged(judgement: &Judgement, look: Look) -> Line {
    let (_, word, style) = face(judgement, look);
    let kind = if judgement.hard { "hard" } else { "soft" };
    let numbers = &judgement.numbers;
    let line = Line::of(format!("{}: ", judgement.criterion)).styled(style, word);
    let line = line.then(format!(" ({kind}){}", place(judgement)));
    if numbers.n == 0 {
        return line.then(format!(", limit {}", numbers.limit));
    }
    let (bad, n) = (count(numbers.bad), count(numbers.n));
    line.then(format!(", {} ({bad} of {n}), limit {}", numbers.value, numbers.limit))
}

fn cause_words(cause: &Cause) -> String {
    match cause {
        Cause::Command { verb, principal } => format!("{verb} by {principal}"),
        Cause::Criterion { judgement } => {
            let Judgement { criterion, numbers, .. } = judgement;
            format!("{criterion} {numbers}{}", place(judgement))
        }
        Cause::Drift { lever, to } => format!("lever {lever} was read at {to}"),
        Cause::Lever { lever, outcome } => format!("lever {lever} answered {outcome}"),
    }
}

fn short(reason: &Reason, look: Look) -> Line {
    let text = match reason {
        Reason::Amended { plan_hash } => format!("amended: plan {plan_hash}; evidence begins anew"),
        Reason::Answered { lever, outcome, done, targets, detail, .. } => {
            let said = if detail.is_empty() { String::new() } else { format!(": {}", cut(detail)) };
            format!("lever {lever}: {outcome}, {done} of {targets} read back{said}")
        }
        Reason::Applied { after, seen, unseen } => {
            let proof = if *unseen { "no answer names its release".to_owned() } else { format!("probes see {seen}") };
            format!("applied: every lever read back, {proof}; {} after it was asked", span(*after))
        }
        Reason::Asked { lever, to, due, .. } => format!("asked: {lever} {to}, due {}", due.clock()),
        Reason::CommandDone { verb, principal, reason, .. } => {
            let why = reason.as_ref().map(|why| format!(": {}", cut(why))).unwrap_or_default();
            format!("{verb} by {principal}: done{why}")
        }
        Reason::CommandRefused { verb, principal, why, .. } => {
            let line = Line::of(format!("{verb} by {principal}: "));
            return line.styled(Style::Warn, "refused").then(format!(": {}", cut(why)));
        }
        Reason::DataFault { agent, fault } => {
            return Line::default().styled(Style::Warn, format!("{agent} sent {fault}")).then("; it is left out");
        }
        Reason::Drifted { lever, from, to } => {
            let line = Line::default().styled(Style::Warn, format!("lever {lever} was read at {to}"));
            return line.then(format!(", it should stand at {from}; this rollout did not move it"));
        }
        Reason::Ended { ending, summary } => {
            let style = if *ending == Ending::NotTakenBack { Style::Fail } else { Style::Plain };
            return Line::of("ended: ").styled(style, cut(summary));
        }
        Reason::Excluded { what, until, why } => {
            format!("{what} left out until {}: {}", until.clock(), cut(why))
        }
        Reason::Held { hold } => {
            return Line::default().styled(Style::Warn, "holding").then(": ").then(hold_words(hold));
        }
        Reason::LevelGaveWay { level, why } => {
            let text = format!("level {level} did not work");
            return Line::default().styled(Style::Fail, text).then(format!(": {}", cut(why)));
        }
        Reason::Looking { stage, from } => format!("{stage}: looking, slots count from {}", from.clock()),
        Reason::ReadBack { level, after } => {
            format!("read back: every lever of level {level}, {} after it was asked", span(*after))
        }
        Reason::Reapplied { cause } => format!("{cause}: setting the stage's levers again, once"),
        Reason::Recovered { green, after } => format!("recovered: {green} green slots, {} after applied", span(*after)),
        Reason::Released { hold } => format!("over: {}", hold_words(hold)),
        Reason::StageEntered { stage, entry } => format!("{stage}: entered (entry {entry})"),
        Reason::StagePassed { stage, soaked } => format!("{stage}: passed after {} green", span(*soaked)),
        Reason::Started { release, previous, principal, plan_hash } => {
            let from = previous.as_ref().map_or_else(|| "nothing known".to_owned(), ToString::to_string);
            format!("started: {from} -> {release}, by {principal}, plan {plan_hash}")
        }
        Reason::StreamReset { source } => {
            let text = format!("the {source} stream was lost");
            return Line::default().styled(Style::Warn, text).then("; it is read from its start");
        }
        Reason::TakingBack { cause, level, levels, set, due } => {
            let line = Line::default().styled(Style::Fail, "taking back");
            let set = settings(set, " ", ", ");
            let (due, why) = (due.clock(), cause_words(cause));
            return line.then(format!(", level {level} of {levels}: {set}; due {due}; {why}"));
        }
        Reason::VerdictChanged { judgement } => return judged(judgement, look),
        Reason::WouldSet { lever, to } => format!("shadow: would have set {lever} {to}"),
    };
    Line::of(text)
}

fn verdict_token(judgement: &Judgement) -> &'static str {
    match judgement.verdict {
        Verdict::Fail => "fail",
        Verdict::Inconclusive(Lack::NoData) => "no_data",
        Verdict::Inconclusive(Lack::NotProven) => "not_proven",
        Verdict::Pass if judgement.over_target => "warn",
        Verdict::Pass => "pass",
    }
}

fn hold_token(hold: &Hold) -> String {
    match hold {
        Hold::Approval => "approval".to_owned(),
        Hold::BaselineAsRed { criterion } => format!("baseline_as_red criterion={criterion}"),
        Hold::Activity { lever } => format!("activity lever={lever}"),
        Hold::Frozen { until } => format!("frozen until={}", until.seconds()),
        Hold::Lever { lever } => format!("lever lever={lever}"),
        Hold::NoData { region, since } => format!("no_data region={region} since={}", since.seconds()),
        Hold::NotRecovered => "not_recovered".to_owned(),
        Hold::Paused => "paused".to_owned(),
        Hold::SoftRed { criterion } => format!("soft_red criterion={criterion}"),
        Hold::NotProven { criterion } => format!("not_proven criterion={criterion}"),
        Hold::TooFewEvents { criterion } => format!("too_few_events criterion={criterion}"),
    }
}

fn judged_long(judgement: &Judgement) -> String {
    let Judgement { criterion, cohort, numbers, .. } = judgement;
    let region = judgement.region.as_ref().map(|region| format!(" region={region}")).unwrap_or_default();
    let seen = match numbers.n {
        0 => String::new(),
        n => format!(" {} {}/{n}", numbers.value, numbers.bad),
    };
    format!("verdict {criterion} {}{seen} limit={}{region} cohort={cohort}", verdict_token(judgement), numbers.limit)
}

fn long(reason: &Reason) -> String {
    match reason {
        Reason::Amended { plan_hash } => format!("amended plan={plan_hash}"),
        Reason::Answered { lever, outcome, done, targets, .. } => {
            format!("result {lever} {outcome} targets={done}/{targets}")
        }
        Reason::Applied { after, seen, unseen } => {
            let seen = if *unseen { "?".to_owned() } else { seen.to_string() };
            format!("proof applied after={} seen={seen}", after.rounded())
        }
        Reason::Asked { lever, to, due, .. } => format!("action {lever}={to} asked due={}", due.clock()),
        Reason::CommandDone { command, verb, principal, .. } => {
            format!("command {verb} done by={principal} id={command}")
        }
        Reason::CommandRefused { command, verb, principal, why } => {
            format!("command {verb} refused by={principal} id={command} why={:?}", cut(why))
        }
        Reason::DataFault { agent, fault } => format!("data_fault agent={agent} sent={:?}", fault.to_string()),
        Reason::Drifted { lever, from, to } => format!("drifted {lever} from={from} to={to}"),
        Reason::Ended { ending, .. } => format!("ended exit={}", ending.exit_code()),
        Reason::Excluded { what, until, why } => {
            format!("excluded {what} until={} why={:?}", until.seconds(), cut(why))
        }
        Reason::Held { hold } => format!("held {}", hold_token(hold)),
        Reason::LevelGaveWay { level, why } => format!("take-back level={level} gave_way why={:?}", cut(why)),
        Reason::Looking { stage, from } => format!("stage {stage} looking from={}", from.seconds()),
        Reason::ReadBack { level, after } => format!("proof read_back level={level} after={}", after.rounded()),
        Reason::Reapplied { cause } => format!("reapplied cause={cause}"),
        Reason::Recovered { green, after } => format!("proof recovered green={green} after={}", after.rounded()),
        Reason::Released { hold } => format!("released {}", hold_token(hold)),
        Reason::StageEntered { stage, entry } => format!("stage {stage} entered entry={entry}"),
        Reason::StagePassed { stage, soaked } => format!("stage {stage} passed soaked={soaked}"),
        Reason::Started { release, previous, principal, plan_hash } => {
            let from = previous.as_ref().map(|previous| format!(" previous={previous}")).unwrap_or_default();
            format!("started release={release}{from} by={principal} plan={plan_hash}")
        }
        Reason::StreamReset { source } => format!("stream {source} reset"),
        Reason::TakingBack { cause, level, levels, set, due } => {
            let (set, due) = (settings(set, "=", " "), due.clock());
            format!("action {set} asked due={due} level={level}/{levels} why={:?}", cause_words(cause))
        }
        Reason::VerdictChanged { judgement } => judged_long(judgement),
        Reason::WouldSet { lever, to } => format!("shadow {lever}={to}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::watch::tests::{at, judgement};

    fn check(reason: &Reason, expected_short: &str, expected_long: &str) {
        let look = Look { colour: false, ascii: false };
        assert_eq!(short(reason, look).plain(), expected_short);
        assert_eq!(long(reason), expected_long);
    }

    fn lever(name: &str, to: &str) -> (LeverName, LeverValue) {
        (name.parse().unwrap(), to.parse().unwrap())
    }

    #[test]
    fn verdicts_name_number_limit_and_count() {
        check(
            &Reason::VerdictChanged { judgement: judgement("error_rate", Verdict::Fail, 7, 120) },
            "error_rate: FAIL (hard) in sjc (canary), 5.8% (7 of 120), limit 0.5%",
            "verdict error_rate fail 5.8% 7/120 limit=0.5% region=sjc cohort=canary",
        );
        check(
            &Reason::VerdictChanged { judgement: judgement("tti", Verdict::Inconclusive(Lack::NoData), 0, 0) },
            "tti: no data (hard) in sjc (canary), limit 0.5%",
            "verdict tti no_data limit=0.5% region=sjc cohort=canary",
        );
    }

    #[test]
    fn a_take_back_is_told_as_asked_applied_recovered() {
        let cause = Cause::Criterion { judgement: judgement("error_rate", Verdict::Fail, 7, 120) };
        let set = vec![lever("traffic", "0%"), lever("release", "v41")];
        check(
            &Reason::TakingBack { cause, level: 1, levels: 3, set, due: at("13:53:10") },
            "taking back, level 1 of 3: traffic 0%, release v41; due 13:53:10Z; error_rate 5.8% > 0.5% in sjc (canary)",
            "action traffic=0% release=v41 asked due=13:53:10Z level=1/3 why=\"error_rate 5.8% > 0.5% in sjc (canary)\"",
        );
        check(
            &Reason::ReadBack { level: 1, after: "9s79ms".parse().unwrap() },
            "read back: every lever of level 1, 9s after it was asked",
            "proof read_back level=1 after=9s",
        );
        check(
            &Reason::Applied { after: "19s79ms".parse().unwrap(), seen: "v41".parse().unwrap(), unseen: false },
            "applied: every lever read back, probes see v41; 19s after it was asked",
            "proof applied after=19s seen=v41",
        );
        check(
            &Reason::Applied { after: "19s".parse().unwrap(), seen: "v41".parse().unwrap(), unseen: true },
            "applied: every lever read back, no answer names its release; 19s after it was asked",
            "proof applied after=19s seen=?",
        );
        check(
            &Reason::Recovered { green: 3, after: "2m".parse().unwrap() },
            "recovered: 3 green slots, 2m after applied",
            "proof recovered green=3 after=2m",
        );
    }

    #[test]
    fn the_last_lines_begin_with_the_state_and_end_with_the_exit_code() {
        let rollout: RolloutId = "estimator/42".parse().unwrap();
        for (ending, summary, expected) in [
            (
                Ending::RolledBack,
                "v42 error_rate 5.8% > 0.5% in sjc",
                [
                    "ROLLED BACK estimator v42: error_rate 5.8% > 0.5% in sjc",
                    "next: bellwether rollout explain estimator/42    exit 1: failed and taken back",
                ],
            ),
            (
                Ending::Completed,
                "v42 completed in 3d",
                [
                    "COMPLETED estimator v42: completed in 3d",
                    "next: bellwether rollout report estimator/42    exit 0: completed",
                ],
            ),
        ] {
            assert_eq!(final_lines(&rollout, "v42", ending, summary), expected);
        }
    }

    #[test]
    fn a_pass_is_news_only_after_something_else() {
        let mut told = Told::default();
        let (pass, fail) = (Verdict::Pass, Verdict::Fail);
        for (verdict, expected) in [(pass, false), (fail, true), (fail, true), (pass, true), (pass, false)] {
            assert_eq!(told.is_news(&judgement("error_rate", verdict, 0, 120)), expected, "{verdict:?}");
        }
    }

    #[test]
    fn a_long_refusal_is_cut_and_stays_on_one_line() {
        let why = format!("a\nb{}", "x".repeat(1_000));
        let reason = Reason::CommandRefused {
            command: "c1".parse().unwrap(),
            verb: bellwether_protocol::command::Verb::Approve,
            principal: "ann".parse().unwrap(),
            why,
        };
        assert!(!long(&reason).contains('\n'));
        assert!(short(&reason, Look { colour: false, ascii: false }).plain().chars().count() < 220);
    }
}
