//! What anyone with the permission may say of an SLI: a browser test, a batch job, a person.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{Class, Release};
use crate::sample::{Cohort, Level, Portion, class};
use crate::time::Timestamp;

/// Counts, or one value. Counts are sums of what happened since the last message, never totals.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Pushed {
    /// When it was measured. Absent: when it arrived, as when that slot is already over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Whose users. Absent: the canary's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cohort: Option<Cohort>,
    /// The release that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// How many, good and bad; with [`bad`](Self::bad).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// How many of them were bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bad: Option<u64>,
    /// How many of each class, `ok` among them; instead of `n` and `bad`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<Class, u64>,
    /// A number, which criteria know as `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
}

/// Why a document says nothing that can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushedError {
    /// More bad than there were.
    #[error("`bad` is more than `n`")]
    MoreBad,
    /// A value that is no number.
    #[error("`value` is not a finite number")]
    NotFinite,
    /// Neither one nor another kind of content, or two of them.
    #[error("write `n` and `bad`, or `classes`, or `value`")]
    Shape,
    /// More than [`PUSHED_CLASSES_MAX`] classes.
    #[error("over {PUSHED_CLASSES_MAX} classes")]
    TooManyClasses,
}

/// Longest document, in bytes.
pub const PUSHED_LEN_MAX: usize = 16 * 1024;
/// Most classes of one document.
pub const PUSHED_CLASSES_MAX: usize = 20;

impl Pushed {
    /// What it counts.
    ///
    /// # Errors
    /// When that is not clear.
    pub fn portion(&self) -> Result<Portion, PushedError> {
        let named = |name: &str, count: u64| name.parse().ok().map(|class: Class| (class, count));
        let empty = Portion { release: self.release.clone(), ..Portion::default() };
        match (self.n, self.bad, self.classes.len(), self.value) {
            (Some(n), Some(bad), 0, None) => {
                let good = n.checked_sub(bad).ok_or(PushedError::MoreBad)?;
                let classes = [named(class::OK, good), named(class::BAD, bad)];
                let classes = classes.into_iter().flatten().filter(|(name, count)| class::is_ok(name) || *count > 0);
                Ok(Portion { classes: classes.collect(), ..empty })
            }
            (None, None, 1.., None) if self.classes.len() > PUSHED_CLASSES_MAX => Err(PushedError::TooManyClasses),
            (None, None, 1.., None) => Ok(Portion { classes: self.classes.clone(), ..empty }),
            (None, None, 0, Some(value)) if value.is_finite() => Ok(Portion {
                classes: named(class::OK, 1).into_iter().collect(),
                numbers: "value".parse().ok().map(|name| (name, Level::one(value))).into_iter().collect(),
                ..empty
            }),
            (None, None, 0, Some(_)) => Err(PushedError::NotFinite),
            _ => Err(PushedError::Shape),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_says_one_thing_or_nothing() {
        let check = |text: &str, expected: Result<&str, PushedError>| {
            let pushed: Pushed = serde_json::from_str(text).unwrap();
            let shown = |portion: Portion| {
                let classes: Vec<String> =
                    portion.classes.iter().map(|(name, count)| format!("{name} {count}")).collect();
                let numbers: Vec<String> =
                    portion.numbers.iter().map(|(name, l)| format!("{name} {}", l.last)).collect();
                [classes, numbers].concat().join(", ")
            };
            assert_eq!(pushed.portion().map(shown), expected.map(str::to_owned), "{text}");
        };
        check(r#"{"n": 10, "bad": 3}"#, Ok("bad 3, ok 7"));
        check(r#"{"n": 0, "bad": 0, "unknown": 1}"#, Ok("ok 0"));
        check(r#"{"classes": {"ok": 5, "lost": 1}}"#, Ok("lost 1, ok 5"));
        check(r#"{"value": 2.5}"#, Ok("ok 1, value 2.5"));
        check(r#"{"n": 1, "bad": 2}"#, Err(PushedError::MoreBad));
        for text in ["{}", r#"{"n": 1}"#, r#"{"bad": 1}"#, r#"{"n": 1, "bad": 0, "value": 1}"#, r#"{"classes": {}}"#] {
            check(text, Err(PushedError::Shape));
        }
        let many: Vec<String> = (0..30).map(|n| format!(r#""c{n}": 1"#)).collect();
        check(&format!(r#"{{"classes": {{{}}}}}"#, many.join(",")), Err(PushedError::TooManyClasses));
    }
}
