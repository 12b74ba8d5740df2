//! Render, as its API is written down, and a service of story 3 that runs on it.
//!
//! `/v1/…` is the API. A deploy takes a step each time its service's deploys are looked at, so that
//! whoever waits must look; environment variables are taken up when a deploy is created, and seen by
//! users when it is live. `/<service>/…` is the service itself, as the live deploy answers; its
//! `$.version` is the commit or image that runs.

mod site;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{Family, Reply, Seen, only};

pub use site::{SITE_FLAGS, SiteFault};

/// What the API takes for a token.
pub const TOKEN: &str = "rnd_of_this_test";

/// What a deploy goes through, one step per look.
const STEPS: [&str; 4] = ["created", "build_in_progress", "update_in_progress", "live"];

/// An account with its services.
#[derive(Debug, Default)]
pub struct Render {
    services: BTreeMap<String, Service>,
    count: u32,
}

/// One service. Its fields may be changed to script what it does next.
#[derive(Debug, Default)]
pub struct Service {
    /// The head of its branch: what a deploy takes that names no commit.
    pub head: String,
    /// What is set now; a deploy takes it up when it is created.
    pub env: BTreeMap<String, String>,
    /// `yes` or `no`, and on demand what is neither.
    pub auto_deploy: String,
    /// Looks that each step of a deploy takes.
    pub looks_per_step: u32,
    /// How many deploys back Render still has what was built.
    pub retained: usize,
    /// How the next deploys end, instead of `live`, one each.
    pub endings: Vec<&'static str>,
    /// A status that is shown instead of those on the way to live.
    pub odd_status: Option<&'static str>,
    /// How many of the next asked deploys are only accepted: 202 without a body, and in the list one look later.
    pub accepted_only: u32,
    /// What goes wrong in the service itself.
    pub faults: Vec<SiteFault>,
    deploys: Vec<Deploy>,
}

#[derive(Debug, Clone)]
struct Deploy {
    id: String,
    number: u32,
    release: String,
    trigger: &'static str,
    status: &'static str,
    ending: &'static str,
    looks: u32,
    is_hidden: bool,
    env: BTreeMap<String, String>,
}

impl Render {
    /// Adds a service on which `release` is live, with all of [`SITE_FLAGS`] at `true`.
    pub fn service(mut self, id: &str, release: &str) -> Self {
        let env = SITE_FLAGS.map(|flag| (flag.to_owned(), "true".to_owned())).into();
        let (head, auto_deploy) = (release.to_owned(), "yes".to_owned());
        let mut service = Service { head, env, auto_deploy, looks_per_step: 1, retained: 10, ..Service::default() };
        self.count += 1;
        service.begin(self.count, release, "manual");
        service.settle();
        self.services.insert(id.to_owned(), service);
        self
    }

    /// A service to look at, or to change behind everybody's back.
    ///
    /// # Panics
    /// When it was never added.
    #[expect(clippy::expect_used, reason = "a test names a service that it did not add")]
    pub fn of(&mut self, id: &str) -> &mut Service {
        self.services.get_mut(id).expect("a service of this fake")
    }

    /// Someone pushes to the branch of `id`; Render deploys it when auto-deploy is on.
    pub fn push(&mut self, id: &str, commit: &str) {
        self.count += 1;
        let number = self.count;
        let service = self.of(id);
        service.head = commit.to_owned();
        if service.auto_deploy == "yes" {
            service.begin(number, commit, "new_commit");
        }
    }

    /// Someone deploys `release` in Render's own pages.
    pub fn deploy_by_hand(&mut self, id: &str, release: &str) {
        self.count += 1;
        let number = self.count;
        self.of(id).begin(number, release, "manual");
    }

    /// What it answers; an error is what it refuses with.
    fn api(&mut self, request: &Seen, path: &[&str]) -> Result<Reply, Reply> {
        if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
            return Err(error(401, "unauthorized"));
        }
        let ["services", id, rest @ ..] = path else { return Err(error(404, "not found")) };
        let service = self.services.get_mut(*id).ok_or_else(|| error(404, "no such service"))?;
        match (request.method.as_str(), rest) {
            ("GET", []) => Ok(service.shown(id)),
            ("PATCH", []) => service.patch(id, request),
            ("GET", ["env-vars", key]) => service.env_var(key),
            ("PUT", ["env-vars", key]) => service.set_env_var(key, request),
            ("GET", ["deploys"]) => service.list(request),
            ("POST", ["deploys"]) => {
                self.count += 1;
                service.ask(self.count, request)
            }
            ("POST", ["rollback"]) => {
                self.count += 1;
                service.roll_back(self.count, request)
            }
            ("GET", ["deploys", deploy]) => service.one(deploy),
            ("POST", ["deploys", deploy, "cancel"]) => service.cancel(deploy),
            _ => Err(error(404, "not found")),
        }
    }
}

impl Family for Render {
    fn answer(&mut self, request: &Seen) -> Reply {
        let path: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        match path.as_slice() {
            ["v1", rest @ ..] => self.api(request, rest).unwrap_or_else(|refused| refused),
            [id, rest @ ..] if self.services.contains_key(*id) => {
                let rest = rest.join("/");
                self.of(id).visit(&request.method, &rest)
            }
            _ => Reply::text(404, "not found"),
        }
    }
}

impl Service {
    /// The commit or image that is live.
    pub fn live(&self) -> Option<&str> {
        self.deploys.iter().rev().find(|deploy| deploy.status == "live").map(|deploy| deploy.release.as_str())
    }

    /// Every deploy so far, oldest first: trigger, release and status.
    pub fn deploys(&self) -> Vec<(&str, &str, &str)> {
        self.deploys.iter().map(|deploy| (deploy.trigger, deploy.release.as_str(), deploy.status)).collect()
    }

    /// Brings every deploy to its end, in order.
    pub fn settle(&mut self) {
        while self.deploys.iter().any(Deploy::is_open) {
            self.step();
        }
    }

    fn begin(&mut self, number: u32, release: &str, trigger: &'static str) -> &mut Deploy {
        let ending = if self.endings.is_empty() { "live" } else { self.endings.remove(0) };
        let (id, release, env) = (format!("dep-{number:06}"), release.to_owned(), self.env.clone());
        let (status, looks, is_hidden) = ("created", 0, false);
        let at = self.deploys.len();
        self.deploys.push(Deploy { id, number, release, trigger, status, ending, looks, is_hidden, env });
        &mut self.deploys[at]
    }

    /// One look further; the newest deploy that gets there is live, and ends those before it.
    fn step(&mut self) {
        let per_step = self.looks_per_step.max(1);
        let mut live = None;
        for (at, deploy) in self.deploys.iter_mut().enumerate().filter(|(_, deploy)| deploy.is_open()) {
            deploy.looks += 1;
            let step = usize::try_from(deploy.looks / per_step).unwrap_or(usize::MAX);
            deploy.status = match STEPS.get(step) {
                None | Some(&"live") => deploy.ending,
                Some(status) => status,
            };
            if deploy.status == "live" {
                live = Some(at);
            }
        }
        for deploy in self.deploys.iter_mut().take(live.unwrap_or_default()) {
            match deploy.status {
                "live" => deploy.status = "deactivated",
                _ if deploy.is_open() => deploy.status = "canceled",
                _ => {}
            }
        }
    }

    fn shown(&self, id: &str) -> Reply {
        Reply::json(200, &json!({ "id": id, "autoDeploy": self.auto_deploy, "suspended": "not_suspended" }))
    }

    fn patch(&mut self, id: &str, request: &Seen) -> Result<Reply, Reply> {
        match fields(request, &["autoDeploy"], &[])?["autoDeploy"].as_str() {
            Some(word @ ("yes" | "no")) => self.auto_deploy = word.to_owned(),
            _ => return Err(error(400, "autoDeploy must be yes or no")),
        }
        Ok(self.shown(id))
    }

    fn env_var(&self, key: &str) -> Result<Reply, Reply> {
        let value = self.env.get(key).ok_or_else(|| error(404, "no such environment variable"))?;
        Ok(Reply::json(200, &json!({ "key": key, "value": value })))
    }

    fn set_env_var(&mut self, key: &str, request: &Seen) -> Result<Reply, Reply> {
        let body = fields(request, &["value"], &[])?;
        let value = body["value"].as_str().ok_or_else(|| error(400, "value must be a string"))?;
        self.env.insert(key.to_owned(), value.to_owned());
        self.env_var(key)
    }

    fn list(&mut self, request: &Seen) -> Result<Reply, Reply> {
        let limit = request.query.split('&').find_map(|pair| pair.strip_prefix("limit="));
        let limit = limit.map_or(Ok(20), str::parse::<usize>).ok().filter(|limit| (1..=100).contains(limit));
        let limit = limit.ok_or_else(|| error(400, "limit must be 1 to 100"))?;
        self.step();
        let seen = self.deploys.iter().rev().filter(|deploy| !deploy.is_hidden).take(limit);
        let list: Vec<Value> =
            seen.map(|deploy| json!({ "deploy": self.deploy(deploy), "cursor": deploy.id })).collect();
        self.deploys.iter_mut().for_each(|deploy| deploy.is_hidden = false);
        Ok(Reply::json(200, &json!(list)))
    }

    fn one(&mut self, id: &str) -> Result<Reply, Reply> {
        self.step();
        let found = self.deploys.iter().find(|deploy| deploy.id == id).ok_or_else(no_such_deploy)?;
        Ok(Reply::json(200, &self.deploy(found)))
    }

    fn ask(&mut self, number: u32, request: &Seen) -> Result<Reply, Reply> {
        let known = ["commitId", "imageUrl", "artifactId", "clearCache", "deployMode"];
        let body = fields(request, &[], &known)?;
        let has = |key| body.contains_key(key);
        let text = |key| body.get(key).and_then(Value::as_str);
        if text("deployMode") == Some("deploy_only") && ["commitId", "imageUrl", "clearCache"].into_iter().any(has) {
            return Err(error(400, "deploy_only takes no commitId, imageUrl or clearCache"));
        }
        if has("commitId") && has("imageUrl") {
            return Err(error(400, "commitId and imageUrl exclude each other"));
        }
        let release = text("commitId").or(text("imageUrl")).unwrap_or(&self.head).to_owned();
        self.begin(number, &release, "api");
        self.taken()
    }

    fn roll_back(&mut self, number: u32, request: &Seen) -> Result<Reply, Reply> {
        let body = fields(request, &["deployId"], &[])?;
        let id = body["deployId"].as_str().unwrap_or_default();
        let wanted = self.deploys.iter().find(|deploy| deploy.id == id).ok_or_else(no_such_deploy)?;
        let mut kept = self.deploys.iter().rev().filter(|deploy| deploy.was_live());
        let place = kept.position(|deploy| deploy.id == id).ok_or_else(|| error(400, "that deploy was never live"))?;
        if place > self.retained {
            return Err(error(400, "what that deploy built is not kept any more"));
        }
        let release = wanted.release.clone();
        self.begin(number, &release, "rollback");
        self.taken()
    }

    /// The answer to an asked deploy: the deploy, or only that it was accepted.
    fn taken(&mut self) -> Result<Reply, Reply> {
        let last = self.deploys.last_mut().ok_or_else(no_such_deploy)?;
        if self.accepted_only > 0 {
            self.accepted_only -= 1;
            last.is_hidden = true;
            last.status = "queued";
            return Ok(Reply::text(202, ""));
        }
        let last = last.clone();
        Ok(Reply::json(201, &self.deploy(&last)))
    }

    fn cancel(&mut self, id: &str) -> Result<Reply, Reply> {
        let found = self.deploys.iter_mut().find(|deploy| deploy.id == id).ok_or_else(no_such_deploy)?;
        if !found.is_open() {
            return Err(error(400, "that deploy is over"));
        }
        found.status = "canceled";
        let found = found.clone();
        Ok(Reply::json(200, &self.deploy(&found)))
    }

    fn deploy(&self, deploy: &Deploy) -> Value {
        let status = self.odd_status.filter(|_| deploy.is_open()).unwrap_or(deploy.status);
        let at = format!("2026-11-01T00:00:00.{:06}Z", deploy.number);
        let mut shown = json!({ "id": deploy.id, "status": status, "trigger": deploy.trigger, "createdAt": at });
        match deploy.release.contains(['/', ':']) {
            true => shown["image"] = json!({ "ref": deploy.release }),
            false => shown["commit"] = json!({ "id": deploy.release, "message": "a change", "createdAt": at }),
        }
        shown
    }
}

impl Deploy {
    fn is_open(&self) -> bool {
        self.status == "queued" || STEPS[..3].contains(&self.status)
    }

    fn was_live(&self) -> bool {
        matches!(self.status, "live" | "deactivated")
    }
}

/// The body's fields: all that are `needed`, and none besides those that `may` be there.
fn fields(request: &Seen, needed: &[&str], may: &[&str]) -> Result<Map<String, Value>, Reply> {
    let body = if request.body.is_empty() { json!({}) } else { request.json() };
    let Value::Object(body) = body else { return Err(error(400, "the body is not an object")) };
    only(&body, &[needed, may].concat()).map_err(|odd| error(400, &odd))?;
    match needed.iter().find(|key| !body.contains_key(**key)) {
        Some(missing) => Err(error(400, &format!("missing field {missing}"))),
        None => Ok(body),
    }
}

fn no_such_deploy() -> Reply {
    error(404, "no such deploy")
}

fn error(status: u16, message: &str) -> Reply {
    Reply::json(status, &json!({ "id": "req-1", "message": message }))
}
