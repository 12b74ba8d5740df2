//! Plans in layers, from outside: what a base and a plan over it come to, and word for word what is said
//! of either file.

use bellwether_protocol::plan::{Finding, Plan, Validators, files, join, read_plan, render, written};
use bellwether_protocol::ratio::Ratio;
use bellwether_protocol::time::Span;
use proptest::prelude::{ProptestConfig, proptest};
use proptest::strategy::Strategy;

const COMMON: &str = r#"# What all shops share.
levers:
  traffic: {}
  release: { holds_release: true }
slis:
  - name: checkout
    every: 1s
    http: { path: /checkout }
criteria:
  - name: error_rate
    must: "error_ratio < 5%"
    hard: true
  - name: p99
    must: "p99 < 1s"
stages:
  - name: canary
    enter:
      - { set: traffic, to: 10% }
      - { set: release, to: "{release}" }
    soak: 1h
"#;
const SHOP: &str = "extends: ../common.yaml
service: shop
regions: { east: http://127.0.0.1:8001 }
criteria:
  - { name: error_rate, must: error_ratio < 1% }
";
const FILE: &str = "plans/shop/plan.yaml";

/// What is on the disk of a test.
type Disk<'a> = &'a [(&'a str, &'a str)];

fn joined(disk: Disk<'_>) -> Result<String, String> {
    let read = |path: &str| {
        let found = disk.iter().find(|(own, _)| *own == path);
        found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| "no such file".to_owned())
    };
    join(FILE, read(FILE)?, read).map_err(|wrong| render(&[wrong.finding], &files(FILE, &wrong.text)))
}

/// A base and a plan over it, as they are started.
fn plan(common: &str, shop: &str, overrides: &[&str]) -> Result<(Plan, Vec<Finding>), String> {
    let text = joined(&[(FILE, shop), ("plans/common.yaml", common)])?;
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    read_plan(FILE, &text, &overrides, &Validators::new()).map_err(|findings| render(&findings, &files(FILE, &text)))
}

/// What `from` in one of the two files leads to, when it is replaced by `to`.
fn said(from: &str, to: &str) -> String {
    assert!(COMMON.contains(from) || SHOP.contains(from), "{from} is in neither");
    match plan(&COMMON.replacen(from, to, 1), &SHOP.replacen(from, to, 1), &[]) {
        Ok((_, findings)) => findings.iter().map(ToString::to_string).collect(),
        Err(report) => report,
    }
}

#[test]
fn a_plan_needs_only_what_its_base_does_not_have() {
    let (plan, findings) = plan(COMMON, SHOP, &["stages.canary.soak=2h"]).unwrap();
    assert_eq!((plan.service.as_str(), plan.regions.len(), findings.len()), ("shop", 1, 0));
    let names: Vec<&str> = plan.criteria.iter().map(|criterion| criterion.name.as_str()).collect();
    assert_eq!(names, ["error_rate", "p99"]);
    let changed = &plan.criteria[0];
    let ratio = serde_json::to_value(&changed.objective).unwrap()["ratio"]["max"].clone();
    let max: Ratio = serde_json::from_value(ratio).unwrap();
    assert_eq!((max, changed.hard), ("1%".parse().unwrap(), true));
    assert_eq!(plan.stages[0].soak, Span::from_secs(7_200));
}

#[test]
fn what_is_laid_over_a_base() {
    for (base, over, expected) in [
        ("a: 1\nb: 2", "b: 3\nc: 4", "a: 1\nb: 3\nc: 4"),
        ("a: { b: { c: 1, d: 2 } }", "a: { b: { d: 3 } }", "a:\n  b:\n    c: 1\n    d: 3"),
        ("a: { b: 1, c: 2 }", "a: { b: ~ }", "a:\n  c: 2"),
        ("a: { b: 1 }", "a: null", "{}"),
        ("a: 1", "b: ~", "a: 1\nb: ~"),
        ("a: 1", "b: { c: ~ }", "a: 1\nb:\n  c: ~"),
        ("a: [1, 2]", "a: [3]", "a:\n  - 3"),
        (
            "a: [{ name: x, b: 1 }, { name: y }]",
            "a: [{ name: z }, { name: x, b: 2, c: 3 }]",
            "a:\n  - name: x\n    b: 2\n    c: 3\n  - name: y\n  - name: z",
        ),
        ("a: [{ name: x }, { b: 1 }]", "a: [{ name: x, c: 1 }]", "a:\n  - name: x\n    c: 1"),
        ("a: [{ name: x }]", "a: []", "a: []"),
        ("a: [{ name: x }]", "a: { x: 1 }", "a:\n  x: 1"),
        (
            "a: [{ name: x }]",
            "a: [{ name: x, b: 1 }, { name: x, b: 2 }]",
            "a:\n  - name: x\n    b: 1\n  - name: x\n    b: 2",
        ),
        // Named items go with `remove`, and stand where `before` says.
        ("a: [{ name: x }, { name: y }]", "a: [{ name: x, remove: true }]", "a:\n  - name: y"),
        ("a: [{ name: x, b: 1 }]", "a: [{ name: x, remove: true }, { name: x }]", "a:\n  - name: x"),
        (
            "a: [{ name: x, b: [{ name: y }] }]",
            "a: [{ name: x, b: [{ name: y, remove: true }] }]",
            "a:\n  - name: x\n    b: []",
        ),
        ("a: [{ name: x, b: 1 }]", "a: [{ name: x, remove: ~ }]", "a:\n  - name: x\n    b: 1"),
        (
            "a: [{ name: x }, { name: y }]",
            "a: [{ name: v, before: y }, { name: w, before: y }, { name: u, before: v }]",
            "a:\n  - name: x\n  - name: u\n  - name: v\n  - name: w\n  - name: y",
        ),
        (
            "a: [{ name: x }, { name: y, b: 1 }]",
            "a: [{ name: y, c: 2, before: x }]",
            "a:\n  - name: y\n    b: 1\n    c: 2\n  - name: x",
        ),
        ("a: &one [1]\nb: *one", "b: [2]", "a:\n  - 1\nb:\n  - 2"),
        ("a: '1'\nb: \"{x}\"", "c: 010", "a: \"1\"\nb: \"{x}\"\nc: 010"),
        ("---\na: 1\n---\na: 2\n---\n# nothing\n", "b: 1", "a: 2\nb: 1"),
        (
            "a: { b: [{ name: x, c: [[1, { d: 2 }], {}] }] }",
            "z: on",
            "a:\n  b:\n    - name: x\n      c:\n        - - 1\n          - d: 2\n        - {}\nz: on",
        ),
    ] {
        let over = format!("extends: ../common.yaml\n{over}");
        let text = joined(&[(FILE, &over), ("plans/common.yaml", base)]).unwrap();
        let shown = written(FILE, &text, &[]).unwrap_or_else(|wrong| format!("{wrong:?}"));
        assert_eq!(shown.trim(), expected, "{base}\n---\n{over}");
        assert_eq!(written(FILE, &shown, &[]).as_ref(), Ok(&shown), "read again");
    }
}

#[test]
fn what_is_wrong_is_shown_in_the_file_that_says_it() {
    let expected = "\
error[P02]: duration without a unit
  --> plans/common.yaml:20:11
20|     soak: 60
  |           ^^ write `60s`, `60m` or `60h`
1 error in 2 files. Nothing was contacted or changed.
";
    assert_eq!(said("soak: 1h", "soak: 60"), expected);
    let expected = "\
error[P05]: plan without `service`
 --> plans/shop/plan.yaml:1:1
1| extends: ../common.yaml
 | ^ add `service: ...`, or check the plan that extends this one
1 error in 2 files. Nothing was contacted or changed.
";
    assert_eq!(said("service: shop\n", ""), expected);
    // What both files have a part in.
    let expected = "\
error[P08]: both `must` and `zero` in one criterion
 --> plans/shop/plan.yaml:5:25
5|   - { name: error_rate, zero: { sli: checkout } }
 |                         ^^^^ to take away the other: `must: ~`
1 error in 2 files. Nothing was contacted or changed.
";
    assert_eq!(said("must: error_ratio < 1%", "zero: { sli: checkout }"), expected);
    let expected = "\
error[P11]: this criterion can never fail
 --> plans/shop/plan.yaml:5:54
5|   - { name: error_rate, must: error_ratio < 1%, for: 2h }
 |                                                      ^^ stage `canary` lasts 1h (../common.yaml:20); write at most `1h`
1 error in 2 files. Nothing was contacted or changed.
";
    assert_eq!(said("< 1%", "< 1%, for: 2h"), expected);
    let expected = "\
error[P04]: unknown lever `release`
  --> plans/common.yaml:19:16
19|       - { set: release, to: \"{release}\" }
  |                ^^^^^^^ known: traffic
1 error in 2 files. Nothing was contacted or changed.
";
    assert_eq!(said("service: shop", "service: shop\nlevers: { release: ~ }"), expected);
    let expected = "\
error[P14]: nothing is written for `release`, which a base has
 --> plans/shop/plan.yaml:3:11
3| levers: { release: }
 |           ^^^^^^^ write `release: ~` to take it away, or leave the key out
1 error in 2 files. Nothing was contacted or changed.
";
    assert_eq!(said("service: shop", "service: shop\nlevers: { release: }"), expected);
    let expected = "\
error[P01]: not YAML: unclosed bracket '{'
 --> plans/shop/plan.yaml:5:5
5|   - { name: error_rate, must: error_ratio < 1%
 |     ^
1 error in 1 file. Nothing was contacted or changed.
";
    assert_eq!(said("1% }", "1%"), expected);
    let expected = "\
error[P12]: a soak shorter than one slot
  --> plans/common.yaml:20:11
20|     soak: 1h
  |           ^^ at least 30s
  = set on the command line: soak=1s
1 error in 2 files. Nothing was contacted or changed.
";
    assert_eq!(plan(COMMON, SHOP, &["stages.canary.soak=1s"]).unwrap_err(), expected);
}

#[test]
fn what_is_wrong_with_an_item_is_shown_in_its_place() {
    let expected = "\
error[P04]: no `p90` below to take away
 --> plans/shop/plan.yaml:5:18
5|   - { name: p90, remove: true }
 |                  ^^^^^^ did you mean `p99`? (also: error_rate)
1 error in 2 files. Nothing was contacted or changed.
";
    assert_eq!(said("error_rate, must: error_ratio < 1%", "p90, remove: true"), expected);
    let expected = "\
error[P04]: no `error_ratio` to stand before
 --> plans/shop/plan.yaml:5:33
5|   - { name: error_rate, before: error_ratio }
 |                                 ^^^^^^^^^^^ known: p99
1 error in 2 files. Nothing was contacted or changed.
";
    assert_eq!(said("must: error_ratio < 1%", "before: error_ratio"), expected);
    let expected = "\
error[P08]: `remove` beside other keys
 --> plans/shop/plan.yaml:5:49
5|   - { name: error_rate, must: error_ratio < 1%, remove: true }
 |                                                 ^^^^^^ of what is taken away only the `name` is written
1 error in 2 files. Nothing was contacted or changed.
";
    assert_eq!(said("< 1%", "< 1%, remove: true"), expected);
    let expected = "\
error[P02]: `remove` can only be `true`
 --> plans/shop/plan.yaml:5:33
5|   - { name: error_rate, remove: yes }
 |                                 ^^^ leave it out to keep the item
1 error in 2 files. Nothing was contacted or changed.
";
    assert_eq!(said("must: error_ratio < 1%", "remove: yes"), expected);
    assert_eq!(said("must: error_ratio < 1%", "remove: true"), "");
}

#[test]
fn a_base_that_cannot_be_had_is_told_of() {
    let over = |path: &str| format!("service: shop\nextends: {path}\n");
    let expected = "\
error[P14]: the base `../comon.yaml` cannot be read
 --> plans/shop/plan.yaml:2:10
2| extends: ../comon.yaml
 |          ^^^^^^^^^^^^^ no such file
1 error in 1 file. Nothing was contacted or changed.
";
    assert_eq!(joined(&[(FILE, &over("../comon.yaml"))]).unwrap_err(), expected);
    let expected = "\
error[P14]: bases without an end
 --> plans/a.yaml:1:10
1| extends: shop/plan.yaml
 |          ^^^^^^^^^^^^^^ a plan stands on at most 8 bases, and on none of them twice
 = plan.yaml -> ../a.yaml -> ../shop/plan.yaml
1 error in 2 files. Nothing was contacted or changed.
";
    let circle = [(FILE, &*over("../a.yaml")), ("plans/a.yaml", "extends: shop/plan.yaml")];
    assert_eq!(joined(&circle).unwrap_err(), expected);
    let chain = |bases: usize| {
        let file = |n: usize| (format!("plans/shop/{n}.yaml"), format!("extends: {}.yaml\na{n}: {n}", n + 1));
        let mut disk: Vec<(String, String)> = (0..bases).map(file).collect();
        disk[0].0 = FILE.to_owned();
        disk.push((format!("plans/shop/{bases}.yaml"), "last: true".to_owned()));
        let disk: Vec<(&str, &str)> = disk.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        joined(&disk)
    };
    let shown = written(FILE, &chain(8).unwrap(), &[]).unwrap();
    assert!(shown.starts_with("last: true\na7: 7\n") && shown.ends_with("a0: 0\n"), "{shown}");
    let refused = chain(9).unwrap_err();
    assert!(refused.contains("\n --> plans/shop/8.yaml:1:10\n") && refused.contains("8.yaml -> 9.yaml"), "{refused}");
    for (path, expected) in [
        ("/etc/plan.yaml", "not a path from this file"),
        ("[a]", "not a path from this file"),
        ("\"a\\nb\"", "not a path from this file"),
        ("~", "a plan"),
        ("x.yaml\n---\nextends: y.yaml", "`extends` in a later document"),
    ] {
        let found = joined(&[(FILE, &over(path))]).map_or_else(|report| report, |_| "a plan".to_owned());
        assert!(found.contains(expected), "{path}: {found}");
    }
}

#[test]
fn a_text_without_its_base_says_how_to_start_it() {
    let findings = read_plan("plan", SHOP, &[], &Validators::new()).unwrap_err();
    let expected = "plan:1:10: error[P14]: `extends` without its base `../common.yaml`: start the file itself, \
                    which reads the base too: `bellwether rollout start FILE --release RELEASE`";
    let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(said, [expected]);
}

#[test]
fn one_text_is_the_same_wherever_it_is_joined() {
    let text = joined(&[(FILE, SHOP), ("plans/common.yaml", COMMON)]).unwrap();
    assert_eq!(text, format!("--- # file: ../common.yaml\n{COMMON}--- # file: plan.yaml\n{SHOP}"));
    let read = |path: &str| if path == "../common.yaml" { Ok(COMMON.to_owned()) } else { Err(path.to_owned()) };
    assert_eq!(join("plan.yaml", SHOP.to_owned(), read).unwrap(), text);
    // It stands for itself: joined again, read from a message, or without any base.
    assert_eq!(join("x", text.clone(), |_| Err(String::new())).unwrap(), text);
    let sources = [("../common.yaml".to_owned(), COMMON), ("plan.yaml".to_owned(), SHOP)];
    assert_eq!(files("plan", &text), sources);
    assert_eq!(join("x", COMMON.to_owned(), |_| Err(String::new())).unwrap(), COMMON);
    assert_eq!(files("x", COMMON), [("x".to_owned(), COMMON)]);
}

/// Bits of plans, with names and keys that meet each other.
fn layer() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "a:",
        "b:",
        "name: x",
        "name: y",
        "- ",
        "{ ",
        " }",
        "[",
        "]",
        ", ",
        "remove: true",
        "before: x",
        "~",
        "1",
        "'2'",
        "&k ",
        "*k",
        "\n",
        "\n  ",
        "\n  - ",
        "\n    ",
        " ",
        "---\n",
        "--- # file: a\n",
        "\n--- # file: ",
        "extends: a\n",
        "criteria:",
        "stages:",
        "levers:",
        "\"é\u{2028}\"",
        "soak: 1h",
        "|\n  text\n",
        "\r\n",
        "\u{feff}",
    ]);
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_layers_are_a_plan_or_findings(layers in proptest::collection::vec(layer(), 1..5), over in layer()) {
        let text = layers.join("--- # file: b\n");
        let sources = files(FILE, &text);
        if let Err(findings) = read_plan(FILE, &text, std::slice::from_ref(&over), &Validators::new()) {
            assert!(!findings.is_empty());
            assert!(findings.iter().all(|own| sources.iter().any(|(name, _)| *name == own.file)), "{findings:?}");
            render(&findings, &sources);
        }
        if let Ok(shown) = written(FILE, &text, &[]) {
            assert_eq!(written(FILE, &shown, &[]), Ok(shown.clone()), "of {text}");
        }
        if let Err(wrong) = join(FILE, over, |_| Ok(layers[0].clone())) {
            render(&[wrong.finding], &files(FILE, &wrong.text));
        }
    }

    #[test]
    fn a_plan_is_what_it_is_shown_as(lines in proptest::sample::subsequence(COMMON.lines().collect::<Vec<_>>(), 0..20)) {
        let text = joined(&[(FILE, SHOP), ("plans/common.yaml", &lines.join("\n"))]).unwrap();
        let plan = |text: &str| read_plan(FILE, text, &[], &Validators::new()).map(|(plan, _)| plan).ok();
        if let Ok(shown) = written(FILE, &text, &[]) {
            assert_eq!(plan(&shown), plan(&text), "{shown}");
        }
    }

    #[test]
    fn layers_keep_the_bounds_of_one_text(documents in 1_usize..40, keys in 0_usize..1_500, depth in 0_usize..40) {
        let deep = format!("{}1{}", "{a: ".repeat(depth), "}".repeat(depth));
        let layer = |n: usize| format!("---\nx: {deep}\n{}", (0..keys).map(|key| format!("k{n}_{key}: 1\n")).collect::<String>());
        let text: String = (0..documents).map(layer).collect();
        let all = documents * (2 * keys + 2 * depth + 3);
        let is_within = documents <= 32 && all <= 20_000 && depth < 32;
        let shown = written(FILE, &text, &[]);
        assert_eq!(shown.is_ok(), is_within, "{documents} documents, {all} nodes, depth {depth}");
        assert!(shown.map_or(0, |text| text.lines().count()) <= 10_000);
    }
}
