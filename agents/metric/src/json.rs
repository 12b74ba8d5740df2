//! The kind `json`: numbers out of a JSON endpoint of the service.
//!
//! ```yaml
//! json:
//!   path: /api/health
//!   numbers: { memory_share: { json: $.checks.memory.message, part: 1, of: 2 }, keys: { json: $.keys, len: true } }
//! ```
//!
//! Numbers are read as the probe `http` reads them. It judges no answer: one that is not 200 to 299, not
//! JSON, or without one of its numbers is missing, and never an error of the service.

use std::collections::BTreeMap;
use std::sync::Arc;

use bellwether_protocol::assignment::Look;
use bellwether_protocol::id::NumberName;
use bellwether_protocol::plan::Flaw;
use bellwether_protocol::sample::{Level, Portion, class};
use bellwether_protocol::time::Timestamp;
use bellwether_runtime::web::{Answer, Dialer, Flaws, Number};
use serde_json::Value;

use crate::endpoint::Endpoint;
use crate::found::{Found, Missing, Reading};

/// One endpoint, and the numbers in its answer.
pub(crate) struct Json {
    endpoint: Endpoint,
    numbers: BTreeMap<NumberName, Number>,
}

pub(crate) fn flaws(settings: &Value) -> Vec<Flaw> {
    read(settings).err().unwrap_or_default()
}

fn read(settings: &Value) -> Result<(String, BTreeMap<NumberName, Number>), Vec<Flaw>> {
    let mut flaws = Flaws::default();
    let nothing = serde_json::Map::new();
    let fields = flaws.object(settings, "").unwrap_or(&nothing);
    flaws.only(fields, "", &["path", "numbers"]);
    let read = (flaws.path(fields.get("path")), flaws.numbers(fields.get("numbers")));
    if read.1.is_empty() {
        flaws.add(
            "/numbers",
            "no numbers are read",
            "write for example `numbers: { keys: { json: $.keys, len: true } }`",
        );
    }
    flaws.none_in(read)
}

impl Json {
    /// Reads settings, and checks that the endpoint may be read.
    pub(crate) fn read(look: &Look, dialer: &Arc<Dialer>) -> Result<Self, String> {
        let (path, numbers) = read(&look.settings).map_err(|flaws| crate::told(&flaws))?;
        Ok(Self { endpoint: Endpoint::new(look, &path, dialer)?, numbers })
    }

    /// Reads all numbers, or none.
    pub(crate) async fn look(&self, now: Timestamp) -> Reading {
        let (headers, body) = self.endpoint.get().await?;
        let missing = |why: String| Missing(format!("{}: {why}", self.endpoint.name()));
        let json: Value = serde_json::from_slice(&body).map_err(|_| missing("the body is not JSON".to_owned()))?;
        let mark = self.endpoint.target.fingerprint.as_ref();
        let release = mark.and_then(|mark| mark.read(&headers, Some(&json)));
        let answer = Answer { status: 200, headers, text: String::new(), json: Some(json), secrets: Vec::new() };
        let mut portion = Portion { release, classes: [(class::ok(), 1)].into(), ..Portion::default() };
        for (name, number) in &self.numbers {
            let value = number.read(&answer).ok_or_else(|| missing(format!("number `{name}` is not there")))?;
            portion.numbers.insert(name.clone(), Level::one(value));
        }
        Ok(vec![Found::new(now, portion)])
    }
}
