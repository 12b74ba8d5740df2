//! What a plan's looks can show, in sentences.

use bellwether_protocol::plan::Require;
use bellwether_protocol::power::{CriterionPower, StagePower};
use bellwether_protocol::ratio::Ratio;

use super::amount::percent_up;
use super::{Line, count, span};

/// The lines of `plan check` that say what each stage can show.
pub(crate) fn power_lines(alpha: Ratio, stages: &[StagePower]) -> Vec<String> {
    let mut lines = vec![format!("error budget {alpha}: the chance that a release within every limit is taken back")];
    for stage in stages {
        lines.push(format!(
            "{} {}   {} of it, shared by {}{}",
            stage.stage,
            span(stage.soak),
            percent_up(stage.alpha),
            if stage.tests == 1 { "1 test".to_owned() } else { format!("{} tests", stage.tests) },
            outside(stage),
        ));
        lines.extend(stage.criteria.iter().flat_map(|criterion| criterion_lines(stage, criterion)));
    }
    lines.into_iter().map(|line| Line::of(line).plain()).collect()
}

fn outside(stage: &StagePower) -> String {
    let names: Vec<String> = stage.outside.iter().map(ToString::to_string).collect();
    if names.is_empty() { String::new() } else { format!("; outside it: {}", names.join(", ")) }
}

fn criterion_lines(stage: &StagePower, power: &CriterionPower) -> [String; 2] {
    let CriterionPower { criterion, limit, jump, target, .. } = power;
    let traffic = traffic(power.per_minute);
    let seen = match (power.seen_half, power.seen_most) {
        (Some(half), Some(most)) => format!("half of the time within {}, 9 of 10 within {}", span(half), span(most)),
        (Some(half), None) => format!("half of the time within {}", span(half)),
        (None, _) => format!("likely not within {}", span(stage.soak)),
    };
    let clean = count(power.clean_needed);
    let proof = match (power.proven_in, power.require) {
        (Some(after), _) => format!("proven by {clean} clean requests, about {}", span(after)),
        (None, Require::NotFailed) => format!(
            "will not be proven in {} (needs {clean} clean requests): passes as not_failed, rules out > {}",
            span(stage.soak),
            percent_up(power.rules_out),
        ),
        (None, Require::Proven) => {
            format!("can not be proven in {} (needs {clean} clean requests): this stage will hold", span(stage.soak))
        }
    };
    [
        format!("  {criterion} > {limit}   a jump to {jump} in one region at {traffic} requests/min: seen {seen}"),
        format!("  {criterion} < {target}   {proof}"),
    ]
}

fn traffic(per_minute: f64) -> String {
    if per_minute >= 1.0 { count(per_minute.round() as u64) } else { format!("{per_minute:.2}") }
}
