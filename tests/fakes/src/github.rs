//! GitHub: deployments of one repository, and their statuses.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::public::schema;
use crate::{Family, Reply, Seen};

/// As GitHub names where bodies are posted.
const DEPLOYMENTS: &str = "/repos/{owner}/{repo}/deployments";
const STATUSES: &str = "/repos/{owner}/{repo}/deployments/{deployment_id}/statuses";

/// One deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// As it was asked for.
    pub asked: Value,
    /// Its statuses, oldest first, as they were asked for.
    pub statuses: Vec<Value>,
}

/// One repository.
#[derive(Debug)]
pub struct Github {
    /// `owner/name`.
    pub repository: String,
    /// Whoever has it may do everything.
    pub token: String,
    /// Branches and tags that there are.
    pub refs: Vec<String>,
    /// Their ids are counted from 1.
    pub deployments: Vec<Deployment>,
}

impl Github {
    /// A repository without deployments.
    pub fn new(repository: &str, token: &str, refs: &[&str]) -> Self {
        let refs = refs.iter().map(|name| (*name).to_owned()).collect();
        Self { repository: repository.to_owned(), token: token.to_owned(), refs, deployments: Vec::new() }
    }

    fn shown(&self, index: usize) -> Value {
        let Some(Deployment { asked, .. }) = self.deployments.get(index) else { return Value::Null };
        json!({
            "id": index + 1, "ref": asked["ref"], "task": asked.get("task").cloned().unwrap_or("deploy".into()),
            "environment": asked["environment"], "payload": asked["payload"], "description": asked["description"],
        })
    }

    fn create(&mut self, asked: Value) -> Reply {
        let wanted = asked["ref"].as_str().unwrap_or_default().to_owned();
        if !self.refs.contains(&wanted) {
            return refusal(422, &format!("No ref found for: {wanted}"));
        }
        // Without these, GitHub merges the base branch into ours, and wants every check to be green.
        if asked["auto_merge"] != false || asked["required_contexts"] != json!([]) {
            return Reply::json(202, &json!({ "message": "Auto-merged main into the deployed branch on deployment." }));
        }
        self.deployments.push(Deployment { asked, statuses: Vec::new() });
        Reply::json(201, &self.shown(self.deployments.len() - 1))
    }

    fn list(&self, query: &str) -> Reply {
        let wanted: Vec<(&str, &str)> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let fits = |shown: &Value| {
            let own = |name: &str| wanted.iter().find(|(own, _)| *own == name).map(|(_, value)| *value);
            ["ref", "environment"].iter().all(|name| own(name).is_none_or(|value| shown[name] == value))
        };
        let newest_first = (0..self.deployments.len()).rev().map(|index| self.shown(index));
        Reply::json(200, &newest_first.filter(fits).take(100).collect())
    }
}

fn refusal(status: u16, message: &str) -> Reply {
    Reply::json(status, &json!({ "message": message, "documentation_url": "https://docs.github.com/rest" }))
}

/// What is wrong with a body that is posted to `path`, by GitHub's own description of it. Stricter in
/// one thing: an unknown field is wrong.
fn wrong(path: &str, body: &Value) -> Option<String> {
    static PATHS: LazyLock<Option<Value>> =
        LazyLock::new(|| Some(schema("github/deployments-statuses-subset.openapi.json")?["paths"].take()));
    let described = PATHS.as_ref().map(|paths| {
        let mut schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"].clone();
        schema["additionalProperties"] = Value::Bool(false);
        schema
    });
    let error = described.and_then(|schema| jsonschema::validate(&schema, body).err().map(|error| error.to_string()));
    let is_long = body["description"].as_str().is_some_and(|text| text.chars().count() > 140);
    error.or_else(|| is_long.then(|| "description is too long (maximum is 140 characters)".to_owned()))
}

impl Family for Github {
    fn answer(&mut self, request: &Seen) -> Reply {
        if request.header("user-agent").is_none_or(str::is_empty) {
            return refusal(403, "Request forbidden by administrative rules.");
        }
        if request.header("authorization") != Some(&format!("Bearer {}", self.token)) {
            return refusal(401, "Bad credentials");
        }
        if request.header("x-github-api-version") != Some("2022-11-28") {
            return refusal(400, "Unsupported API version");
        }
        let start = format!("/repos/{}/deployments", self.repository);
        let Some(rest) = request.path.strip_prefix(&start) else { return refusal(404, "Not Found") };
        let body = request.json();
        let number = rest.strip_prefix('/').and_then(|rest| rest.strip_suffix("/statuses"));
        let index = number.and_then(|number| number.parse::<usize>().ok()?.checked_sub(1));
        let index = index.filter(|index| *index < self.deployments.len());
        match (request.method.as_str(), rest, index) {
            ("GET", "", _) => self.list(&request.query),
            ("POST", "", _) => match wrong(DEPLOYMENTS, &body) {
                Some(error) => refusal(422, &error),
                None => self.create(body),
            },
            ("GET", _, Some(index)) => {
                let newest_first: Vec<&Value> = self.deployments[index].statuses.iter().rev().collect();
                Reply::json(200, &json!(newest_first))
            }
            ("POST", _, Some(index)) => match wrong(STATUSES, &body) {
                Some(error) => refusal(422, &error),
                None => {
                    self.deployments[index].statuses.push(body.clone());
                    Reply::json(201, &body)
                }
            },
            _ => refusal(404, "Not Found"),
        }
    }
}
