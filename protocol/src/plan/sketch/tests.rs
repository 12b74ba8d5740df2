use std::collections::BTreeSet;
use std::path::Path;

use jsonschema::Validator;

use super::super::{node, short};
use super::*;

/// Every kind of probe that the plans of the house use.
fn validators() -> Validators {
    let any: fn(&Value) -> Vec<super::super::Flaw> = |_| Vec::new();
    ["exec", "http", "json", "load", "page", "prometheus", "pushed"].into_iter().map(|kind| (kind, any)).collect()
}

fn validator(schema: &Value) -> Validator {
    jsonschema::draft7::new(schema).unwrap()
}

/// One document, as an editor sees it: not yet laid over its base.
fn document(text: &str) -> Node {
    let (documents, broken) = node::documents(&[node::Part { name: None, start: 0, text }]);
    assert!(broken.is_empty(), "{broken:?}");
    documents.unwrap().swap_remove(0)
}

/// How many of `plans` are the page's.
const PAGE: usize = 2;

/// The example of the page of `plan`, in two forms that have about every key between them, and every
/// plan that the tests run.
fn plans() -> Vec<(String, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    let files = ["plans", "scenarios", "simulation"].into_iter().flat_map(|folder| {
        let files = std::fs::read_dir(root.join(folder)).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect::<Vec<_>>()
    });
    let page = include_str!("../mod.rs").lines().filter_map(|line| line.strip_prefix("//!"));
    let page: Vec<&str> = page.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    let (_, example) = page.split_at(page.iter().position(|line| *line == "```yaml").unwrap() + 1);
    let example = example.iter().take_while(|line| **line != "```");
    // What stands there in two ways is shown in the second one too.
    let both = example
        .clone()
        .map(|line| line.strip_prefix("    # ").map_or((*line).to_owned(), |line| format!("    {line}")));
    let both = both.filter(|line| !line.starts_with("    on_fail: rollback"));
    let page = [example.copied().collect::<Vec<_>>().join("\n"), both.collect::<Vec<_>>().join("\n")];
    let page = page.into_iter().map(|text| ("the page of `plan`".to_owned(), document(&text).to_json()));
    let read = |path: std::path::PathBuf| {
        (path.display().to_string(), document(&std::fs::read_to_string(&path).unwrap()).to_json())
    };
    page.chain(files.map(read)).collect()
}

#[test]
fn every_plan_of_the_house_is_valid() {
    let validator = validator(&plan_schema(&validators()));
    let plans = plans();
    assert!(plans.len() > 8, "only {}", plans.len());
    for (name, plan) in plans {
        let wrong: Vec<String> =
            validator.iter_errors(&plan).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    }
}

#[test]
fn what_is_wrong_is_seen_in_an_editor() {
    let validator = validator(&plan_schema(&validators()));
    let (_, plan) = plans().swap_remove(0);
    for (pointer, value) in [
        ("/slot", json!("30")),
        ("/slot", json!(30)),
        ("/slot", json!("1 hour")),
        ("/alpha", json!("0.01")),
        ("/alpha", json!(0.01)),
        ("/quorum", json!("two")),
        ("/regions/east", json!("shop.example.com")),
        ("/stages/0/soak", json!(["4h"])),
        ("/stages/0/approval", json!("yes")),
        ("/stages/0/enter/0", json!({ "set": "traffic" })),
        ("/criteria/0/on_fail", json!("stop")),
        ("/criteria/0/must", json!(1)),
        ("/criteria/0/require", json!("prove")),
        ("/criteria/6/consecutive/slots", json!("3s")),
        ("/criteria/1/ratio/max", json!("0.5")),
        ("/levers/machines/targets", json!(-2)),
        ("/stages", json!([])),
        ("/slis/0", json!({ "name": "checkout" })),
    ] {
        let mut plan = plan.clone();
        *plan.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value.clone();
        assert!(!validator.is_valid(&plan), "{pointer}: {value} is accepted");
    }
}

#[test]
fn what_is_laid_over_a_base_may_be_any_part_of_a_plan() {
    let validator = validator(&plan_schema(&validators()));
    let criterion =
        |text: &str| json!({ "extends": "../common.yaml", "criteria": [document(&format!("{{ {text} }}")).to_json()] });
    for (plan, is_valid) in [
        (json!({ "extends": "../common.yaml" }), true),
        (json!({ "extends": null, "slot": "30s" }), true),
        (json!({ "slot": "30s" }), false),
        (json!({ "extends": "../common.yaml", "slot": 30 }), false),
        (json!({ "extends": "../common.yaml", "sloot": "30s" }), false),
        (json!({ "extends": "../common.yaml", "slot": null, "levers": { "traffic": null } }), true),
        (criterion("name: error_rate, hard: true"), true),
        (criterion("name: error_rate, must: ~, zero: { bad: [http_5xx] }"), true),
        (criterion("name: error_rate, remove: true"), true),
        (criterion("name: error_rate, remove: false"), false),
        (criterion("name: error_rate, remove: true, hard: true"), false),
        (criterion("name: error_rate, hard: true, before: p99"), true),
        (criterion("name: error_rate, before: 1"), false),
        (criterion("hard: true"), false),
        (criterion("name: error_rate, hard: perhaps"), false),
        (json!({ "extends": "a", "stages": [{ "name": "canary", "criteria": [] }] }), false),
        (json!({ "extends": "a", "stages": [{ "name": "canary", "enter": [{ "set": "traffic" }] }] }), false),
        (json!({ "extends": "a", "slis": [{ "name": "checkout", "http": { "path": "/" } }] }), true),
    ] {
        assert_eq!(validator.is_valid(&plan), is_valid, "{plan}");
    }
}

/// What the reader finds wrong with the shape of a plan.
fn findings(plan: &Value) -> Vec<String> {
    let text = plan.to_string();
    if plan.is_null() {
        return vec!["P01 the file is empty".to_owned()];
    }
    let mut root = document(&text);
    short::write_out(&mut root, &text);
    let validators = validators();
    let mut reader = Reader::new(&validators);
    reader.plan(&root);
    reader.findings.iter().map(|finding| format!("{} {}", finding.code, finding.message)).collect()
}

/// The pointers to every value in `value`, itself included, but for the settings of a probe.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    let is_settings = |key: &str| validators().contains_key(key);
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(n, item)| places(item, &format!("{at}/{n}"), out)),
        Value::Object(map) => {
            let own = map.iter().filter(|(key, _)| !is_settings(key) && *key != "must");
            own.for_each(|(key, item)| places(item, &format!("{at}/{key}"), out));
        }
        _ => {}
    }
}

/// The page's example, with each of its values replaced by each of these, with each of its keys
/// left out, and with a key more in each of its maps: the reader and the schema say the same.
#[test]
fn the_reader_and_its_schema_agree() {
    let validator = validator(&plan_schema(&validators()));
    let values = json!([
        7, 1.5, -1, true, null, [], {}, [[]], { "no_such_key": 1 }, "", "a b", "x", "30s", "10%", "1.5x", "900MB", "hold",
        "{release}", "{unknown}", "http://localhost", "Fri 16:00", "canary", "x".repeat(70), "x".repeat(3_000),
    ]);
    let (mut compared, mut differ) = (0, Vec::new());
    let mut check = |what: String, plan: &Value, is_unquoted: bool| {
        let found = findings(plan);
        let errors: Vec<String> = validator.iter_errors(plan).map(|error| error.to_string()).collect();
        // The one thing in which the schema is narrower: a name that looks like a number stands in quotes.
        let agree = found.is_empty() == errors.is_empty() || (is_unquoted && found.is_empty());
        if !agree {
            differ.push(format!("{what}: the reader finds {found:?}, the schema {errors:?}"));
        }
        compared += 1;
    };
    for (name, plan) in plans().into_iter().take(PAGE) {
        let mut all = Vec::new();
        places(&plan, "", &mut all);
        for at in all {
            for value in values.as_array().unwrap() {
                let mut changed = plan.clone();
                *changed.pointer_mut(&at).unwrap() = value.clone();
                check(format!("{name}{at}: {value}"), &changed, value.is_number() || value.is_boolean());
            }
            let keys: Vec<String> =
                plan.pointer(&at).unwrap().as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect();
            for key in &keys {
                let mut changed = plan.clone();
                changed.pointer_mut(&at).unwrap().as_object_mut().unwrap().remove(key);
                check(format!("{name}{at} without {key}"), &changed, false);
            }
            if !keys.is_empty() {
                let mut changed = plan.clone();
                changed.pointer_mut(&at).unwrap()["no such key"] = "x".into();
                check(format!("{name}{at} with one more key"), &changed, false);
            }
        }
    }
    assert!(differ.is_empty(), "{} of {compared}: {:#?}", differ.len(), &differ[..differ.len().min(20)]);
    assert!(compared > 9_000, "only {compared}");
}

/// Every key of the schema with where it stands, and whether it says what it takes and what for.
fn keys(schema: &Value, at: &str, out: &mut Vec<(String, bool)>) {
    for (key, inner) in schema["properties"].as_object().into_iter().flatten() {
        let at = format!("{at}/{key}");
        let told = inner["description"].as_str().is_some_and(|text| text.len() > 5);
        let typed = ["type", "enum", "anyOf"].iter().any(|keyword| inner.get(keyword).is_some());
        out.push((at.clone(), told && (typed || validators().contains_key(key.as_str()))));
        keys(inner, &at, out);
    }
    for inner in ["items", "additionalProperties"].iter().filter_map(|keyword| schema.get(keyword)) {
        keys(inner, &format!("{at}/*"), out);
    }
    schema["anyOf"].as_array().into_iter().flatten().for_each(|inner| keys(inner, at, out));
}

/// The keys that a plan has, written as `keys` does.
fn used(value: &Value, schema: &Value, at: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => {
            let ways = schema["anyOf"].as_array().into_iter().flatten().chain([schema]);
            let schema = ways.map(|way| &way["items"]).find(|items| !items.is_null()).unwrap_or(&Value::Null);
            items.iter().for_each(|item| used(item, schema, &format!("{at}/*"), out));
        }
        Value::Object(map) => {
            for (key, item) in map {
                let (at, schema) = match &schema["properties"][key] {
                    Value::Null => (format!("{at}/*"), &schema["additionalProperties"]),
                    own => (format!("{at}/{key}"), own),
                };
                out.insert(at.clone());
                used(item, schema, &at, out);
            }
        }
        _ => {}
    }
}

#[test]
fn every_key_is_explained_typed_and_in_use() {
    let schema = &plan_schema(&validators())["else"];
    let mut all = Vec::new();
    keys(schema, "", &mut all);
    let mut seen = BTreeSet::new();
    plans().iter().for_each(|(_, plan)| used(plan, schema, "", &mut seen));
    let bare: Vec<&String> = all.iter().filter(|(_, is_told)| !is_told).map(|(key, _)| key).collect();
    assert!(bare.is_empty(), "without a description or a type: {bare:?}");
    let kinds = validators();
    let is_kind = |key: &str| key.rsplit('/').next().is_some_and(|key| kinds.contains_key(key));
    let unused: Vec<&String> =
        all.iter().map(|(key, _)| key).filter(|key| !seen.contains(*key) && !is_kind(key)).collect();
    assert!(unused.is_empty(), "compared with nothing, for no plan has it: {unused:?}");
}
