//! The kind `pushed`: whatever anyone with the permission says of an SLI. It has no settings.
//!
//! A document that says nothing that can be counted is counted itself, told once, and is never a verdict.
//! Where nothing is said there is no sample.

use std::collections::BTreeSet;

use bellwether_protocol::codec::from_json;
use bellwether_protocol::id::Class;
use bellwether_protocol::plan::Flaw;
use bellwether_protocol::pushed::{PUSHED_LEN_MAX, Pushed as Document};
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::found::{Found, Missing, Reading};
use crate::hear::Ear;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {}

/// What is said on one subject, of one cohort.
#[derive(Debug)]
pub(crate) struct Pushed {
    ear: Ear,
    counter: Counter,
    refused: u64,
}

/// Counts documents of one cohort.
#[derive(Debug)]
struct Counter {
    cohort: Cohort,
    classes: BTreeSet<Class>,
}

/// Most classes that are told apart over the life of a look.
const CLASSES_MAX: usize = 50;

pub(crate) fn flaws(settings: &Value) -> Vec<Flaw> {
    crate::settings::<Settings>(settings).err().unwrap_or_default()
}

impl Pushed {
    /// Reads settings; `ear` hears what is said.
    pub(crate) fn read(settings: &Value, cohort: Cohort, ear: Ear) -> Result<Self, String> {
        let Settings {} = crate::settings(settings).map_err(|flaws| crate::told(&flaws))?;
        Ok(Self { ear, counter: Counter { cohort, classes: BTreeSet::new() }, refused: 0 })
    }

    /// Takes what was said since the last reading.
    pub(crate) async fn look(&mut self, now: Timestamp) -> Reading {
        let mut found = Vec::new();
        for body in self.ear.take().await? {
            match self.counter.count(&body, now) {
                Ok(one) => found.extend(one),
                Err(Missing(why)) => {
                    self.refused += 1;
                    let (subject, refused) = (&self.ear.subject, self.refused);
                    if refused == 1 {
                        tracing::warn!(subject, why, "a pushed document was refused; later ones are only counted");
                    } else {
                        tracing::debug!(subject, why, refused, "a pushed document was refused");
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Counter {
    /// What a document counts; nothing when it is of another cohort.
    fn count(&mut self, body: &[u8], now: Timestamp) -> Result<Option<Found>, Missing> {
        if body.len() > PUSHED_LEN_MAX {
            return Err(Missing(format!("over {PUSHED_LEN_MAX} bytes")));
        }
        let document: Document = from_json("pushed document", body).map_err(|error| {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
            Missing(format!("{error}{}", source.unwrap_or_default()))
        })?;
        if document.cohort.unwrap_or(Cohort::Canary) != self.cohort {
            return Ok(None);
        }
        let portion = document.portion().map_err(|error| Missing(error.to_string()))?;
        let new: Vec<Class> = portion.classes.keys().filter(|name| !self.classes.contains(*name)).cloned().collect();
        if self.classes.len() + new.len() > CLASSES_MAX {
            return Err(Missing(format!("over {CLASSES_MAX} classes in all")));
        }
        self.classes.extend(new);
        Ok(Some(Found::new(document.at.unwrap_or(now), portion)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_counted_or_refused() {
        let mut counter = Counter { cohort: Cohort::Canary, classes: BTreeSet::new() };
        let mut count = |text: &str| {
            let found = counter.count(text.as_bytes(), Timestamp::from_ms(9_000));
            found.map(|found| found.map(|found| (found.at.as_ms(), found.portion.n()))).map_err(|missing| missing.0)
        };
        assert_eq!(count(r#"{"n": 10, "bad": 3}"#), Ok(Some((9_000, 10))));
        assert_eq!(count(r#"{"at": "1970-01-01T00:00:05Z", "value": 1, "cohort": "canary"}"#), Ok(Some((5_000, 1))));
        assert_eq!(count(r#"{"n": 10, "bad": 3, "cohort": "baseline"}"#), Ok(None));
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"n": -1, "bad": 0}"#,
            r#"{"n": 1, "bad": 2}"#,
            r#"{"value": 1e999}"#,
            r#"{"classes": {"a b": 1}}"#,
        ] {
            assert!(count(wrong).is_err(), "`{wrong}` was counted");
        }
        assert!(count(&format!(r#"{{"n": 1, "bad": 0, "x": "{}"}}"#, "y".repeat(PUSHED_LEN_MAX))).is_err());
        let many: Vec<bool> = (0..60).map(|n| count(&format!(r#"{{"classes": {{"c{n}": 1}}}}"#)).is_ok()).collect();
        assert_eq!(many.iter().filter(|is_counted| **is_counted).count(), 48, "`ok` and `bad` were there before");
        assert_eq!(flaws(&serde_json::json!({"a": 1})).len(), 1);
    }
}
