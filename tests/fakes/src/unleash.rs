//! Unleash 7.5.1: one feature in one environment, by the admin API.
//!
//! As the real one does, it makes an environment that is switched on without a strategy serve
//! everybody, takes a second strategy without a word, and believes a rollout of 150 %.

use serde_json::{Map, Value, json};

use crate::{Family, Reply, Seen, only};

/// What the API takes for a token.
pub const TOKEN: &str = "default:production.of-this-test";

/// Where the feature is.
const PLACE: &str = "/api/admin/projects/default/features/new-checkout/environments/production";

/// The feature. Its fields may be changed behind everybody's back.
#[derive(Debug, Default)]
pub struct Unleash {
    /// Whether it is switched on.
    pub enabled: bool,
    /// Its strategies, as the API shows them.
    pub strategies: Vec<Value>,
    /// How many of the next looks still show what was before the last change.
    pub stale_looks: u32,
    /// The largest exposure so far.
    pub peak: u32,
    before: Value,
    count: u32,
}

impl Unleash {
    /// The share of users that get the feature, in percent, as clients would work it out: strategies add up.
    pub fn exposure(&self) -> u32 {
        let rollout = |strategy: &Value| strategy["parameters"]["rollout"].as_str()?.parse().ok();
        let most = self.strategies.iter().filter_map(rollout).max();
        if self.enabled { most.unwrap_or(100) } else { 0 }
    }

    fn shown(&self) -> Value {
        json!({
            "name": "production", "environment": "production", "featureName": "new-checkout", "type": "production",
            "enabled": self.enabled, "strategies": self.strategies, "sortOrder": 1,
        })
    }

    fn look(&mut self) -> Reply {
        if self.stale_looks > 0 {
            self.stale_looks -= 1;
            return Reply::json(200, &self.before);
        }
        Reply::json(200, &self.shown())
    }

    fn switch(&mut self, on: bool) -> Reply {
        self.enabled = on;
        if on && self.strategies.is_empty() {
            self.add(
                "flexibleRollout",
                json!({ "rollout": "100", "stickiness": "default", "groupId": "new-checkout" }),
            );
        }
        Reply::text(200, "")
    }

    fn add(&mut self, name: &str, parameters: Value) -> Value {
        self.count += 1;
        let strategy = json!({
            "id": format!("strategy-{}", self.count), "name": name, "disabled": false, "parameters": parameters,
            "constraints": [], "segments": [], "variants": [], "sortOrder": self.count,
        });
        self.strategies.push(strategy.clone());
        strategy
    }

    fn create(&mut self, body: &Value) -> Reply {
        let known = ["name", "title", "disabled", "sortOrder", "constraints", "variants", "parameters", "segments"];
        let checked = only(body.as_object().unwrap_or(&Map::new()), &known);
        match (checked, body["name"].as_str(), body["parameters"].as_object()) {
            (Err(odd), ..) => bad(&odd),
            (Ok(()), Some(name), Some(parameters)) if parameters.values().all(Value::is_string) => {
                let strategy = self.add(name, json!(parameters));
                Reply::json(200, &strategy)
            }
            _ => bad("must have a name, and parameters that are strings"),
        }
    }

    fn patch(&mut self, id: &str, body: &Value) -> Reply {
        let Some(strategy) = self.strategies.iter_mut().find(|strategy| strategy["id"] == id) else {
            return missing("strategy");
        };
        for change in body.as_array().into_iter().flatten() {
            let old = change["path"].as_str().and_then(|path| strategy.pointer_mut(path));
            match (change["op"].as_str(), old) {
                (Some("replace"), Some(old)) if change["value"].is_string() => *old = change["value"].clone(),
                _ => return bad("not a replacement of what is there"),
            }
        }
        Reply::json(200, strategy)
    }
}

impl Family for Unleash {
    fn answer(&mut self, request: &Seen) -> Reply {
        if request.header("authorization") != Some(TOKEN) {
            return Reply::json(401, &json!({ "message": "You must log in to use Unleash." }));
        }
        let Some(rest) = request.path.strip_prefix(PLACE) else { return missing("feature") };
        if request.method == "GET" && rest.is_empty() {
            return self.look();
        }
        let before = self.shown();
        let reply = match (request.method.as_str(), rest.trim_start_matches('/'), request.body.is_empty()) {
            ("POST", "on", true) => self.switch(true),
            ("POST", "off", true) => self.switch(false),
            ("POST", "strategies", false) => self.create(&request.json()),
            ("PATCH", path, false) => match path.strip_prefix("strategies/") {
                Some(id) => self.patch(id, &request.json()),
                None => missing("path"),
            },
            _ => missing("path"),
        };
        self.before = before;
        self.peak = self.peak.max(self.exposure());
        reply
    }
}

fn bad(message: &str) -> Reply {
    Reply::json(400, &json!({ "name": "BadDataError", "message": message, "details": [{ "message": message }] }))
}

fn missing(what: &str) -> Reply {
    Reply::json(404, &json!({ "name": "NotFoundError", "message": format!("could not find the {what}") }))
}
