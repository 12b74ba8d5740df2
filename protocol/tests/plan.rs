//! The plan reader, from outside: what it accepts, and word for word what it says of the rest.

use std::collections::BTreeMap;

use bellwether_protocol::plan::{
    FailStep, Finding, Flaw, LeverUse, Objective, OnFail, Plan, SetTo, Validators, files, join, read_plan, render,
};
use bellwether_protocol::time::Span;
use proptest::prelude::{ProptestConfig, any, proptest};
use proptest::strategy::Strategy;

const SMALL: &str = r#"service: shop
regions:
  east: http://127.0.0.1:8001
levers:
  traffic: {}
  release: { holds_release: true }
  database: {}
slis:
  - name: checkout
    every: 1s
    http: { path: /checkout }
criteria:
  - name: error_rate
    ratio: { sli: checkout, max: 5% }
    hard: true
stages:
  - name: canary
    enter:
      - { set: traffic, to: 10% }
      - { set: release, to: "{release}" }
    soak: 1h
"#;

fn read(text: &str, overrides: &[&str]) -> Result<(Plan, Vec<Finding>), Vec<Finding>> {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    read_plan("shop.yaml", text, &overrides, &Validators::new())
}

#[expect(clippy::panic, reason = "fails the test with the whole report")]
fn accepted(text: &str, overrides: &[&str]) -> Plan {
    let (plan, _) =
        read(text, overrides).unwrap_or_else(|findings| panic!("{}", render(&findings, &[("shop.yaml", text)])));
    plan
}

/// What is said of the small plan when `from` in it is replaced by `to`.
fn said(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "the small plan does not contain {from}");
    let text = SMALL.replacen(from, to, 1);
    let findings = match read(&text, &[]) {
        Ok((_, findings)) | Err(findings) => findings,
    };
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

#[track_caller]
fn check(from: &str, to: &str, expected: &str) {
    let said = said(from, to);
    assert!(said.lines().any(|line| line.contains(expected)), "expected: {expected}\nsaid: {said}");
}

#[test]
fn stored_plans_are_accepted() {
    for (file, text, warnings) in [
        ("shop.yaml", include_str!("../../tests/plans/shop.yaml"), 0),
        ("estimator-production.yaml", include_str!("../../tests/plans/estimator-production.yaml"), 1),
        ("estimator-staging.yaml", include_str!("../../tests/plans/estimator-staging.yaml"), 1),
        ("fault-lens.yaml", include_str!("../../tests/plans/fault-lens.yaml"), 0),
        ("pipeline.yaml", include_str!("../../tests/plans/pipeline.yaml"), 0),
    ] {
        let read = read_plan(file, text, &[], &Validators::new());
        let (plan, findings) = read.unwrap_or_else(|findings| panic!("{}", render(&findings, &[(file, text)])));
        assert_eq!(findings.len(), warnings, "{}", render(&findings, &[(file, text)]));
        assert_eq!(plan.release_lever().is_some(), file != "estimator-staging.yaml");
    }
}

/// Services that are nearly the same share what they have in common, and differ in a few lines.
#[test]
fn stored_plans_with_one_base_are_accepted() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/plans");
    let text = |file: &str| std::fs::read_to_string(folder.join(file)).map_err(|error| error.to_string());
    let plan = |file: &str| {
        let text = join(file, text(file).unwrap(), text).unwrap_or_else(|wrong| panic!("{}", wrong.finding));
        let read = read_plan(file, &text, &[], &Validators::new());
        read.unwrap_or_else(|findings| panic!("{}", render(&findings, &files(file, &text))))
    };
    let [(cart, said), (search, none)] = ["cart.yaml", "search.yaml"].map(plan);
    assert!(said.is_empty() && none.is_empty(), "{said:?} {none:?}");
    assert_eq!((cart.service.as_str(), cart.regions.len()), ("cart", 2));
    assert_eq!((search.service.as_str(), search.regions.len()), ("search", 1));
    let soaks = |plan: &Plan| plan.stages.iter().map(|stage| (stage.soak, stage.approval)).collect::<Vec<_>>();
    assert_eq!(soaks(&cart), [(Span::from_secs(14_400), false), (Span::from_secs(86_400), false)]);
    assert_eq!(soaks(&search), [(Span::from_secs(3_600), true), (Span::from_secs(86_400), false)]);
    assert_ne!(cart.criteria[0].objective, search.criteria[0].objective);
    assert_eq!(cart.criteria[2], search.criteria[2]);
    // The base alone is no plan, and says whose it may be.
    let text = text("storefront.yaml").unwrap();
    let findings = read_plan("storefront.yaml", &text, &[], &Validators::new()).unwrap_err();
    let help = "add `service: ...`, or check the plan that extends this one";
    assert_eq!(findings[0].help.as_deref(), Some(help));
}

#[test]
fn the_documented_plan_is_accepted_and_means_what_it_says() {
    let doc = include_str!("../src/plan/mod.rs");
    let yaml: Vec<&str> = doc
        .lines()
        .filter_map(|line| line.strip_prefix("//!"))
        .skip_while(|line| line.trim() != "```yaml")
        .skip(1)
        .take_while(|line| line.trim() != "```")
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let plan = accepted(&yaml.join("\n"), &[]);
    let stage = &plan.stages[0];
    assert_eq!(stage.soak, Span::from_secs(4 * 3_600));
    assert_eq!(stage.enter[1].to, SetTo::Release);
    assert_eq!(plan.take_back.levels[0].set[1].to, SetTo::Previous);
    assert_eq!(plan.slis[0].settings["refusal"][1], "body contains FEATURE_DISABLED");
    assert_eq!((stage.enter[3].to.clone(), stage.during.len(), stage.irreversible), (SetTo::Run, 1, true));
    assert_eq!(plan.take_back.levels[0].refuses, ["checkout".parse().unwrap()]);
    assert_eq!(plan.freeze[0].zone.to_string(), "Europe/Berlin");
    let own = |lever: &LeverUse| (FailStep::act(&lever.on_drift, Span::ZERO), lever.runs);
    let alone = plan.levers.values().map(own).filter(|own| *own != (OnFail::Hold, false));
    assert_eq!(alone.collect::<Vec<_>>(), [(OnFail::Rollback, false), (OnFail::Hold, true), (OnFail::Hold, true)]);
    let number = plan.criteria.iter().find_map(|c| match &c.objective {
        Objective::Number { max, .. } => *max,
        _ => None,
    });
    assert_eq!(number.map(|max| max.to_bits()), Some(1.8e9_f64.to_bits()));
}

#[test]
fn what_is_left_out_has_its_default() {
    let plan = accepted(SMALL, &[]);
    assert_eq!((plan.slot, plan.grace, plan.quorum), (Span::from_secs(30), Span::from_secs(10), 1));
    assert!(plan.canary.is_empty() && plan.baseline.is_none() && plan.fingerprint.is_none());
    assert_eq!(plan.criteria[0].on_fail, OnFail::Rollback.at_once());
    let stage = &plan.stages[0];
    assert_eq!((stage.regions.len(), stage.criteria.len(), stage.cohorts.len()), (1, 1, 1));
    let level = &plan.take_back.levels[0];
    assert!(level.set.len() == 2 && level.set.iter().all(|set| set.to == SetTo::Previous));
    let short = accepted(&SMALL.replace("service: shop", "service: shop\nslot: 2s"), &[]);
    assert_eq!(short.grace, Span::from_secs(2));
}

#[test]
fn values_are_taken_as_they_are_written() {
    for (written, value) in [("on", "on"), ("true", "true"), ("010", "010"), ("'1.0'", "1.0"), ("100%", "100%")] {
        let plan = accepted(&SMALL.replace("to: 10%", &format!("to: {written}")), &[]);
        assert_eq!(plan.stages[0].enter[0].to, SetTo::Value(value.parse().unwrap()));
    }
    check("\"{release}\"", "{release}", "P02]: a map, not a value: write it in quotes: `\"{release}\"`");
    check("\"{release}\"", "\"{releas}\"", "P02]: unknown placeholder: write `{release}`, `{previous}` or a value");
}

#[test]
fn every_error_of_one_file_is_shown() {
    let text = SMALL
        .replace("set: traffic", "set: trafic")
        .replace("soak: 1h", "soak: 240")
        .replace("hard: true", "hard: yes\n    fro: 1s")
        .replace("max: 5%", "max: 0.05");
    let findings = read(&text, &[]).unwrap_err();
    let expected = "\
error[P02]: not a percentage
  --> shop.yaml:14:34
14|     ratio: { sli: checkout, max: 0.05 }
  |                                  ^^^^ write for example `0.1%`, from 0% to 100%, with at most 7 decimals
error[P02]: `hard` cannot be `yes`
  --> shop.yaml:15:11
15|     hard: yes
  |           ^^^ write `true` or `false`
error[P03]: unknown key `fro` in criterion
  --> shop.yaml:16:5
16|     fro: 1s
  |     ^^^ did you mean `for`? (also: name, sli, must, ratio, zero, quantile, number, consecutive, compare, compare_latency, rising, stable, burn, hard, min_events, require, on_fail)
error[P04]: unknown lever `trafic`
  --> shop.yaml:20:16
20|       - { set: trafic, to: 10% }
  |                ^^^^^^ did you mean `traffic`? (also: release, database)
error[P02]: duration without a unit
  --> shop.yaml:22:11
22|     soak: 240
  |           ^^^ write `240s`, `240m` or `240h`
5 errors in 1 file. Nothing was contacted or changed.
";
    assert_eq!(render(&findings, &[("shop.yaml", &text)]), expected);
    let json = serde_json::to_value(&findings[3]).unwrap();
    assert_eq!(json["code"], "P04");
    assert_eq!((json["line"].as_u64(), json["column"].as_u64()), (Some(20), Some(16)));
    assert_eq!((json["key"].as_str(), json["value"].as_str()), (Some("set"), Some("trafic")));
}

#[test]
fn shapes_that_are_wrong_are_refused() {
    check("service: shop\n", "", "P05]: plan without `service`: add `service: ...`");
    check("service: shop", "service: my shop", "P02]: `my shop` is not a service: use 1 to 64 of A-Z a-z 0-9 _ -");
    check("service: shop", "service: [shop]", "P06]: a list instead of a single value: `service` takes a single value");
    check("service: shop", "service:", "P06]: nothing instead of a single value");
    check("service: shop", "service: shop\nservice: shop", "2:1: error[P07]: `service` is written twice");
    check("http://127.0.0.1:8001", "127.0.0.1:8001", "P02]: not an address of the service");
    check("    http: { path: /checkout }\n", "", "P08]: sli that does not say what it is: add the kind of probe");
    check("    http: {", "    tcp: {}\n    http: {", "P08]: both `tcp` and `http` in one sli: keep exactly one");
    check("ratio: {", "ratioo: {", "P03]: unknown key `ratioo` in criterion: did you mean `ratio`?");
    check("ratio: {", "zero: { sli: checkout }\n    ratio: {", "P08]: both `zero` and `ratio` in one criterion");
    check("max: 5%", "target: 1%", "P05]: ratio without `max`");
    check("soak: 1h", "soak: 1h\n    approval: maybe", "P02]: `approval` cannot be `maybe`: write `true` or `false`");
    check("soak: 1h", "soak: 1h\n    criteria: []", "P05]: `criteria` is empty");
    check("soak: 1h", "soak: 1h\n    cohorts: [canry]", "`cohorts` cannot be `canry`: write `canary` or `baseline`");
    check("hard: true", "min_events: many", "P02]: not a whole number");
    check(SMALL, "", "P01]: the file is empty");
    check(SMALL, "- 1", "P06]: a list instead of a map");
    check("soak: 1h", "soak: 'x", "P01]: not YAML");
    let many: String = (0..65).map(|i| format!("  - {{ name: s{i}, soak: 1h }}\n")).collect();
    check(&SMALL[SMALL.find("  - name: canary").unwrap()..], &many, "P10]: 65 entries in `stages`: at most 64");
}

#[test]
fn names_that_refer_to_nothing_are_refused() {
    check("sli: checkout", "sli: chekout", "P04]: unknown sli `chekout`: did you mean `checkout`?");
    check("soak: 1h", "soak: 1h\n    regions: [west]", "P04]: unknown region `west`: known: east");
    check("soak: 1h", "soak: 1h\n    criteria: [errors]", "P04]: unknown criterion `errors`: known: error_rate");
    check("soak: 1h", "soak: 1h\n    cohorts: [canary, baseline]", "P04]: this plan has no baseline");
    check("soak: 1h", "soak: 1h\n    regions: [east, east]", "P07]: the same one twice");
    check("stages:", "stages:\n  - { name: canary, soak: 1h }", "P07]: a second stage `canary`");
    let second = |levers: &str| said("traffic: {}\n  release: { holds_release: true }", levers);
    let two = "traffic: { holds_release: true }\n  release: { holds_release: true, regions: [east] }";
    assert!(second(two).contains("P12]: it holds the release, and so does `traffic`"), "{}", second(two));
    let unknown = second("traffic: {}\n  release: { holds_release: true, regions: [west] }");
    assert!(unknown.contains("P04]: unknown region `west`: known: east"), "{unknown}");
    check("soak: 1h", "soak: 1h\n    criteria: [errors]", "W02]: no stage uses this criterion");
    check(
        "max: 5%",
        "max: 5%, bad: [http_5x]",
        "W01]: no probe is known to report `http_5x`: did you mean `http_5xx`?",
    );
    check("max: 5%", "max: 5%, bad: [ok]", "P12]: good answers counted as bad");
}

#[test]
fn what_can_never_happen_is_refused() {
    let never = "P11]: this criterion can never fail: stage `canary` lasts 1h (line 21); write at most ";
    check("hard: true", "for: 2h", &format!("{never}`1h`"));
    check(
        "hard: true",
        "window: 5m",
        "P03]: unknown key `window` in criterion: leave it out: the evidence of the whole",
    );
    let slots = "consecutive: { sli: checkout, slots: 121 }";
    check("ratio: { sli: checkout, max: 5% }", slots, &format!("{never}`120`"));
    check("max: 5%", "max: 100%", "P11]: this criterion can never fail: write less than 100%");
    let nothing = "P12]: a share of nothing: for not one bad answer write `must: no errors`, or the objective `zero`";
    check("max: 5%", "max: 0%", nothing);
    check("max: 5%", "max: 5%, target: 0%", nothing);
    let number = |limits: &str| format!("number: {{ sli: checkout, number: memory{limits} }}");
    let from = "ratio: { sli: checkout, max: 5% }";
    check(from, &number(""), "P11]: this criterion can never fail: add `max: ...` or `min: ...`");
    check(from, &number(", min: 2, max: 1"), "P12]: `min` above `max`");
    check(from, &number(", max: 1GB, target: 1GiB"), "P12]: a target beyond the limit");
    check(from, &number(", max: 1.5 cows"), "P02]: not a number");
    check(from, &number(", max: inf"), "P02]: not a number");
    let quantile = |q: &str| format!("quantile: {{ sli: checkout, q: {q}, max: 1s, target: 2s }}");
    check(from, &quantile("100%"), "P12]: not a quantile");
    check(from, &quantile("99%"), "P12]: a target beyond the limit");
    check("max: 5%", "max: 5%, target: 6%", "P12]: a target beyond the limit");
    check("every: 1s", "every: 2h", "P11]: not one look in a whole stage");
    check("every: 1s", "every: 0s", "P12]: too short: at least 10ms");
    check("service: shop", "service: shop\nslot: 0s", "P12]: a slot too short: at least 500ms");
    check("service: shop", "service: shop\ngrace: 31s", "P12]: a grace longer than a slot: at most one slot, 30s");
    check("service: shop", "service: shop\nquorum: 0", "P12]: a quorum that cannot be: from 1 to 64");
    let alpha = "P12]: a chance of false alarms that cannot be: more than 0% and at most 50%";
    check("service: shop", "service: shop\nalpha: 0%", alpha);
    check("service: shop", "service: shop\nalpha: 51%", alpha);
    check("soak: 1h", "soak: 10s", "P12]: a soak shorter than one slot: at least 30s");
    check("hard: true", "min_events: 0", "P12]: no events prove nothing");
    check("to: 10%", "to: \"{previous}\"", "P12]: a placeholder in the wrong place");
}

const RATIO: &str = "ratio: { sli: checkout, max: 5% }";

#[test]
fn comparisons_need_a_baseline_beside_the_canary() {
    for objective in ["compare: { sli: checkout }", "compare_latency: { sli: checkout, q: 99% }"] {
        check(RATIO, objective, "P11]: this criterion can never fail: it compares with a baseline: add `baseline`");
        let text = SMALL.replace(RATIO, objective).replace("levers:", "cohorts: { baseline: {} }\nlevers:");
        let plan = accepted(&text, &[]);
        match plan.criteria[0].objective {
            Objective::Compare { ref bad, times } => assert_eq!((bad.len(), times.milli()), (0, 1_500)),
            Objective::CompareLatency { times, .. } => assert_eq!(times.milli(), 1_200),
            ref other => assert_eq!(other.to_string(), ""),
        }
        let one = text.replace("soak: 1h", "soak: 1h\n    cohorts: [canary]");
        let said = read(&one, &[]).unwrap_err()[0].to_string();
        let expected = "P11]: this criterion can never fail: stage `canary` looks at one cohort alone (line 23); \
                        look at both there, or leave this out of its `criteria`";
        assert!(said.contains(expected), "{said}");
    }
    check(RATIO, "compare: { sli: checkout, times: 0.9x }", "P12]: a factor below 1");
    check(RATIO, "compare: { sli: checkout, times: 1.5 }", "P02]: not a factor: write for example `1.5x`");
    check(RATIO, "compare_latency: { sli: checkout, q: 100% }", "P12]: not a quantile");
}

#[test]
fn budgets_and_levels_that_make_no_sense_are_refused() {
    let burn = |rest: &str| format!("burn: {{ sli: checkout, {rest} }}");
    assert_eq!(said(RATIO, &burn("slo: 99.9%, period: 30d")), "");
    check(RATIO, &burn("slo: 100%, period: 30d"), "P12]: an SLO without an error budget: write less than 100%");
    check(RATIO, &burn("slo: 99.9%, period: 0s"), "P12]: a period of no time");
    check(RATIO, &burn("slo: 99.9%, period: 30d, spend: 0%"), "P12]: nothing to spend");
    check(RATIO, &burn("slo: 99.9%"), "P05]: burn without `period`");
    let never = "P11]: so much can never be spent: stage `canary` lasts 1h (line 21); an outage of all of it spends \
                 13.888% of the budget: write less";
    check(RATIO, &burn("slo: 99%, period: 30d, spend: 14%"), never);
    assert_eq!(said(RATIO, &burn("slo: 99%, period: 30d, spend: 13%")), "");
    let stable = |rest: &str| format!("stable: {{ sli: checkout, number: memory, within: {rest} }}");
    assert_eq!(said(RATIO, &stable("5%, uptime: uptime")), "");
    check(RATIO, &stable("0%"), "P12]: no room to move: no level stands still");
    let short = SMALL.replace(RATIO, &stable("5%")).replace("soak: 1h", "soak: 10m");
    let (_, findings) = read(&short, &[]).unwrap();
    let expected = "shop.yaml:14:13: warning[W03]: 18 slots cannot show whether a level is stable: \
                    the first look needs 24 buckets after the warm-up: soak for 13m30s or more";
    assert_eq!(findings[0].to_string(), expected);
}

#[test]
fn proof_is_asked_only_of_what_can_give_it() {
    check("hard: true", "require: certain", "P02]: `require` cannot be `certain`: write `not_failed` or `proven`");
    for objective in ["zero: { sli: checkout }", "stable: { sli: checkout, number: memory, within: 5% }"] {
        let text = SMALL.replace(RATIO, objective).replace("hard: true", "require: proven");
        let said = read(&text, &[]).unwrap_err()[0].to_string();
        assert!(said.contains("could prove: leave it out: all that can be asked of this one"), "{said}");
    }
    assert_eq!(said("hard: true", "require: proven"), "");
    let text = SMALL.replace("every: 1s", "every: 5m").replace("hard: true", "require: proven");
    let (_, findings) = read(&text, &[]).unwrap();
    assert_eq!(findings[0].message, "12 looks cannot show 5%");
    assert!(findings[0].notes[2].starts_with("`require: proven` keeps the stage from being left"));
}

#[test]
fn numbers_that_the_probe_does_not_report_are_refused() {
    let text = SMALL
        .replace("{ path: /checkout }", "{ path: /, numbers: { memory: { header: m }, uptime: { header: u } } }")
        .replace(RATIO, "number: { sli: checkout, number: memroy, max: 1 }");
    let said = read(&text, &[]).unwrap_err()[0].to_string();
    assert!(said.contains("P04]: unknown number `memroy`: did you mean `memory`? (also: uptime)"), "{said}");
}

#[test]
fn a_take_back_that_leaves_something_behind_is_refused() {
    let with = |levels: &str| format!("soak: 1h\ntake_back:\n{levels}");
    let level = |sets: &str| with(&format!("  levels:\n    - set: [{sets}]\n"));
    let (traffic, release) = ("{ set: traffic, to: 0% }", "{ set: release, to: \"{previous}\" }");
    check("soak: 1h", &level(traffic), "P12]: no level takes back `release`");
    assert_eq!(said("soak: 1h\n", &level(&format!("{traffic}, {release}"))), "");
    assert_eq!(said("soak: 1h\n", &with(&format!("  levels: [{{ set: [{traffic}] }}, {{ set: [{release}] }}]\n"))), "");
    check("soak: 1h", &level(&format!("{traffic}, {traffic}")), "P07]: a lever that is set twice");
    check("soak: 1h", &level("{ set: release, to: \"{release}\" }"), "P12]: a placeholder in the wrong place");
    check("soak: 1h", &with("  levels: []"), "P05]: `levels` is empty");
    check(
        "soak: 1h",
        &with("  green: 3\n  within: 2\n  levels: []"),
        "P11]: recovery can never be seen: write 3 or more",
    );
}

#[test]
fn waves_are_stages_one_after_the_other() {
    let regions = "  east: http://127.0.0.1:8001\n  west: http://127.0.0.1:8002\n  south: http://127.0.0.1:8003";
    let levers = "release: { holds_release: true, regions: [east] }
  others: { holds_release: true, regions: [south, west] }";
    let small = SMALL
        .replace("  east: http://127.0.0.1:8001", regions)
        .replace("release: { holds_release: true }", levers)
        .replace(
            "    soak: 1h",
            "      - { set: others, to: \"{release}\" }\n    soak: 1h\n    approval: true\n    WAVES",
        );
    let with = |waves: &str| small.replace("WAVES", waves);
    let plan = accepted(&with("waves: [[east], [west, south]]\n    at_most: 34%"), &["stages.canary.soak=2h"]);
    let told: Vec<_> = plan
        .stages
        .iter()
        .map(|stage| {
            let regions: Vec<&str> = stage.regions.iter().map(|region| region.as_str()).collect();
            let set: Vec<&str> = stage.enter.iter().map(|set| set.lever.as_str()).collect();
            (stage.name.as_str(), regions.join(" "), set.join(" "), stage.approval, stage.soak.to_string())
        })
        .collect();
    let stage = |name, regions: &str, set: &str, approval| {
        (name, regions.to_owned(), set.to_owned(), approval, "2h".to_owned())
    };
    let first = stage("canary-1", "east", "traffic release", false);
    assert_eq!(told, [first, stage("canary-2", "east west south", "others", true)]);
    let held = |stage, region: &str| plan.release_lever_in(stage, &region.parse().unwrap()).unwrap().to_string();
    assert_eq!([held(0, "east"), held(1, "east"), held(1, "west")], ["release", "release", "others"]);
    for (waves, expected) in [
        (
            "waves: [[east, west], [south]]\n    at_most: 34%",
            "P12]: the first wave reaches 2 of 3 regions: `at_most: 34%`",
        ),
        ("waves: [[east], [east]]", "P07]: the same one twice: a region is in one wave"),
        ("waves: [[east], west]", "P06]: a single value instead of a list: `waves` takes a list"),
        ("waves: [[east], [wets, south]]", "P04]: unknown region `wets`: did you mean `west`?"),
        ("waves: [[west]]", "P11]: this lever can never be set: its `regions` (line "),
        ("waves: [[east]]\n    regions: [west]", "P08]: both `regions` and `waves` in one stage"),
        ("at_most: 34%", "P12]: `at_most` without `waves`"),
    ] {
        let findings = read(&with(waves), &[]).unwrap_err();
        let said: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(said.len() == 1 && said[0].contains(expected), "{waves}: {said:#?}");
    }
}

#[test]
fn what_follows_a_failure_is_read_as_steps() {
    let steps =
        "hard: true\n    on_fail: [{ do: warn, tell: [ops] }, { for: 5m, do: hold }, { for: 15m, do: rollback }]";
    let criterion = accepted(&SMALL.replacen("hard: true", steps, 1), &[]).criteria.remove(0);
    let act = |minutes: u64| criterion.act(Span::from_secs(minutes * 60));
    assert_eq!([act(0), act(5), act(14), act(15)], [OnFail::Warn, OnFail::Hold, OnFail::Hold, OnFail::Rollback]);
    assert_eq!(criterion.on_fail[0].tell, ["ops".parse().unwrap()]);
    assert!(criterion.takes_back());
    let with = |steps: &str| format!("hard: true\n    on_fail: {steps}");
    check("hard: true", &with("panic"), "P02]: `on_fail` cannot be `panic`: write `warn` or `hold`");
    check("hard: true", &with("[{ do: hold }, { do: warn }]"), "P12]: steps out of order");
    check("hard: true", &with("[{ for: 2h, do: hold }]"), "P11]: this step can never begin");
    check("hard: true", &with("[{ for: 2m }]"), "P05]: step without `do`");
}

#[test]
fn what_runs_freezes_and_refuses_makes_sense() {
    let lever = "database: {}";
    check(lever, "database: { on_drift: never }", "P02]: `on_drift` cannot be `never`");
    check(lever, "database: { on_drift: [{ do: reapply, tel: [ops] }] }", "P03]: unknown key `tel` in step");
    check(lever, "database: { on_drift: [{ do: hold }, { do: warn }] }", "P12]: steps out of order");
    let enter = "- { set: traffic, to: 10% }";
    check(enter, "- { run: traffic }", "P12]: a lever that does not run anything");
    check(enter, "- { run: trafic }", "P04]: unknown lever `trafic`");
    check(enter, "- { run: traffic, set: traffic }", "P08]: both `run` and `set` in one entry");
    let during = |text: &str| format!("soak: 1h\n    during: [{text}]");
    check("soak: 1h", &during("{ every: 10s, run: database }"), "P12]: too often");
    check("soak: 1h", &during("{ every: 1m, run: database }"), "P12]: longer than `every`");
    check("soak: 1h", &during("{ every: 10m, run: database }"), "P12]: a lever that does not run anything");
    let freeze = |text: &str| format!("soak: 1h\nfreeze: [{text}]");
    check("soak: 1h", &freeze("{ from: Fri 16:00, to: 2027-01-04T08:00 }"), "P11]: a freeze that never is");
    check("soak: 1h", &freeze("{ from: Friday, to: Mon 08:00 }"), "P02]: `Friday` is not a time");
    check("soak: 1h", &freeze("{ from: Fri 16:00, to: Mon 08:00, zone: Berlin }"), "P02]: `Berlin` is not a time zone");
    let level = "soak: 1h\ntake_back:\n  levels: [{ set: [{ set: traffic, to: 0% }, { set: release, to: \"{previous}\" }], refuses: [NAME] }]";
    check("soak: 1h", &level.replace("NAME", "checkout"), "P11]: this refusal can never be seen");
    check("soak: 1h", &level.replace("NAME", "chekout"), "P04]: unknown sli `chekout`");
}

#[test]
fn proofs_that_the_looks_cannot_give_are_warned_of() {
    check("hard: true", "min_events: 5000", "W03]: 3,600 looks cannot be 5,000 events");
    let text = SMALL.replace("every: 1s", "every: 5m").replace("soak: 1h", "soak: 48h").replace("5%", "0.1%");
    let (_, findings) = read(&text, &[]).unwrap();
    let expected = "\
warning[W03]: 576 looks cannot show 0.1%
  --> shop.yaml:10:12
10|     every: 5m
  |            ^^ 2d without one failure shows 0.612% (95 % bound)
  = `error_rate` in stage `canary`: 2d at one look per 5m
  = to prove it: `every: 48s` (3,534 clean looks), or 12d7h at 5m
  = a failure is seen all the same; a pass stays unproven
no errors, 1 warning in 1 file. Nothing was contacted or changed.
";
    assert_eq!(render(&findings, &[("shop.yaml", &text)]), expected);
    // One reading of a counter may be any number of events.
    let (_, findings) = read(&text.replace("http: {", "counted: {"), &[]).unwrap();
    assert!(findings.is_empty(), "{findings:?}");
}

#[test]
fn what_is_looked_at_for_nothing_is_warned_of() {
    let text = SMALL.replace("criteria:", "  - { name: health, http: { path: /health } }\ncriteria:");
    let expected = "\
warning[W06]: no criterion judges this SLI
  --> shop.yaml:12:13
12|   - { name: health, http: { path: /health } }
  |             ^^^^^^ add a criterion such as `must: \"error_ratio < 1%\"` with this `sli`, or leave it out
no errors, 1 warning in 1 file. Nothing was contacted or changed.
";
    let (_, findings) = read(&text, &[]).unwrap();
    assert_eq!(render(&findings, &[("shop.yaml", &text)]), expected);
    let judged = |criterion: &str| text.replace("criteria:", &format!("criteria:\n  - {criterion}"));
    for criterion in [
        "{ name: up, sli: health, must: no errors }",
        "{ name: up, zero: { sli: health } }",
        "{ name: up, consecutive: { sli: health, slots: 3 } }",
    ] {
        assert!(read(&judged(criterion), &[]).unwrap().1.is_empty(), "{criterion}");
    }
}

#[test]
fn proofs_that_nobody_asks_for_are_warned_of() {
    let text = SMALL.replace("database: {}", "flag: { off: \"off\" }").replace(
        "{ path: /checkout }",
        "{ path: /checkout, refusal: [\"status == 503\"] }\ncohorts: { baseline: { headers: { x-cohort: baseline } } }",
    );
    let text = text.replace("    soak: 1h\n", "    soak: 1h\n    cohorts: [canary]\n")
        + "  - name: production
    cohorts: [canary]
    enter: [{ set: traffic, to: 100% }]
    soak: 1h
take_back:
  levels:
    - set: [{ set: flag, to: \"off\" }]
      refuses: [checkout]
    - set:
        - { set: release, to: \"{previous}\" }
        - { set: traffic, to: 0% }
        - { set: flag, to: \"off\" }
";
    let expected = "\
warning[W05]: canary-only: a bad day would be blamed on the release
  --> shop.yaml:23:15
23|     cohorts: [canary]
  |               ^^^^^^ the old release still answers (`10%`, line 20); look at it too
  = leave `cohorts` out to look at both
warning[W04]: level 2 switches `flag` off, and need not see the refusal
  --> shop.yaml:35:18
35|         - { set: flag, to: \"off\" }
  |                  ^^^^ as in level 1 (line 31): `refuses: [checkout]`
no errors, 2 warnings in 1 file. Nothing was contacted or changed.
";
    let (_, findings) = read(&text, &[]).unwrap();
    assert_eq!(render(&findings, &[("shop.yaml", &text)]), expected);
}

#[test]
fn durations_can_be_overridden_and_nothing_else() {
    let plan = accepted(
        SMALL,
        &["stages.canary.soak=60s", "slot=2s", "slis.checkout.every=500ms", "criteria.error_rate.for=20s"],
    );
    assert_eq!((plan.slot, plan.grace), (Span::from_secs(2), Span::from_secs(2)));
    assert_eq!((plan.stages[0].soak, plan.slis[0].every), (Span::from_secs(60), Span::from_ms(500)));
    assert_eq!(plan.criteria[0].hold_for, Span::from_secs(20));
    let steps = "hard: true\n    on_fail: [{ do: reapply }, { for: 15m, do: rollback }]";
    let during = "soak: 1h\n    during: [{ every: 6h, run: tests }]";
    let text = SMALL.replace("hard: true", steps).replace("soak: 1h", during);
    let text = text.replace("database: {}", "tests: { runs: true }");
    let plan = accepted(&text, &["criteria.error_rate.on_fail.1.for=20s", "stages.canary.during.0.within=20s"]);
    assert_eq!(plan.criteria[0].on_fail[1].after, Span::from_secs(20));
    assert_eq!(plan.stages[0].during[0].within, Span::from_secs(20));
    let one = |text: &str| read(SMALL, &[text]).unwrap_err()[0].to_string();
    assert_eq!(
        one("stages.canry.soak=60s"),
        "shop.yaml: error[P13]: `stages.canry.soak` cannot be overridden: did you mean `stages.canary.soak`?"
    );
    assert_eq!(
        one("slot=2"),
        "shop.yaml: error[P13]: override `slot=2`: duration without a unit: write `2s`, `2m` or `2h`"
    );
    assert_eq!(
        one("slot"),
        "shop.yaml: error[P13]: override `slot` without a value: write for example `stages.canary.soak=60s`"
    );
    assert!(one("service=x").contains("cannot be overridden"));
    let findings = read(SMALL, &["criteria.error_rate.max=1s"]).unwrap_err();
    let expected = "durations of this plan: slot, grace, stages.{canary}.{enter_within,settle,soak}, \
                    slis.{checkout}.{every,timeout}, criteria.{error_rate}.{for}";
    assert_eq!(findings[0].notes, [expected]);
}

#[test]
fn what_an_override_breaks_is_seen() {
    let findings = read(SMALL, &["stages.canary.soak=1s"]).unwrap_err();
    let expected = "\
error[P12]: a soak shorter than one slot
  --> shop.yaml:21:11
21|     soak: 1h
  |           ^^ at least 30s
  = set on the command line: soak=1s
1 error in 1 file. Nothing was contacted or changed.
";
    assert_eq!(render(&findings, &[("shop.yaml", SMALL)]), expected);
}

#[test]
fn settings_are_checked_by_their_probe() {
    fn http(settings: &serde_json::Value) -> Vec<Flaw> {
        let known = settings.get("path").is_some();
        let flaw =
            Flaw { pointer: "/pth".into(), message: "unknown key `pth`".into(), help: "did you mean `path`?".into() };
        if known { Vec::new() } else { vec![flaw] }
    }
    let validators: Validators = BTreeMap::from([("http", http as fn(&serde_json::Value) -> Vec<Flaw>)]);
    let say = |text: &str| match read_plan("shop.yaml", text, &[], &validators) {
        Ok(_) => String::new(),
        Err(findings) => findings.iter().map(|finding| format!("{finding}\n")).collect(),
    };
    assert_eq!(say(SMALL), "");
    let flaw = "shop.yaml:11:18: error[P09]: unknown key `pth`: did you mean `path`?\n";
    assert_eq!(say(&SMALL.replace("{ path:", "{ pth:")), flaw);
    let kind = say(&SMALL.replace("http: {", "htp: {"));
    assert!(kind.contains("P03]: unknown key `htp` in sli: did you mean `http`?"), "{kind}");
}

fn yaml_like() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "service",
        "stages",
        "slis",
        "levers",
        "take_back",
        "levels",
        "set",
        "to",
        "soak",
        "name",
        ": ",
        ":",
        "\n",
        "\n  ",
        "\n  - ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "10%",
        "4h",
        "\"{release}\"",
        "&a ",
        "*a",
        "'",
        "\"",
        "#",
        "|",
        ">",
        "\t",
        "é",
        "\u{feff}",
        "\r",
        "!!str ",
        "---\n",
        "? ",
        "~",
        "1e999",
        "<<: ",
    ]);
    proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// Any text gives a plan or findings, and findings can be shown.
fn survives(text: &str, overrides: &[String]) {
    if let Err(findings) = read_plan("f.yaml", text, overrides, &Validators::new()) {
        assert!(!findings.is_empty());
        render(&findings, &[("f.yaml", text)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_plan_or_findings(text in any::<String>(), over in any::<String>()) {
        survives(&text, &[over]);
    }

    #[test]
    fn anything_like_yaml_is_a_plan_or_findings(text in yaml_like()) {
        survives(&text, &[]);
    }

    #[test]
    fn a_plan_with_one_piece_changed_is_a_plan_or_findings(at in 0..SMALL.len(), len in 0_usize..20, piece in yaml_like()) {
        let end = (at + len).min(SMALL.len());
        survives(&format!("{}{piece}{}", &SMALL[..at], &SMALL[end..]), &["stages.canary.soak=1m".to_owned()]);
    }
}
