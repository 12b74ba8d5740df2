//! LaunchDarkly: one flag with two variations in one environment, by semantic patches.

use serde_json::{Value, json};

use crate::{Family, Reply, Seen, only};

/// What the API takes for a token.
pub const TOKEN: &str = "api-of-this-test";

/// What says that a patch is one of meaning, and not of JSON.
const SEMANTIC: &str = "application/json; domain-model=launchdarkly.semanticpatch";
/// The variations: id and value.
const VARIATIONS: [(&str, bool); 2] = [("id-true", true), ("id-false", false)];
/// A whole, in thousandths of a percent.
const WHOLE: u64 = 100_000;

/// The flag. Its fields may be changed behind everybody's back.
#[derive(Debug)]
pub struct LaunchDarkly {
    /// The environment `production`, as the API shows it.
    pub environment: Value,
    /// How many of the next looks still show what was before the last change.
    pub stale_looks: u32,
    /// The largest exposure so far.
    pub peak: u64,
    before: Value,
}

impl Default for LaunchDarkly {
    fn default() -> Self {
        let environment = json!({
            "on": false, "archived": false, "offVariation": 1, "fallthrough": { "variation": 1 },
            "targets": [], "contextTargets": [], "rules": [], "prerequisites": [], "version": 1,
        });
        Self { environment, stale_looks: 0, peak: 0, before: Value::Null }
    }
}

impl LaunchDarkly {
    /// The share of users that get `true`, in thousandths of a percent.
    pub fn exposure(&self) -> u64 {
        let fallthrough = match self.environment["on"] == true {
            true => self.environment["fallthrough"].clone(),
            false => json!({ "variation": self.environment["offVariation"] }),
        };
        match fallthrough["rollout"]["variations"].as_array() {
            Some(shares) => {
                shares.iter().filter(|one| one["variation"] == 0).filter_map(|one| one["weight"].as_u64()).sum()
            }
            None if fallthrough["variation"] == 0 => WHOLE,
            None => 0,
        }
    }

    fn shown(&self) -> Value {
        let variations = VARIATIONS.map(|(id, value)| json!({ "_id": id, "value": value, "name": "" }));
        json!({
            "key": "new-checkout", "kind": "boolean", "variations": variations, "archived": false,
            "environments": { "production": self.environment },
        })
    }

    fn patch(&mut self, request: &Seen) -> Result<(), String> {
        if request.header("content-type") != Some(SEMANTIC) {
            return Err(format!("the content type is not {SEMANTIC}"));
        }
        let body = request.json();
        only(body.as_object().ok_or("not an object")?, &["comment", "environmentKey", "instructions"])?;
        if body["environmentKey"] != "production" {
            return Err("environmentKey is not one of this project".to_owned());
        }
        // All of a patch, or nothing of it.
        let mut changed = self.environment.clone();
        for instruction in body["instructions"].as_array().ok_or("no instructions")? {
            follow(&mut changed, instruction)?;
        }
        changed["version"] = json!(changed["version"].as_u64().unwrap_or_default() + 1);
        self.before = self.shown();
        self.environment = changed;
        self.peak = self.peak.max(self.exposure());
        Ok(())
    }
}

fn follow(environment: &mut Value, instruction: &Value) -> Result<(), String> {
    let known: &[&str] = match instruction["kind"].as_str() {
        Some("turnFlagOff" | "turnFlagOn") => &["kind"],
        Some("updateFallthroughVariationOrRollout") => &["kind", "variationId", "rolloutWeights", "rolloutContextKind"],
        kind => return Err(format!("unknown kind {kind:?}")),
    };
    only(instruction.as_object().ok_or("not an object")?, known)?;
    let place = |id: &str| VARIATIONS.iter().position(|(own, _)| *own == id).ok_or(format!("unknown variation {id}"));
    match instruction["kind"].as_str() {
        Some("turnFlagOff") => environment["on"] = json!(false),
        Some("turnFlagOn") => environment["on"] = json!(true),
        _ => {
            environment["fallthrough"] = match (instruction["variationId"].as_str(), &instruction["rolloutWeights"]) {
                (Some(id), Value::Null) => json!({ "variation": place(id)? }),
                (None, Value::Object(weights)) => {
                    let share =
                        |(id, weight): (&String, &Value)| Ok(json!({ "variation": place(id)?, "weight": weight }));
                    let shares = weights.iter().map(share).collect::<Result<Vec<_>, String>>()?;
                    if weights.values().map(|weight| weight.as_u64().unwrap_or(WHOLE + 1)).sum::<u64>() != WHOLE {
                        return Err("the weights are not 100000 in all".to_owned());
                    }
                    json!({ "rollout": { "contextKind": "user", "variations": shares } })
                }
                _ => return Err("either variationId or rolloutWeights".to_owned()),
            }
        }
    }
    Ok(())
}

impl Family for LaunchDarkly {
    fn answer(&mut self, request: &Seen) -> Reply {
        if request.header("authorization") != Some(TOKEN) {
            return Reply::json(401, &json!({ "code": "unauthorized", "message": "invalid key" }));
        }
        if request.path != "/api/v2/flags/shop/new-checkout" {
            return Reply::json(404, &json!({ "code": "not_found", "message": "no such flag" }));
        }
        match request.method.as_str() {
            "GET" if self.stale_looks > 0 => {
                self.stale_looks -= 1;
                Reply::json(200, &self.before)
            }
            "GET" => Reply::json(200, &self.shown()),
            "PATCH" => match self.patch(request) {
                Ok(()) => Reply::json(200, &self.shown()),
                Err(why) => Reply::json(400, &json!({ "code": "invalid_request", "message": why })),
            },
            _ => Reply::json(405, &json!({ "code": "method_not_allowed", "message": "no such method" })),
        }
    }
}
