//! What must hold, as the short form of a plan says it: `error_ratio < 0.1%, alert 0.5%`.
//!
//! Whatever `must` can say is written so that it reads back to the same. A number with limits on
//! both sides, and classes that no probe reports, have no short form; they are written in the same
//! manner, for people.

use std::fmt;

use super::{Objective, SPEND, number};
use crate::id::Class;
use crate::ratio::Ratio;

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Burn { bad, slo, period, spend } => {
                let bad = if bad.is_empty() { String::new() } else { format!(" ({})", list(bad)) };
                let spend = if *spend == SPEND { String::new() } else { format!(", spend {spend}") };
                format!("burn{bad} {period} slo {slo}{spend}")
            }
            Self::Compare { bad, times } => format!("canary {} <= {times} baseline", share(bad)),
            Self::CompareLatency { quantile, times } => {
                let what = quantile.map_or_else(|| "latency".to_owned(), points);
                format!("canary {what} <= {times} baseline")
            }
            Self::Consecutive { slots } => format!("never {slots} slots down"),
            Self::Number { number, min, max, target } => {
                let min = min.map(|min| format!(">= {}", number::write(min)));
                let max = max.map(|max| below(target.map(number::write), &number::write(max)));
                let sides: Vec<String> = min.into_iter().chain(max).collect();
                format!("{number} {}", sides.join(", "))
            }
            Self::Quantile { quantile, max, target } => {
                format!("{} {}", points(*quantile), below(target.map(|target| target.to_string()), &max.to_string()))
            }
            Self::Ratio { bad, max, target } => {
                format!("{} {}", share(bad), below(target.map(|target| target.to_string()), &max.to_string()))
            }
            Self::Rising { number } => format!("{number} never falls"),
            Self::Stable { number, within, uptime } => {
                let uptime = uptime.as_ref().map(|uptime| format!(", uptime {uptime}")).unwrap_or_default();
                format!("{number} stable within {within} a day{uptime}")
            }
            Self::Zero { bad } if bad.is_empty() => "no errors".to_owned(),
            Self::Zero { bad } => format!("no {}", list(bad)),
        };
        f.pad(&text)
    }
}

/// `< target, alert max`, or the one limit that there is.
fn below(target: Option<String>, max: &str) -> String {
    target.map_or_else(|| format!("< {max}"), |target| format!("< {target}, alert {max}"))
}

/// `p99.9`.
fn points(quantile: Ratio) -> String {
    format!("p{}", quantile.to_string().trim_end_matches('%'))
}

/// `error_ratio`, `timeout_ratio`, `error_ratio (http_5xx, timeout)`.
fn share(bad: &[Class]) -> String {
    match bad {
        [] => "error_ratio".to_owned(),
        [class] => format!("{class}_ratio"),
        classes => format!("error_ratio ({})", list(classes)),
    }
}

fn list(classes: &[Class]) -> String {
    classes.iter().map(Class::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_read_as_sentences() {
        let number = |min, max, target| Objective::Number { number: "memory".parse().unwrap(), min, max, target };
        for (objective, text) in [
            (number(None, Some(1e9), Some(9e8)), "memory < 900MB, alert 1GB"),
            (number(Some(4.0), None, None), "memory >= 4"),
            (number(Some(4.0), Some(8.0), None), "memory >= 4, < 8"),
            (Objective::Zero { bad: Vec::new() }, "no errors"),
            (Objective::Consecutive { slots: 3 }, "never 3 slots down"),
        ] {
            assert_eq!(objective.to_string(), text);
        }
    }
}
