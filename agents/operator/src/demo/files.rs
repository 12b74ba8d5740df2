//! The files of the demo: agents as anybody would configure them, and the repository's own plan
//! with this machine's addresses. Pure.

use std::collections::BTreeMap;
use std::path::Path;

/// The plan's file name.
pub(super) const PLAN: &str = "shop.yaml";
/// The plan that the repository keeps and tests.
const SHOP: &str = include_str!("../../../../tests/plans/shop.yaml");
/// Where that plan says the service is, by region.
const WRITTEN: [(&str, &str); 3] =
    [("staging", "http://127.0.0.1:8001"), ("east", "http://127.0.0.1:8002"), ("west", "http://127.0.0.1:8003")];

/// What the files depend on.
#[derive(Debug)]
pub(super) struct Setting<'a> {
    pub(super) dir: &'a Path,
    /// This program, which also is the sample site's command-line tool.
    pub(super) program: &'a Path,
    pub(super) nats: &'a str,
    /// The sample site's platform side.
    pub(super) admin: &'a str,
    /// The sample site, by region.
    pub(super) site: &'a BTreeMap<String, String>,
    /// Where alerts are posted.
    pub(super) hook: &'a str,
}

/// One agent: its role, its region, its name and the rest of its file.
#[derive(Debug)]
pub(super) struct AgentFile {
    pub(super) role: &'static str,
    pub(super) region: &'static str,
    pub(super) name: &'static str,
    pub(super) text: String,
}

impl AgentFile {
    /// As presence names it.
    pub(super) fn id(&self) -> String {
        format!("{}.{}.{}", self.region, self.role, self.name)
    }
}

/// The plan, with this machine's addresses; `None` when it does not hold the ones we know.
pub(super) fn plan(site: &BTreeMap<String, String>) -> Option<String> {
    WRITTEN.into_iter().try_fold(SHOP.to_owned(), |text, (region, written)| {
        let here = site.get(region)?;
        text.contains(written).then(|| text.replace(written, here))
    })
}

/// Every agent of the demo.
pub(super) fn agents(setting: &Setting) -> Vec<AgentFile> {
    let probes = ["staging", "east", "west"].map(|region| ("probe", region, "probe-1", probe(setting, region)));
    let flags = ["east", "west"].map(|region| ("flag", region, "flag-1", flag(setting, region)));
    let alerts = ["east", "west"].map(|region| ("alert", region, "alert-1", alert(setting)));
    let rollback = [("rollback", "east", "roll-1", rollback(setting))];
    let all = probes.into_iter().chain(flags).chain(alerts).chain(rollback);
    all.map(|(role, region, name, rest)| {
        let text = format!("{}{rest}", head(setting, role, region, name));
        AgentFile { role, region, name, text }
    })
    .collect()
}

fn head(setting: &Setting, role: &str, region: &str, name: &str) -> String {
    let state = quoted(&setting.dir.join("state").join(format!("{region}-{role}")).display());
    let nats = quoted(&setting.nats);
    format!("agent:\n  region: {region}\n  name: {name}\n  state_dir: {state}\n  nats:\n    url: {nats}\n")
}

fn probe(setting: &Setting, region: &str) -> String {
    let host = setting.site.get(region).map(|url| url.trim_start_matches("http://")).unwrap_or_default();
    format!("probe:\n  allow: [{}]\n  every_min: 20ms\n", quoted(&host))
}

fn rollback(setting: &Setting) -> String {
    let tool = format!("{}, site-lever, --admin, {}", quoted(&setting.program.display()), quoted(&setting.admin));
    let mut text = "rollback:\n  service: shop\n  levers:\n".to_owned();
    for lever in ["release", "stable", "staging", "traffic"] {
        text.push_str(&format!(
            "    - name: {lever}\n      exec:\n        set: [{tool}, set, {lever}, \"{{value}}\"]\n        \
             read_back: [{tool}, read, {lever}]\n        history: [{tool}, history, {lever}]\n        timeout: 10s\n"
        ));
    }
    text
}

fn flag(setting: &Setting, region: &str) -> String {
    let file = quoted(&address_file(setting.dir, region).display());
    format!(
        "flag:\n  service: shop\n  listen: 127.0.0.1:0\n  address_file: {file}\n  \
         endpoints: [east.flag.flag-1, west.flag.flag-1]\n  flags:\n    \
         - {{ name: new_checkout, variants: {{ \"on\": true, \"off\": false }}, default: \"off\" }}\n"
    )
}

/// Where a flag agent writes the address that the sample site reads.
pub(super) fn address_file(dir: &Path, region: &str) -> std::path::PathBuf {
    dir.join(format!("{region}-flags.address"))
}

fn alert(setting: &Setting) -> String {
    let (url, secret) = (quoted(&setting.hook), quoted(&format!("file:{}", secret_file(setting.dir).display())));
    format!(
        "alert:\n  console: true\n  bridges:\n    hook: {{ webhook: {{ url: {url}, secret: {secret} }} }}\n  \
         routes: [{{ to: [hook] }}]\n"
    )
}

/// Where the webhook's secret is.
pub(super) fn secret_file(dir: &Path) -> std::path::PathBuf {
    dir.join("webhook.secret")
}

// A JSON string is a YAML string, whatever a path holds.
fn quoted(text: &impl ToString) -> String {
    serde_json::Value::String(text.to_string()).to_string()
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::plan::read_plan;

    use super::*;
    use crate::demo::act::SHORTENED;

    #[test]
    fn the_plan_of_the_repository_can_be_played() {
        let site = WRITTEN.map(|(region, _)| (region.to_owned(), format!("http://127.0.0.1:1{region}"))).into();
        let text = plan(&site).unwrap();
        assert!(WRITTEN.iter().all(|(_, written)| !text.contains(written)));
        let overrides = SHORTENED.map(str::to_owned);
        let found = read_plan(PLAN, &plan(&sound_site()).unwrap(), &overrides, &BTreeMap::new());
        let (plan, _) = found.unwrap_or_else(|findings| panic!("{findings:?}"));
        assert_eq!(plan.service.as_str(), "shop");
    }

    fn sound_site() -> BTreeMap<String, String> {
        WRITTEN.map(|(region, written)| (region.to_owned(), written.to_owned())).into()
    }

    #[test]
    fn paths_with_spaces_and_quotes_stay_one_value() {
        let dir = Path::new("/a b/\"c\"");
        let site = sound_site();
        let (program, admin) = (Path::new("/bin/bell wether"), "http://127.0.0.1:9");
        let setting = Setting { dir, program, nats: "nats://127.0.0.1:1", admin, site: &site, hook: "http://h/" };
        for agent in agents(&setting) {
            let read: Result<serde_json::Value, _> = bellwether_runtime::parse_config("agent.yaml", &agent.text);
            let read = read.unwrap_or_else(|error| panic!("{}: {error}\n{}", agent.id(), agent.text));
            let state = read["agent"]["state_dir"].as_str().unwrap();
            assert!(state.starts_with("/a b/\"c\"/state/"), "{state}");
        }
    }
}
