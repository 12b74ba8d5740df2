//! What a plan's looks can show, in sentences.

use bellwether_protocol::plan::Require;
use bellwether_protocol::power::{CriterionPower, Seen, SharePower, Shows, StagePower};
use bellwether_protocol::ratio::{Ratio, Times};
use bellwether_protocol::time::Span;

use super::{Line, count, span};

/// The lines of `plan check` that say what each stage can show.
pub(crate) fn power_lines(alpha: Ratio, stages: &[StagePower]) -> Vec<String> {
    // Stages that can show the same are told of once.
    let mut told: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    for stage in stages {
        let mut lines = vec![format!("{}{}", spent(stage.alpha, stage.tests), outside(stage))];
        lines.extend(stage.criteria.iter().flat_map(|criterion| criterion_lines(stage, criterion)));
        let name = format!("{} {}", stage.stage, span(stage.soak));
        match told.iter_mut().find(|(_, known)| *known == lines) {
            Some((names, _)) => names.push(name),
            None => told.push((vec![name], lines)),
        }
    }
    let mut lines = vec![format!("error budget {alpha}: the chance that a release within every limit is taken back")];
    for (names, said) in told {
        let mut said = said.into_iter();
        lines.extend(said.next().map(|first| format!("{}   {first}", names.join(", "))));
        lines.extend(said);
    }
    lines.into_iter().map(|line| Line::of(line).plain()).collect()
}

/// What a stage may spend of the error budget, and on how many tests: only what takes the release back does.
pub(crate) fn spent(part: Ratio, tests: u64) -> String {
    let part = part.rounded_up();
    match tests {
        0 => "none spent, for no hard criterion is tested".to_owned(),
        1 => format!("{part} for 1 test"),
        more => format!("{part} for {more} tests"),
    }
}

fn outside(stage: &StagePower) -> String {
    let names: Vec<String> = stage.outside.iter().map(ToString::to_string).collect();
    if names.is_empty() { String::new() } else { format!("; outside it: {}", names.join(", ")) }
}

fn criterion_lines(stage: &StagePower, power: &CriterionPower) -> Vec<String> {
    let CriterionPower { criterion, must, per_minute, .. } = power;
    let soak = span(stage.soak);
    let at = |when: Option<Span>| {
        when.map_or_else(|| format!("not seen in {soak}"), |when| format!("seen in {}", span(when)))
    };
    let said = match &power.shows {
        Shows::Burn { times, fast, outage } => {
            format!("a burn of {times}: {}; an outage: {}", at(*fast), at(*outage))
        }
        Shows::Climb { looks } => match (looks.first(), looks.last()) {
            (Some((first, steep)), Some((last, least))) if first < last => format!(
                "the look after {} shows a climb of {} a day, the one after {} {}",
                span(*first),
                steep.rounded_up(),
                span(*last),
                least.rounded_up()
            ),
            (Some((only, least)), _) => {
                format!("the look after {} shows a climb of {} a day", span(*only), least.rounded_up())
            }
            _ => format!("no look of {soak} shows a climb of less than 100% a day"),
        },
        Shows::Compared { baseline, jumps } => {
            let jump = |(times, when): &(Times, Seen)| format!("{times} {}", seen(*when, stage.soak));
            let jumps: Vec<String> = jumps.iter().map(jump).collect();
            format!(
                "beside a baseline at {baseline} in one region, {} requests/min each: {}",
                traffic(*per_minute),
                jumps.join("; ")
            )
        }
        Shows::Lasting { slots: Some((slots, lasts)) } => {
            format!(
                "fails after {} beyond it, {}",
                if *slots == 1 { "1 slot".to_owned() } else { format!("{slots} slots") },
                span(*lasts)
            )
        }
        Shows::Lasting { slots: None } => format!("never fails in {soak}: too few events"),
        Shows::Share(share) => return share_lines(stage, power, share),
        Shows::Silence { clean, rules_out } => {
            format!("0 of {} rules out more than {}", count(*clean), rules_out.rounded_up())
        }
        Shows::Unknown => "as much as its users ask for: say `--traffic` with their requests a minute".to_owned(),
    };
    vec![format!("  {criterion}: {must}   {said}")]
}

fn share_lines(stage: &StagePower, power: &CriterionPower, share: &SharePower) -> Vec<String> {
    let criterion = &power.criterion;
    let SharePower { limit, jump, target, .. } = share;
    let clean = count(share.clean_needed);
    let soak = span(stage.soak);
    let proof = match (share.proven_in, share.require) {
        (Some(after), _) => format!("proven by {clean} clean requests, about {}", span(after)),
        (None, Require::NotFailed) => format!(
            "will not be proven in {soak} (needs {clean} clean requests): passes as not_failed, rules out > {}",
            share.rules_out.rounded_up(),
        ),
        (None, Require::Proven) => {
            format!("can not be proven in {soak} (needs {clean} clean requests): this stage will hold")
        }
    };
    let (traffic, seen) = (traffic(power.per_minute), seen(share.seen, stage.soak));
    let over = share.over.map(|over| format!(" over {}", span(over))).unwrap_or_default();
    vec![
        format!(
            "  {criterion} > {limit}{over}   a jump to {jump} in one region at {traffic} requests/min: seen {seen}"
        ),
        format!("  {criterion} < {target}{over}   {proof}"),
    ]
}

fn seen(seen: Seen, soak: Span) -> String {
    match (seen.half, seen.most) {
        (Some(half), Some(most)) => format!("half of the time within {}, 9 of 10 within {}", span(half), span(most)),
        (Some(half), None) => format!("half of the time within {}", span(half)),
        (None, _) => format!("likely not within {}", span(soak)),
    }
}

fn traffic(per_minute: f64) -> String {
    if per_minute >= 1.0 { count(per_minute.round() as u64) } else { format!("{per_minute:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_criterion_says_what_can_be_seen_of_it() {
        let hours = |hours: u64| Span::from_secs(3_600 * hours);
        let percent = |text: &str| text.parse::<Ratio>().unwrap();
        let seen = |half, most| Seen { half, most };
        let jumps =
            vec![(Times::from_milli(2_000), seen(None, None)), (Times::from_milli(5_000), seen(Some(hours(2)), None))];
        let share = SharePower {
            limit: percent("0.5%"),
            over: None,
            jump: percent("2.5%"),
            one_in: 2_000,
            seen: seen(Some(hours(1)), Some(hours(2))),
            target: percent("0.1%"),
            clean_needed: 3_534,
            proven_in: None,
            rules_out: percent("0.1234%"),
            require: Require::NotFailed,
        };
        let times = Times::from_milli(14_400);
        let slow = SharePower { over: Some(Span::from_secs(3)), proven_in: Some(hours(2)), ..share };
        for (must, shows, expected) in [
            (
                "p99.5 < 3s",
                Shows::Share(slow),
                "  it > 0.5% over 3s   a jump to 2.5% in one region at 6 requests/min: seen half of the time within 1h, 9 of 10 within 2h\n  it < 0.1% over 3s   proven by 3,534 clean requests, about 2h",
            ),
            (
                "",
                Shows::Share(share),
                "  it > 0.5%   a jump to 2.5% in one region at 6 requests/min: seen half of the time within 1h, 9 of 10 within 2h\n  it < 0.1%   will not be proven in 4h (needs 3,534 clean requests): passes as not_failed, rules out > 0.124%",
            ),
            (
                "no 5xx",
                Shows::Silence { clean: 2_880, rules_out: percent("0.1039645%") },
                "  it: no 5xx   0 of 2,880 rules out more than 0.104%",
            ),
            (
                "canary error_ratio <= 1.5x baseline",
                Shows::Compared { baseline: percent("0.1%"), jumps },
                "  it: canary error_ratio <= 1.5x baseline   beside a baseline at 0.1% in one region, 6 requests/min each: 2x likely not within 4h; 5x half of the time within 2h",
            ),
            (
                "never 3 slots down",
                Shows::Lasting { slots: Some((3, Span::from_secs(90))) },
                "  it: never 3 slots down   fails after 3 slots beyond it, 1m30s",
            ),
            ("memory < 1GB", Shows::Lasting { slots: None }, "  it: memory < 1GB   never fails in 4h: too few events"),
            (
                "burn 30d slo 99.9%",
                Shows::Burn { times, fast: Some(hours(3)), outage: None },
                "  it: burn 30d slo 99.9%   a burn of 14.4x: seen in 3h; an outage: not seen in 4h",
            ),
            (
                "memory stable within 5% a day",
                Shows::Climb { looks: vec![(hours(3), percent("32.55%")), (hours(4), percent("22.03%"))] },
                "  it: memory stable within 5% a day   the look after 3h shows a climb of 32.6% a day, the one after 4h 22.1%",
            ),
        ] {
            let power =
                CriterionPower { criterion: "it".parse().unwrap(), must: must.to_owned(), per_minute: 6.0, shows };
            assert_eq!(power_lines(percent("1%"), &[canary(vec![power])])[2..].join("\n"), expected);
        }
    }

    fn canary(criteria: Vec<CriterionPower>) -> StagePower {
        StagePower {
            stage: "canary".parse().unwrap(),
            soak: Span::from_secs(4 * 3_600),
            alpha: "1%".parse().unwrap(),
            tests: 1,
            outside: Vec::new(),
            criteria,
        }
    }

    #[test]
    fn stages_that_can_show_the_same_share_their_lines() {
        let alike = StagePower { stage: "production".parse().unwrap(), ..canary(Vec::new()) };
        let other = StagePower { tests: 2, ..alike.clone() };
        let lines = power_lines("1%".parse().unwrap(), &[canary(Vec::new()), alike, other]);
        assert_eq!(lines[1], "canary 4h, production 4h   1% for 1 test");
        assert_eq!(lines.iter().filter(|line| line.starts_with("production 4h   1% for 2 tests")).count(), 1);
    }
}
