//! The service of story 3: what it answers depends on the environment of the deploy that is live.

use serde_json::{Value, json};

use super::{Deploy, Service};
use crate::Reply;

/// The flags, as environment variables; each is on when it is `true`.
pub const SITE_FLAGS: [&str; 3] =
    ["FAULT_LENS_V1_ENABLED", "FAULT_LENS_SUGGESTIONS_ENABLED", "FAULT_LENS_SIGNED_ACTIONS_ENABLED"];

/// Something that goes wrong in the service. Where it names a release, only while that one is live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SiteFault {
    /// Paths that begin so answer with a status, as many times as it says.
    Answers {
        /// Only while this is live.
        release: Option<String>,
        /// Which paths, such as `v1/actions`.
        path: String,
        /// With what.
        status: u16,
        /// For how many requests.
        times: u32,
    },
    /// The list has 11 actions: one that is not SIGNED is missing.
    ElevenActions,
    /// So many handlers are loaded, of 4.
    Handlers {
        /// Only while this is live.
        release: Option<String>,
        /// How many.
        loaded: u32,
    },
    /// A SIGNED action is among the suggestions.
    SignedSuggestion,
}

impl Service {
    /// Answers a user's request.
    pub(super) fn visit(&mut self, method: &str, path: &str) -> Reply {
        let Some(live) = self.deploys.iter().rev().find(|deploy| deploy.status == "live").cloned() else {
            return Reply::text(502, "no deploy is live");
        };
        let [v1, suggestions, signed] = SITE_FLAGS.map(|flag| live.has(flag));
        if let Some(status) = self.faulty(&live.release, path) {
            return live.says(status, json!({ "error": "INTERNAL" }));
        }
        let needs: &[bool] = match path {
            "health" => &[],
            "v1/actions/list" => &[v1],
            "v1/actions/suggestions" => &[v1, suggestions],
            "v1/actions/execute" => &[v1, signed],
            _ => return live.says(404, json!({ "error": "NOT_FOUND" })),
        };
        if !matches!((method, path), ("GET", _) | ("POST", "v1/actions/execute")) {
            return live.says(405, json!({ "error": "METHOD_NOT_ALLOWED" }));
        }
        if needs.contains(&false) {
            return live.says(503, json!({ "error": "FEATURE_DISABLED" }));
        }
        live.says(
            200,
            match path {
                "health" => {
                    let loaded = self.faults.iter().find_map(|fault| fault.loaded(&live.release)).unwrap_or(4);
                    json!({ "status": "healthy", "handlers": { "loaded": loaded, "total": 4 } })
                }
                "v1/actions/list" => {
                    let skipped = usize::from(self.faults.contains(&SiteFault::ElevenActions));
                    json!({ "actions": actions().into_iter().skip(skipped).collect::<Vec<_>>() })
                }
                "v1/actions/suggestions" => {
                    let is_wrong = self.faults.contains(&SiteFault::SignedSuggestion);
                    let actions = actions().into_iter();
                    // One takes the place of another, so that their number tells nothing.
                    json!({ "actions": actions.skip(usize::from(is_wrong)).take(11).collect::<Vec<_>>() })
                }
                _ => json!({ "result": "done" }),
            },
        )
    }

    fn faulty(&mut self, live: &str, path: &str) -> Option<u16> {
        self.faults.iter_mut().find_map(|fault| match fault {
            SiteFault::Answers { release, path: own, status, times }
                if *times > 0
                    && path.starts_with(own.as_str())
                    && release.as_ref().is_none_or(|release| release == live) =>
            {
                *times -= 1;
                Some(*status)
            }
            _ => None,
        })
    }
}

impl SiteFault {
    fn loaded(&self, live: &str) -> Option<u32> {
        match self {
            Self::Handlers { release, loaded } if release.as_ref().is_none_or(|release| release == live) => {
                Some(*loaded)
            }
            _ => None,
        }
    }
}

impl Deploy {
    fn has(&self, flag: &str) -> bool {
        self.env.get(flag).is_some_and(|value| value == "true")
    }

    fn says(&self, status: u16, mut body: Value) -> Reply {
        body["version"] = json!(self.release);
        Reply::json(status, &body)
    }
}

/// Twelve actions; the last is SIGNED.
fn actions() -> Vec<Value> {
    let plain = (1..=11).map(|n| json!({ "id": format!("inspect_{n}"), "kind": "PLAIN" }));
    plain.chain([json!({ "id": "create_work_order_from_fault", "kind": "SIGNED" })]).collect()
}
