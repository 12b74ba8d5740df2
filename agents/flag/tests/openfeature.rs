//! The OpenFeature SDKs of JavaScript and Python, flagd's own core, and the schemas of OFREP, held
//! against the endpoint and its evaluation.
//!
//! What they need comes from npm and the Python package index.

#![expect(clippy::expect_used, reason = "a test")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bellwether_fakes::parts;
use bellwether_flag::evaluate::Flag;
use bellwether_flag::flagd::{Flagd, FlagdConfig};
use bellwether_flag::ofrep::{Endpoint, routes};
use bellwether_flag::rule::Rule;
use bellwether_flag::snapshot::{Served, Snapshot};
use bellwether_protocol::id::LeverValue;
use bellwether_runtime::Driver;
use serde_json::{Value, json};

/// What they need comes into the build's own directory.
const CACHE: &str = env!("CARGO_TARGET_TMPDIR");
const NPM: [&str; 3] =
    ["@openfeature/server-sdk@1.23.0", "@openfeature/ofrep-provider@0.1.3", "@openfeature/flagd-core@4.0.1"];
const PIP: [&str; 3] = ["openfeature-sdk==0.10.0", "openfeature-provider-ofrep==0.3.0", "jsonschema==4.26.0"];
/// Users of the split. Four standard deviations of a binomial with n = 2,000 and p = 0.1 are 54.
const USERS: usize = 2_000;

fn flags() -> Vec<Value> {
    let beta = json!({ "if": [{ "==": [{ "var": "country" }, "DE"] }, "on"] });
    vec![
        json!({ "name": "new_checkout", "variants": { "on": true, "off": false }, "default": "off", "rules": { "beta": beta } }),
        json!({ "name": "banner", "variants": { "plain": "Hello", "loud": "HELLO" }, "default": "plain" }),
        json!({ "name": "limit", "variants": { "low": 10, "high": 100 }, "default": "low" }),
        json!({ "name": "ratio", "variants": { "quarter": 0.25 }, "default": "quarter" }),
        json!({ "name": "layout", "variants": { "wide": { "columns": [1, 2] } }, "default": "wide" }),
        json!({ "name": "shared", "variants": { "on": true, "off": false }, "default": "off" }),
        json!({ "name": "retired", "variants": { "on": true }, "default": "on", "disabled": true }),
    ]
}

fn flag(name: &str) -> Flag {
    let found = flags().into_iter().find(|flag| flag["name"] == name).expect("a flag");
    serde_json::from_value(found).expect("a flag")
}

/// The endpoint, with three flags set.
async fn serve() -> String {
    let served = Served::default();
    let set = json!({
        "new_checkout": { "value": "beta" }, "banner": { "value": "loud" }, "shared": { "value": "10%" },
    });
    let snapshot = json!({ "revision": 3, "document": { "flags": set } });
    served.replace(serde_json::from_value::<Snapshot>(snapshot).expect("a snapshot"));
    let flags = flags().into_iter().map(|flag| serde_json::from_value::<Flag>(flag).expect("a flag"));
    let endpoint = Endpoint {
        flags: flags.map(|flag| (flag.name.clone(), flag)).collect(),
        served,
        is_stale: Box::new(|| false),
        auth: None,
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    // It ends with the runtime of its test.
    tokio::spawn(async move { axum::serve(listener, routes(endpoint)).await });
    url
}

/// What every client is asked, and what it must say: value, reason, variant, error. `*` stands for any.
fn table() -> Vec<(Value, Value)> {
    let ask = |kind: &str, flag: &str, coded: Value, country: &str| {
        let context = json!({ "targetingKey": "user-1", "country": country });
        json!({ "kind": kind, "flag": flag, "default": coded, "context": context })
    };
    let nobody = json!({ "kind": "bool", "flag": "new_checkout", "default": true, "context": { "country": "DE" } });
    vec![
        (ask("bool", "new_checkout", json!(false), "DE"), json!([true, "TARGETING_MATCH", "on", null])),
        (ask("bool", "new_checkout", json!(true), "FR"), json!([false, "TARGETING_MATCH", "off", null])),
        (ask("text", "banner", json!("x"), "DE"), json!(["HELLO", "STATIC", "loud", null])),
        (ask("integer", "limit", json!(1), "DE"), json!([10, "STATIC", "low", null])),
        (ask("number", "ratio", json!(1.5), "DE"), json!([0.25, "STATIC", "quarter", null])),
        (ask("object", "layout", json!({}), "DE"), json!([{ "columns": [1, 2] }, "STATIC", "wide", null])),
        (ask("bool", "retired", json!(false), "DE"), json!([false, "*", null, "*"])),
        (ask("bool", "unknown", json!(true), "DE"), json!([true, "ERROR", null, "FLAG_NOT_FOUND"])),
        (ask("text", "new_checkout", json!("x"), "DE"), json!(["x", "ERROR", null, "TYPE_MISMATCH"])),
        (nobody, json!([true, "ERROR", null, "TARGETING_KEY_MISSING"])),
    ]
}

/// Runs one client over the table and the split, which it asks twice.
async fn agrees(name: &str, client: fn() -> Command) {
    let url = serve().await;
    let table = table();
    let user = |number: usize| json!({ "targetingKey": format!("user-{number}") });
    let split = (0..USERS).chain(0..USERS);
    let split = split.map(|n| json!({ "kind": "bool", "flag": "shared", "default": false, "context": user(n) }));
    let asks: Vec<Value> = table.iter().map(|(ask, _)| ask.clone()).chain(split).collect();
    let asked = json!({ "url": url, "asks": asks });
    let said = tokio::task::spawn_blocking(move || run(client(), &asked)).await.expect("not cancelled");
    let said = said.as_array().expect("a list");
    assert_eq!(said.len(), table.len() + 2 * USERS);
    for ((ask, expected), said) in table.iter().zip(said) {
        let got = ["value", "reason", "variant", "error"].map(|key| &said[key]);
        let fits = expected.as_array().expect("a list").iter().zip(got).all(|(want, got)| want == "*" || want == got);
        assert!(fits, "{name}, {ask}: {said} instead of {expected}");
    }
    let on = |split: &[Value]| -> Vec<usize> {
        split.iter().enumerate().filter(|(_, said)| said["value"] == true).map(|(n, _)| n).collect()
    };
    let (first, again) = said[table.len()..].split_at(USERS);
    let first = on(first);
    assert!((146..=254).contains(&first.len()), "{name}: {} of {USERS}", first.len());
    assert_eq!(first, on(again), "{name}: a user got another answer");
    let (flag, share) = (flag("shared"), "10%".parse().expect("a value"));
    let own = (0..USERS).filter(|n| {
        let got = flag.evaluate(Some(&share), user(*n).as_object().expect("an object"));
        got.variant.is_some_and(|(variant, _)| variant == "on")
    });
    assert_eq!(first, own.collect::<Vec<_>>(), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_sdk_agrees() {
    agrees("JavaScript", || node("server_sdk.cjs")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_sdk_agrees() {
    agrees("Python", || python("python_sdk.py")).await;
}

#[test]
fn flagd_puts_10_000_users_into_the_same_buckets() {
    let variants = json!({ "on": "on", "off": "off", "c": "c" });
    let by_mail = json!({ "fractional": [{ "cat": ["seed", { "var": "email" }] }, ["on", 1], ["off", 2], ["c"]] });
    let rules = [
        ("10%", json!({ "fractional": [["on", 10], ["off", 90]] })),
        ("33.3333333%", json!({ "fractional": [["on", 333_333_333], ["off", 666_666_667]] })),
        ("", by_mail),
    ];
    for (share, targeting) in rules {
        let flag_key = "new_checkout";
        let flags = json!({ flag_key: {
            "state": "ENABLED", "variants": variants, "defaultVariant": "off", "targeting": targeting,
        } });
        let user = |n: usize| json!({ "targetingKey": format!("user-{n}"), "email": format!("{n}@shop.example") });
        let asks: Vec<Value> = (0..10_000).map(|n| json!({ "flag": flag_key, "context": user(n) })).collect();
        let said = run(node("flagd_core.cjs"), &json!({ "flags": flags, "asks": asks }));
        let said: Vec<&str> = said.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        let rule = Rule::read(&targeting).expect("a rule");
        let (flag, value) = (flag(flag_key), share.parse().ok());
        assert_eq!(said.len(), 10_000);
        for (n, theirs) in said.into_iter().enumerate() {
            let user = user(n).as_object().expect("an object").clone();
            assert_eq!(rule.evaluate(flag_key, &user).as_deref(), Some(theirs), "user {n}, {targeting}");
            if value.is_some() {
                let ours = flag.evaluate(value.as_ref(), &user).variant.map(|(variant, _)| variant);
                assert_eq!(ours, Some(theirs), "user {n}, {share}");
            }
        }
    }
}

#[test]
fn flagd_reads_rules_as_we_do() {
    let var = |path: &str| json!({ "var": path });
    let conditions = [
        json!({ "==": [var("age"), "42"] }),
        json!({ "===": [var("age"), 42] }),
        json!({ "!=": [var("plan"), "free"] }),
        json!({ "!==": [var("age"), "42"] }),
        json!({ ">": [var("age"), 40] }),
        json!({ "<=": [{ "var": ["age", 99] }, 41.5] }),
        json!({ "in": [var("country"), ["DE", "FR"]] }),
        json!({ "in": ["@shop", var("email")] }),
        json!({ "and": [var("beta"), { "starts_with": [var("email"), "ada"] }] }),
        json!({ "or": [{ "!": var("beta") }, { "ends_with": [var("email"), ".test"] }] }),
        json!({ "!!": [var("tags")] }),
        json!({ "==": [{ "var": ["plan", "none"] }, "none"] }),
        json!({ "==": [var("address.city"), "Ulm"] }),
        json!({ "==": [var("$flagd.flagKey"), "flag-3"] }),
        json!({ "sem_ver": [var("version"), ">=", "1.9.0"] }),
        json!({ "sem_ver": [var("version"), "^", "v1"] }),
        json!({ "sem_ver": [var("version"), "~", "1.10"] }),
        json!({ "sem_ver": [var("version"), "<", "1.10.0"] }),
        json!({ "starts_with": [var("age"), "4"] }),
    ];
    let rules: Vec<Value> = conditions.iter().map(|one| json!({ "if": [one, "yes", "no"] })).collect();
    let contexts = [
        json!({ "targetingKey": "a" }),
        json!({ "targetingKey": "b", "age": 42, "email": "ada@shop.test", "beta": true, "tags": ["x"], "version": "1.10.0" }),
        json!({ "targetingKey": "c", "age": 17.5, "country": "DE", "plan": "free", "beta": false, "tags": [], "version": "v2" }),
        json!({ "targetingKey": "d", "address": { "city": "Ulm" }, "plan": "", "version": "1.10.0-rc.1" }),
        json!({ "targetingKey": "e", "version": "nonsense", "country": "US", "email": "", "beta": "" }),
    ];
    let variants = json!({ "yes": "yes", "no": "no" });
    let key = |n: usize| format!("flag-{n}");
    let written = |(n, rule): (usize, &Value)| {
        (key(n), json!({ "state": "ENABLED", "variants": variants, "defaultVariant": "no", "targeting": rule }))
    };
    let flags: serde_json::Map<String, Value> = rules.iter().enumerate().map(written).collect();
    let all: Vec<(usize, &Value)> = (0..rules.len()).flat_map(|n| contexts.iter().map(move |one| (n, one))).collect();
    let asks: Vec<Value> = all.iter().map(|(n, context)| json!({ "flag": key(*n), "context": context })).collect();
    let said = run(node("flagd_core.cjs"), &json!({ "flags": flags, "asks": asks }));
    for ((n, context), theirs) in all.iter().zip(said.as_array().expect("a list")) {
        let rule = Rule::read(&rules[*n]).expect("a rule");
        let ours = rule.evaluate(&key(*n), context.as_object().expect("an object"));
        assert_eq!(ours.as_deref(), theirs.as_str(), "{} for {context}", rules[*n]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_driver_writes_is_what_flagd_serves() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("flags.json");
    let flag = json!({
        "state": "DISABLED", "variants": { "on": "on", "off": "off" }, "defaultVariant": "on",
        "targeting": { "if": [{ "==": [{ "var": "plan" }, "gold"] }, "on", null] },
    });
    std::fs::write(&file, json!({ "flags": { "shared": flag } }).to_string()).expect("written");
    let config = serde_json::from_value::<FlagdConfig>(json!({ "file": file, "flag": "shared" }));
    let driver = Flagd::new(&config.expect("a configuration"));
    let user = |n: usize| json!({ "targetingKey": format!("user-{n}"), "plan": "gold" });
    let own = self::flag("shared");
    for to in ["off", "10%", "on", "off"] {
        let value: LeverValue = to.parse().expect("a value");
        driver.set(&value, &"shop/1/1/0".parse().expect("an action")).await.expect("set");
        let written: Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("json");
        let asks: Vec<Value> = (0..USERS).map(|n| json!({ "flag": "shared", "context": user(n) })).collect();
        let said = run(node("flagd_core.cjs"), &json!({ "flags": written["flags"], "asks": asks }));
        for (n, theirs) in said.as_array().expect("a list").iter().enumerate() {
            let ours = own.evaluate(Some(&value), user(n).as_object().expect("an object")).variant;
            assert_eq!(ours.map(|(variant, _)| variant), theirs.as_str(), "user {n} at {to}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_protocol_has_it() {
    let base = format!("{}/ofrep/v1/evaluate/flags", serve().await);
    let client = bellwether_runtime::http().expect("a client");
    let user = r#"{"context":{"targetingKey":"user-1"}}"#;
    let mut answers = Vec::new();
    for (path, body, status, schema) in [
        ("/new_checkout", user, 200, "serverEvaluationSuccess"),
        ("/layout", user, 200, "serverEvaluationSuccess"),
        ("/limit", user, 200, "serverEvaluationSuccess"),
        ("/retired", user, 200, "serverEvaluationSuccess"),
        ("/unknown", user, 404, "flagNotFound"),
        ("/new_checkout", "{", 400, "evaluationFailure"),
        ("/new_checkout", "{}", 400, "evaluationFailure"),
        ("/new_checkout", r#"{"context":{}}"#, 400, "evaluationFailure"),
        ("", user, 200, "bulkEvaluationSuccess"),
        ("", "{}", 400, "bulkEvaluationFailure"),
    ] {
        let answer = client.post(format!("{base}{path}")).body(body).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{path} {body}");
        answers.push(json!({ "schema": schema, "body": answer.json::<Value>().await.expect("json") }));
    }
    let Some(schemas) = ofrep_schemas() else { return };
    let asked = json!({ "schemas": schemas, "answers": answers });
    let wrong = tokio::task::spawn_blocking(move || run(python("schema.py"), &asked)).await.expect("not cancelled");
    assert_eq!(wrong, json!([]));
    // The check can fail.
    let asked = json!({ "schemas": schemas, "answers": [{ "schema": "flagNotFound", "body": { "key": 1 } }] });
    let wrong = tokio::task::spawn_blocking(move || run(python("schema.py"), &asked)).await.expect("not cancelled");
    assert_eq!(wrong.as_array().map(Vec::len), Some(2), "{wrong}");
}

/// The schemas of OFREP 0.3.0, where they are at hand. Two are made stricter: a value is of one of the
/// kinds (upstream's `oneOf` fits no value, as its `codeDefaultFlag` takes any), and a default of the code has none.
fn ofrep_schemas() -> Option<Value> {
    let text = bellwether_fakes::public::schema_text("ofrep/service/openapi.yaml")?;
    let mut document: Value = bellwether_runtime::parse_config("openapi.yaml", &text).expect("yaml");
    let mut schemas = document["components"]["schemas"].take();
    let kinds = &mut schemas["evaluationSuccess"]["allOf"][1];
    *kinds = json!({ "anyOf": kinds["oneOf"].take() });
    schemas["codeDefaultFlag"] = json!({ "type": "object", "not": { "required": ["value"] } });
    Some(schemas)
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openfeature")
}

fn node(script: &str) -> Command {
    let mut node = Command::new("node");
    node.env("NODE_PATH", parts::node(CACHE.as_ref(), &NPM)).arg(scripts().join(script));
    node
}

fn python(script: &str) -> Command {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", parts::python(CACHE.as_ref(), &PIP)).arg(scripts().join(script));
    python
}

/// Gives a script its input, and reads what it prints.
fn run(mut script: Command, input: &Value) -> Value {
    let script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = script.spawn().expect("started");
    let mut stdin = child.stdin.take().expect("an input");
    stdin.write_all(input.to_string().as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("json")
}
