use std::io::Cursor;

use bellwether_protocol::plan::{Plan, read_plan};
use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    init: InitArgs,
}

const FLY: &str = "app = \"estimator\"\nprimary_region = \"sjc\"\n\n[http_service]\ninternal_port = 8080\n\n\
    [[http_service.checks]]\nmethod = \"GET\"\npath = \"/api/health\"\ninterval = \"30s\"\n\n\
    [[http_service.checks]]\nmethod = \"post\"\npath = \"/api/ping\"\n";

/// What would be written, by flags, an fly.toml and what a person types.
fn told(flags: &str, fly: Option<&str>, typed: Option<&str>) -> Result<Setting, VerbError> {
    let args = Line::parse_from(std::iter::once("init").chain(flags.split_whitespace())).init;
    let fly = fly.map(|text| FlyToml::read(text).unwrap());
    let answers = Cursor::new(typed.unwrap_or_default());
    let mut asker = Asker { answers, questions: Vec::new(), is_asking: typed.is_some() };
    setting(&args, fly.as_ref(), "nats://127.0.0.1:4222", &mut asker)
}

fn text(setting: &Setting, name: &str) -> String {
    let files = setting.files();
    files.into_iter().find(|(own, _)| own == name).unwrap_or_else(|| panic!("no {name}")).1
}

fn plan(setting: &Setting) -> Plan {
    let (plan, findings) = read_plan("plan.yaml", &text(setting, "plan.yaml"), &[], &Default::default())
        .unwrap_or_else(|findings| panic!("{findings:?}\n{}", text(setting, "plan.yaml")));
    assert!(findings.is_empty(), "what we wrote ourselves is warned of: {findings:?}");
    plan
}

#[test]
fn whatever_is_written_can_be_used_as_it_is() {
    for kind in ["watch", "exec", "compose", "fly"] {
        for url in ["http://127.0.0.1:8000", "https://shop.example.com/api/health", "http://[::1]:81/a\"b"] {
            let flags = format!("--service on --url {url} --kind {kind} --regions no,east --release-header x-release");
            let Ok(setting) = told(&flags, None, None) else {
                assert!(url.contains('"'), "{url}");
                continue;
            };
            let plan = plan(&setting);
            assert_eq!((plan.service.as_str(), plan.regions.len()), ("on", 2));
            assert_eq!(plan.criteria.iter().any(|criterion| criterion.takes_back()), kind != "watch");
            for (name, text) in setting.files() {
                let is_mark = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
                assert!(!text.split('@').any(is_mark), "{name} has a mark left:\n{text}");
                if name.ends_with(".yaml") && name != "plan.yaml" {
                    let read: Result<serde_json::Value, _> = bellwether_runtime::parse_config(&name, &text);
                    let read = read.unwrap_or_else(|error| panic!("{error}\n{text}"));
                    let is_agent = name != "ci.yaml";
                    assert_eq!(read["agent"]["region"].is_string(), is_agent, "{name}: {read}");
                }
            }
        }
    }
}

#[test]
fn a_fly_toml_says_what_nobody_needs_to() {
    let setting = told("", Some(FLY), None).unwrap();
    let plan = plan(&setting);
    assert_eq!(plan.service.as_str(), "estimator");
    assert_eq!(
        plan.regions.into_iter().next().unwrap(),
        ("sjc".parse().unwrap(), "https://estimator.fly.dev".to_owned())
    );
    let looks: Vec<String> = plan.slis.iter().map(|sli| format!("{} {}", sli.name, sli.settings["path"])).collect();
    assert_eq!(looks, ["home \"/\"", "api-health \"/api/health\""]);
    assert!(plan.criteria.iter().any(|own| own.name.as_str() == "down-api-health" && own.takes_back()));
    assert!(text(&setting, "lever.sh").contains("app=\"estimator\""));
    assert!(text(&setting, "rollback.yaml").contains("FLY_API_TOKEN: \"env:FLY_API_TOKEN\""));
    assert!(setting.next().iter().any(|(command, _)| command.starts_with("export FLY_API_TOKEN")));
}

#[test]
fn people_are_asked_for_what_no_flag_says() {
    let setting = told("--service shop", None, Some("http://127.0.0.1:8000/status/\nexec\n\n")).unwrap();
    assert_eq!((setting.kind, setting.regions.len()), (Kind::Exec, 1));
    assert_eq!(setting.looks, [("status".parse().unwrap(), "/status".to_owned())]);
    assert_eq!(setting.control.as_deref(), Some(LOCAL_CONTROL));
    for (flags, typed, said) in [
        ("--service shop", None, "where does the service answer"),
        ("--service shop", Some("shop.example.com\n"), "`shop.example.com`"),
        ("--service shop --url http://a", Some("helm\n"), "`helm` is none of"),
        ("--service a.b --url http://a", None, "service `a.b`"),
        ("--service shop --url http://a --control a", None, "`a`"),
    ] {
        let error = told(flags, None, typed).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(error.exit_code(), exit::USAGE);
    }
}

#[test]
fn nothing_is_replaced_and_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("new");
    let files = told("--service shop --url http://a --kind exec", None, None).unwrap().files();
    let written = write(&dir, &files).unwrap();
    assert_eq!(written.len(), files.len());
    std::fs::write(dir.join("plan.yaml"), "mine").unwrap();
    std::fs::remove_file(dir.join("ci.yaml")).unwrap();
    let error = write(&dir, &files).unwrap_err();
    assert!(error.to_string().contains("plan.yaml") && error.exit_code() == exit::USAGE, "{error}");
    assert_eq!(std::fs::read_to_string(dir.join("plan.yaml")).unwrap(), "mine");
    assert!(!dir.join("ci.yaml").exists());
}

#[test]
fn a_lever_of_folders_is_set_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let setting = told("--service shop --url http://a --kind exec --dir deploy", None, None).unwrap();
    write(&dir.path().join("deploy"), &setting.files()).unwrap();
    let lever = |args: &[&str]| {
        let run =
            std::process::Command::new("sh").arg("deploy/lever.sh").args(args).current_dir(&dir).output().unwrap();
        (run.status.code(), String::from_utf8(run.stdout).unwrap())
    };
    for release in ["v1", "v2"] {
        std::fs::create_dir_all(dir.path().join("releases").join(release)).unwrap();
    }
    assert_eq!(lever(&["set", "v3"]).0, Some(64));
    assert_eq!(lever(&["read"]), (Some(1), String::new()));
    assert_eq!(lever(&["set", "v2"]).0, Some(0));
    let reading: serde_json::Value = serde_json::from_str(&lever(&["read"]).1).unwrap();
    assert_eq!((&reading["value"], &reading["targets"][0]["value"]), (&"v2".into(), &"v2".into()));
    let history: Vec<String> = serde_json::from_str(&lever(&["history"]).1).unwrap();
    assert_eq!(history.len(), 2, "{history:?}");
}
