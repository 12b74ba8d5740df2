//! An explanation as sentences: what was decided and when, on which numbers, against which limit,
//! what was missing, what was done, and how it was seen to work.

use std::collections::BTreeMap;

use bellwether_protocol::explanation::{Explanation, Missed, Move, Standing, Users};
use bellwether_protocol::id::Region;
use bellwether_protocol::presence::Gap;
use bellwether_protocol::reason::{Cause, Ending, Judgement, Lack, Verdict};
use bellwether_protocol::sample::Cohort;

use super::amount::percent_down;
use super::{Line, count, hold_words, span};

/// Where the text of a section begins.
const MARGIN: usize = 9;

/// The lines of an explanation. `file` names the plan in them.
pub(crate) fn explain(why: &Explanation) -> Vec<String> {
    let mut lines = vec![headline(why), String::new()];
    let mut say = |section: &str, text: Vec<String>| {
        for (index, text) in text.into_iter().enumerate() {
            let name = if index == 0 { section } else { "" };
            lines.push(Line::of(format!("{name:<MARGIN$}{text}")).plain());
        }
    };
    say("DECIDED", decided(why));
    say("NUMBERS", numbers(why));
    say("LIMIT", limit(why));
    say("CAUSE", cause(why));
    say("MISSING", missing(why));
    say("DONE", done(why));
    say("SEEN", seen(why));
    say("USERS", users(why));
    say("FIRST", why.evidence.iter().map(|seen| format!("{} {}", seen.at.clock(), seen.text)).collect());
    lines.push(String::new());
    let rollout = &why.status.rollout;
    let slot = why.slots.last().map(|slot| format!(" --slot {} --region {}", slot.slot.seconds(), slot.region));
    lines.push(format!("next  evidence   bellwether rollout evidence {rollout}{}", slot.unwrap_or_default()));
    lines.push(format!("      report     bellwether rollout report {rollout}"));
    lines.push(format!("      check us   bellwether audit verify {}", rollout.service));
    lines
}

pub(super) fn headline(why: &Explanation) -> String {
    let status = &why.status;
    let (release, stage) = (&status.release, stage(why));
    let day = |at: bellwether_protocol::time::Timestamp| at.seconds().chars().take(10).collect::<String>();
    let previous = status.previous.as_ref().map(|previous| format!("; users get {previous}")).unwrap_or_default();
    match status.ending {
        Some(Ending::RolledBack) if status.stays => {
            let at = day(status.decided_at);
            format!("{release} was taken back{stage} on {at}. It stays deployed, switched off.")
        }
        Some(Ending::RolledBack) => {
            format!("{release} was taken back{stage} on {}. It is gone{previous}.", day(status.decided_at))
        }
        Some(Ending::NotTakenBack) => {
            format!("{release} failed{stage} on {} and was NOT taken back. A person must act.", day(status.decided_at))
        }
        Some(Ending::Aborted) => format!("{release} was ended by a person on {}{previous}.", day(status.decided_at)),
        Some(Ending::Completed) => {
            format!("{release} was completed on {}: every stage was left as the plan wants.", day(status.decided_at))
        }
        Some(Ending::Superseded) => {
            format!("{release} gave way to another release on {}.", day(status.decided_at))
        }
        Some(Ending::WouldTakeBack) => {
            let at = day(status.decided_at);
            format!("{release} would have been taken back{stage} on {at}. It ran in the shadow: nothing was moved.")
        }
        Some(Ending::NotStarted) => {
            let why = status.summary.as_deref().unwrap_or("nothing was moved");
            format!("{release} was not started: {why}. Nothing was moved.")
        }
        None if why.decided.is_some() => format!("{release} is being taken back{stage}."),
        None if status.holds.is_empty() => format!("{release} goes on{stage}; nothing holds it."),
        None => {
            let holds: Vec<String> = status.holds.iter().map(hold_words).collect();
            format!("{release} does not go on{stage}: {}.", holds.join("; "))
        }
    }
}

fn stage(why: &Explanation) -> String {
    use bellwether_protocol::status::StageMark;
    let is_its = |mark| matches!(mark, StageMark::Failed | StageMark::Now);
    let stage = why.status.stages.iter().find(|stage| is_its(stage.mark));
    let word = if why.decided.is_some() { "from" } else { "in" };
    stage.map(|stage| format!(" {word} {}", stage.name)).unwrap_or_default()
}

fn judged(why: &Explanation) -> Option<&Judgement> {
    why.decided.as_ref()?.cause.judgement()
}

fn decided(why: &Explanation) -> Vec<String> {
    let Some(decided) = &why.decided else {
        let status = &why.status;
        return vec![format!("{}, record {}: nothing was taken back", status.decided_at.clock(), status.record)];
    };
    let cause = match &decided.cause {
        Cause::Command { verb, principal } => format!("{principal} asked for {verb}"),
        Cause::Criterion { judgement } => {
            let hard = if judgement.hard { "hard" } else { "soft" };
            let region = judgement.region.as_ref().map(|region| format!(", {region}")).unwrap_or_default();
            format!("{} failed ({hard}){region}", judgement.criterion)
        }
        Cause::Drift { lever, to } => format!("lever {lever} was read at {to}, where this rollout did not put it"),
        Cause::Lever { lever, outcome } => format!("lever {lever} could not be set ({outcome})"),
    };
    vec![format!("{}, record {}: {cause}", decided.at.clock(), decided.record)]
}

fn numbers(why: &Explanation) -> Vec<String> {
    let Some(judged) = judged(why) else {
        // What holds no number is named where something is missing.
        return verdicts(why).filter(|j| j.cohort == Cohort::Canary && j.numbers.n > 0).map(verdict_line).collect();
    };
    let slots: Vec<String> =
        why.slots.iter().map(|slot| format!("{} {}/{}", slot.slot.clock(), slot.bad, slot.n)).collect();
    let slots = if slots.is_empty() { String::new() } else { format!("; slots {}", slots.join(", ")) };
    let mut lines = vec![format!("{} {}{slots}", who(why, judged), counts(judged))];
    let (own, others): (Vec<&Standing>, Vec<&Standing>) = (why.verdicts.iter())
        .filter(|own| own.judgement.criterion == judged.criterion && own.judgement.region.is_some())
        .partition(|own| (own.judgement.cohort, &own.judgement.region) == (judged.cohort, &judged.region));
    // Regions close their slots one after the other: a number from before is said to be one.
    let until = own.first().map(|own| own.upto);
    lines.extend(others.into_iter().map(|Standing { judgement, upto }| {
        let earlier = until.filter(|until| upto < until).map(|_| format!(", as of {}", upto.clock()));
        format!("{} {}{}", who(why, judgement), counts(judgement), earlier.unwrap_or_default())
    }));
    lines
}

fn verdicts(why: &Explanation) -> impl Iterator<Item = &Judgement> {
    why.verdicts.iter().map(|standing| &standing.judgement)
}

fn who(why: &Explanation, judged: &Judgement) -> String {
    let release = match judged.cohort {
        Cohort::Baseline => why.status.previous.as_ref().map_or_else(|| "baseline".to_owned(), ToString::to_string),
        Cohort::Canary => why.status.release.to_string(),
    };
    let region = judged.region.as_ref().map(|region| format!(" {region}")).unwrap_or_default();
    format!("{release}{region}")
}

fn counts(judged: &Judgement) -> String {
    let numbers = &judged.numbers;
    match numbers.n {
        0 => "no data".to_owned(),
        n => format!("{} of {} bad ({})", count(numbers.bad), count(n), numbers.value),
    }
}

fn verdict_line(judged: &Judgement) -> String {
    let region = judged.region.as_ref().map(|region| format!(" {region}")).unwrap_or_default();
    let proves = judged.grounds.as_ref().map(|grounds| {
        let anew = grounds.anew_from.map(|from| format!("; after a gap proven anew from {}", from.clock()));
        let bound = match judged.verdict {
            Verdict::Fail => format!("no less than {}", percent_down(grounds.low)),
            Verdict::Inconclusive(_) | Verdict::Pass => format!("up to {}", grounds.high.rounded_up()),
        };
        format!("; the data allow {bound}{}", anew.unwrap_or_default())
    });
    format!("{}{region} {}: {}{}", judged.criterion, judged.verdict, counts(judged), proves.unwrap_or_default())
}

fn limit(why: &Explanation) -> Vec<String> {
    let Some(judged) = judged(why) else { return Vec::new() };
    let file = why.plan_file.as_deref();
    let line = why.plan_line.map(|line| match file {
        Some(file) => format!(" ({file}:{line})"),
        None => format!(" (plan line {line})"),
    });
    let line = line.unwrap_or_default();
    let Some(grounds) = &judged.grounds else {
        return vec![format!("{}{line}. This criterion counts; it asks for no proof", judged.numbers.limit)];
    };
    let needed = once_in(grounds.bar.0);
    vec![
        format!(
            "{}{line}. A release at the limit does this at most 1 time in {},",
            judged.numbers.limit,
            count(grounds.luck_one_in)
        ),
        format!("whenever one looks; this test needed 1 in {}", count(needed)),
        format!(
            "explained best by {}; ln e {:.2} of {:.2}; parameters {}",
            grounds.best, grounds.ln_e_fail.0, grounds.bar.0, grounds.parameters
        ),
    ]
}

/// How seldom a bar is reached by luck. For display only; the decision compared logarithms.
fn once_in(nats: f64) -> u64 {
    nats.exp().round() as u64
}

fn cause(why: &Explanation) -> Vec<String> {
    let Some(judged) = judged(why) else { return Vec::new() };
    let baseline = verdicts(why)
        .find(|j| j.cohort == Cohort::Baseline && j.criterion == judged.criterion && j.region == judged.region);
    let day = match baseline {
        Some(baseline) if baseline.numbers.n > 0 => format!("not the day (baseline {})", counts(baseline)),
        Some(_) => "the baseline told nothing".to_owned(),
        None => "no baseline to compare with".to_owned(),
    };
    let unwell: u32 = why.slots.iter().map(|slot| slot.unwell).sum();
    let us = match unwell {
        0 => "not us (every agent that counted was well)".to_owned(),
        unwell => format!("{unwell} agents were not well in these slots, and did not count"),
    };
    vec![format!("{day}, {us}")]
}

fn missing(why: &Explanation) -> Vec<String> {
    let gap = |gap: &bellwether_protocol::explanation::Coverage| {
        let missed = gap.slots.saturating_sub(gap.covered);
        (missed > 0).then(|| format!("{}: {missed} of {} slots", gap.region, gap.slots))
    };
    let mut gaps: Vec<String> = why.covered.iter().filter_map(gap).collect();
    if gaps.is_empty() {
        gaps.push("slots: none".to_owned());
    }
    gaps.extend(why.missed.iter().map(|missed| {
        let Missed { agent, gap: Gap { sli, cohort, since, why }, until } = missed;
        let until = until.map_or_else(|| "until now".to_owned(), |until| format!("to {}", until.clock()));
        format!("{sli} of {cohort} was not measured by {agent} from {} {until}: {why}", since.clock())
    }));
    let silent = |j: &&Judgement| j.verdict == Verdict::Inconclusive(Lack::NoData) && j.cohort == Cohort::Canary;
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for judged in verdicts(why).filter(silent) {
        places.entry(judged.criterion.as_str()).or_default().extend(judged.region.as_ref().map(Region::as_str));
    }
    gaps.extend(places.iter().map(|(name, regions)| {
        let regions = if regions.is_empty() { String::new() } else { format!(" in {}", regions.join(", ")) };
        format!("{name}{regions} had too few events: no data")
    }));
    gaps
}

fn done(why: &Explanation) -> Vec<String> {
    let moved = |own: &&Move| own.is_back || why.decided.is_none();
    let line = |own: &Move| {
        let from = own.from.as_ref().map(|from| format!("{from} -> ")).unwrap_or_default();
        let answer = match (own.answered, own.outcome) {
            (Some(at), Some(outcome)) => {
                format!("{outcome} {}, read back {} of {}", at.clock(), own.done, own.targets)
            }
            _ => "not answered".to_owned(),
        };
        format!("{} {from}{}   asked {}, {answer}", own.lever, own.to, own.asked.clock())
    };
    why.moves.iter().filter(moved).map(line).collect()
}

fn users(why: &Explanation) -> Vec<String> {
    let line = |users: &Users| {
        let regions: Vec<&str> = users.regions.iter().map(Region::as_str).collect();
        let (failed, from, to) = (count(users.failed), users.from.clock(), users.to.clock());
        let requests = if users.failed == 1 { "request" } else { "requests" };
        format!("at least {failed} failed {requests}, {}, {from} to {to}", regions.join(", "))
    };
    why.users.iter().map(line).collect()
}

fn seen(why: &Explanation) -> Vec<String> {
    let Some(decided) = &why.decided else { return Vec::new() };
    let after = |at: bellwether_protocol::time::Timestamp| span(at.since(decided.at).rounded());
    let seen = if why.status.stays { Some(&why.status.release) } else { why.status.previous.as_ref() };
    let old = seen.map(ToString::to_string).unwrap_or_default();
    let applied = match why.applied {
        Some(at) => {
            let proof = if why.unseen { "no answer names its release".to_owned() } else { format!("probes saw {old}") };
            format!("applied {}, {} after the decision: every lever read back, {proof}", at.clock(), after(at))
        }
        None => "NOT seen to be applied".to_owned(),
    };
    let recovered = match why.recovered {
        Some((at, green)) => format!("recovered {}, {} after it: {green} green slots", at.clock(), after(at)),
        None => "NOT seen to be green again".to_owned(),
    };
    vec![applied, recovered]
}
