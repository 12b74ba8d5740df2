//! The short form of a criterion, from outside: what each sentence means, what is said of the rest, and
//! that whatever it can say is written back in the same words.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use bellwether_protocol::plan::{Finding, Objective, Validators, read_plan, render};
use bellwether_protocol::ratio::{ONE_PPB, Ratio, Times};
use bellwether_protocol::sample::class;
use bellwether_protocol::time::Span;
use proptest::prelude::{Just, ProptestConfig, any, prop_oneof, proptest};
use proptest::strategy::Strategy;

/// A plan whose one criterion is `must: ` and then `must`.
fn plan(must: &str) -> String {
    format!(
        "service: shop
regions: {{ east: http://127.0.0.1:8001 }}
cohorts: {{ baseline: {{}} }}
slis:
  - {{ name: checkout, every: 1s, http: {{ path: /checkout }} }}
criteria:
  - name: first
    must: {must}
stages:
  - {{ name: canary, soak: 48h }}
"
    )
}

fn read(text: &str) -> Result<Objective, Vec<Finding>> {
    let (plan, findings) = read_plan("shop.yaml", text, &[], &Validators::new())?;
    assert_eq!(findings, []);
    assert_eq!(plan.criteria[0].sli.as_str(), "checkout");
    Ok(plan.criteria[0].objective.clone())
}

fn accepted(text: &str) -> Objective {
    read(text).unwrap_or_else(|findings| panic!("{}", render(&findings, &[("shop.yaml", text)])))
}

/// The sentence means the same as the structured form, and is written back in the same words.
#[track_caller]
fn means(sentence: &str, structured: &str) {
    let same = plan("-").replace("must: -", structured);
    assert_eq!(accepted(&plan(&format!("'{sentence}'"))), accepted(&same), "{sentence}");
    assert_eq!(accepted(&same).to_string(), sentence);
}

/// The sentence means the same as another one.
#[track_caller]
fn same(sentence: &str, other: &str) {
    assert_eq!(accepted(&plan(&format!("'{sentence}'"))).to_string(), other);
}

#[test]
fn sentences_stand_for_objectives() {
    means("error_ratio < 0.1%", "ratio: { sli: checkout, max: 0.1% }");
    means("error_ratio < 0.1%, alert 0.5%", "ratio: { sli: checkout, max: 0.5%, target: 0.1% }");
    means("timeout_ratio < 1%", "ratio: { sli: checkout, max: 1%, bad: [timeout] }");
    means("error_ratio (http_5xx, timeout) < 1%", "ratio: { sli: checkout, max: 1%, bad: [http_5xx, timeout] }");
    means("p99 < 10s", "quantile: { sli: checkout, q: 99%, max: 10s }");
    means("p99.9 < 500ms, alert 2s", "quantile: { sli: checkout, q: 99.9%, max: 2s, target: 500ms }");
    means("no errors", "zero: { sli: checkout }");
    means("no http_5xx, timeout", "zero: { sli: checkout, bad: [http_5xx, timeout] }");
    means("canary error_ratio <= 1.5x baseline", "compare: { sli: checkout }");
    means("canary http_5xx_ratio <= 2x baseline", "compare: { sli: checkout, times: 2x, bad: [http_5xx] }");
    means("canary p99 <= 1.5x baseline", "compare_latency: { sli: checkout, q: 99%, times: 1.5x }");
    means("canary latency <= 1.2x baseline", "compare_latency: { sli: checkout }");
    means("memory stable within 5% a day", "stable: { sli: checkout, number: memory, within: 5% }");
    means(
        "memory stable within 5% a day, uptime uptime",
        "stable: { sli: checkout, number: memory, within: 5%, uptime: uptime }",
    );
    means("burn 30d slo 99.9%", "burn: { sli: checkout, slo: 99.9%, period: 30d }");
    means("burn 30d slo 99.9%, spend 5%", "burn: { sli: checkout, slo: 99.9%, period: 30d, spend: 5% }");
    means("burn (timeout) 7d slo 99%", "burn: { sli: checkout, slo: 99%, period: 7d, bad: [timeout] }");
    means(
        "memory_used < 1.5GB, alert 1.8GB",
        "number: { sli: checkout, number: memory_used, max: 1.8GB, target: 1.5GB }",
    );
    means("handlers >= 4", "number: { sli: checkout, number: handlers, min: 4 }");
    means("never 3 slots down", "consecutive: { sli: checkout, slots: 3 }");
}

#[test]
fn the_same_is_said_in_other_words() {
    same("p99<10s", "p99 < 10s");
    same("  no   5xx,timeout ", "no http_5xx, timeout");
    same("5xx_ratio <= 1%", "http_5xx_ratio < 1%");
    same("canary 4xx_ratio < 2x baseline", "canary http_4xx_ratio <= 2x baseline");
    same("database < 1GB, alert 900MB", "database < 900MB, alert 1GB");
    same("error_ratio < 0.5%, alert 0.1%", "error_ratio < 0.1%, alert 0.5%");
    same("timings < 1e300", "timings < 1e300");
}

/// Everything that is said of a plan whose one criterion has this sentence.
fn said(sentence: &str) -> String {
    let findings = match read_plan("shop.yaml", &plan(sentence), &[], &Validators::new()) {
        Ok((_, findings)) | Err(findings) => findings,
    };
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// The one thing that is said of the sentence, which begins in column 12.
#[track_caller]
fn refused(sentence: &str, column: usize, expected: &str) {
    let said = said(&format!("\"{sentence}\""));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with(&format!("shop.yaml:8:{}: error[{expected}", column + 11)), "{said}");
}

#[test]
fn sentences_that_make_no_sense_are_shown_where_they_go_wrong() {
    refused("error_ratio 0.1%", 13, "P02]: `0.1%` where `<` is needed: write for example `error_ratio < 0.1%, alert");
    refused("error_ratio == 0.1%", 13, "P02]: `==` where `<` is needed");
    refused("error_ratio >= 0.1%", 13, "P02]: `>=` where `<` is needed");
    refused("error_ratio <", 14, "P02]: nothing where a limit is needed");
    refused("error_ratio < 0.1%, alrt 0.5%", 21, "P02]: `alrt` where `alert` is needed");
    refused("error_ratio < 0.1%,", 20, "P02]: nothing where `alert` is needed");
    refused("memory < 1.5 GB", 14, "P02]: `GB` where the end is needed");
    refused("handlers > 4", 10, "P02]: `>` where `>=` is needed: write for example `handlers >= 4`");
    refused(
        "handlers >= 4, alert 5",
        14,
        "P02]: `,` where the end is needed: a lower limit has no alert: leave it out",
    );
    let share = "a share of answers is one of these: did you mean `error_ratio`?";
    refused("error_rate < 0.1%", 1, &format!("P02]: `error_rate` is read as a number, and `0.1%` is none: {share}"));
    refused(
        "latency < 10s",
        1,
        "P02]: `latency` is read as a number, and `10s` is none: for how long answers take, write",
    );
    refused("p999 < 10s", 1, "P02]: `p999` is not a quantile: write for example `p99` or `p99.9`");
    refused("nver 3 slots down", 1, "P02]: `nver` begins no sentence: did you mean `never`?");
    refused("Canary p99 <= 2x baseline", 1, "P02]: `Canary` begins no sentence: did you mean `canary`?");
    refused("never 3 slots up", 15, "P02]: `up` where `down` is needed: write for example `never 3 slots down`");
    refused("no", 3, "P02]: nothing where a class of answers is needed: write for example `no 5xx, timeout`");
    refused("no 5x", 4, "P02]: no probe is known to report `5x`: did you mean `5xx`?");
    refused("no 5xx timeout", 8, "P02]: `timeout` where the end is needed: write for example `no 5xx, timeout`");
    refused("p99 < 1s alert 2s", 10, "P02]: `alert` where the end is needed");
    refused("no errors, timeout", 10, "P02]: `,` where the end is needed: write for example `no errors`");
    refused("canary memory <= 2x baseline", 8, "P02]: `memory` cannot be compared: known: error_ratio, 5xx_ratio");
    refused("canary p99 <= 2x", 17, "P02]: nothing where `baseline` is needed");
    refused("memory stable within 5% a week", 27, "P02]: `week` where `day` is needed");
    refused("burn slo 99.9%", 10, "P02]: `99.9%` where `slo` is needed: write for example `burn 30d slo 99.9%");
    refused("error_ratio (5xx < 1%", 18, "P02]: `<` where `)` is needed");
    refused(", p99 < 1s", 1, "P02]: `,` where a sentence is needed");
    refused(&"x".repeat(301), 1, "P10]: a sentence of 301 bytes: at most 300");
}

#[test]
fn values_that_make_no_sense_are_shown_inside_the_sentence() {
    refused("error_ratio < 0.1", 15, "P02]: not a percentage");
    refused("error_ratio < 0%", 15, "P12]: a share of nothing");
    refused("p99 < 10", 7, "P02]: duration without a unit: write `10s`, `10m` or `10h`");
    refused("p100 < 10s", 1, "P12]: not a quantile");
    refused("memory < 1.5cows", 10, "P02]: not a number");
    refused("no timeout, ok", 13, "P12]: good answers counted as bad");
    refused("canary p99 <= 1.5 baseline", 15, "P02]: not a factor");
    refused("canary p99 <= 0.5x baseline", 15, "P12]: a factor below 1");
    refused("never 0 slots down", 7, "P12]: no slots");
    refused("never 99999 slots down", 7, "P11]: this criterion can never fail: stage `canary` lasts 2d (line 10)");
    refused("burn 30d slo 100%", 14, "P12]: an SLO without an error budget");
    refused("burn 366d slo 90%, spend 90%", 26, "P11]: so much can never be spent");
    refused("me.mory >= 1", 1, "P02]: `me.mory` is not a number");
    // Letters of two bytes before the place, and no quotes around it.
    let unquoted = said("é  < 0.1%");
    assert!(
        unquoted.starts_with("shop.yaml:8:11: error[P02]: `é` is read as a number, and `0.1%` is none"),
        "{unquoted}"
    );
    let after = said("é <= 1 cow");
    assert!(after.starts_with("shop.yaml:8:18: error[P02]: `cow` where the end is needed"), "{after}");
    // Spelled otherwise in the file, the whole sentence is shown.
    let escaped = said(r#""error_ratio \x3c 0.1""#);
    assert!(escaped.starts_with("shop.yaml:8:11: error[P02]: not a percentage"), "{escaped}");
    let folded = said("error_ratio\n      < 0.1");
    assert!(folded.starts_with("shop.yaml:8:11: error[P02]: not a percentage"), "{folded}");
}

#[test]
fn a_report_points_into_the_sentence() {
    let text = plan("\"p99 < 10 s, alert 1m\"");
    let findings = read(&text).unwrap_err();
    let expected = "\
error[P02]: `s` where the end is needed
 --> shop.yaml:8:21
8|     must: \"p99 < 10 s, alert 1m\"
 |                     ^ write for example `p95 < 500ms, alert 2s`
1 error in 1 file. Nothing was contacted or changed.
";
    assert_eq!(render(&findings, &[("shop.yaml", &text)]), expected);
}

#[test]
fn what_stands_beside_a_sentence_is_checked() {
    let one = |from: &str, to: &str| {
        let text = plan("no errors").replacen(from, to, 1);
        let findings = match read_plan("shop.yaml", &text, &[], &Validators::new()) {
            Ok((_, findings)) | Err(findings) => findings,
        };
        findings.iter().map(|finding| format!("{finding}\n")).collect::<String>()
    };
    let check = |from: &str, to: &str, expected: &str| {
        let said = one(from, to);
        assert!(said.contains(expected) && said.lines().count() == 1, "{said}");
    };
    assert_eq!(one("must:", "sli: checkout\n    must:"), "");
    check("must:", "sli: chekout\n    must:", "8:10: error[P04]: unknown sli `chekout`: did you mean `checkout`?");
    let other = "slis:\n  - { name: health, http: {} }\n";
    let expected =
        "9:11: error[P05]: `must` without `sli`, in a plan with several: add `sli: ...`: one of health, checkout";
    check("slis:\n", other, expected);
    check("must: no errors", "must: []", "8:11: error[P06]: a list instead of a sentence: write for example `must:");
    check("must: no errors", "must:", "error[P06]: nothing instead of a sentence");
    let both = "must: no errors\n    zero: { sli: checkout }";
    check("must: no errors", both, "9:5: error[P08]: both `must` and `zero` in one criterion: keep exactly one");
    let beside = "sli: checkout\n    zero: { sli: checkout }";
    check("must: no errors", beside, "8:5: error[P03]: `sli` without `must`: it stands beside `must`");
    check("    must: no errors\n", "", "error[P08]: criterion that does not say what it is: add one of: must, ratio");
    let two = one("must: no errors", "sli: chekout\n    must: no erors");
    assert!(two.contains("unknown sli `chekout`") && two.contains("did you mean `errors`?"), "{two}");
}

fn ratio(from: u32, to: u32) -> impl Strategy<Value = Ratio> {
    (from..=to).prop_map(Ratio::from_ppb)
}

/// Two limits, the stricter one first, or only the other.
fn limits<T: PartialOrd + Clone + std::fmt::Debug>(
    one: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = (Option<T>, T)> {
    (one.clone(), one, any::<bool>()).prop_map(|(a, b, both)| match (both, a < b) {
        (false, _) => (None, a),
        (true, true) => (Some(a), b),
        (true, false) => (Some(b), a),
    })
}

/// Every objective that the short form can say, within what a check accepts. No word of its own begins
/// with an m, so no number is called like one.
fn sayable() -> impl Strategy<Value = Objective> {
    let known: Vec<&str> = class::ALL.into_iter().filter(|name| *name != class::OK).collect();
    let bad = proptest::sample::subsequence(known, 0..=4)
        .prop_map(|names| names.into_iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>());
    let number = || "m[A-Za-z0-9_-]{1,20}".prop_map(|name| name.parse().unwrap());
    let value = prop_oneof![
        proptest::num::f64::NORMAL | proptest::num::f64::ZERO,
        (-999_i32..999).prop_map(|tens| f64::from(tens) * 1e7),
    ];
    let span = (1_u64..366 * 86_400_000).prop_map(Span::from_ms);
    let times = (1_000_u32..9_999_999).prop_map(Times::from_milli);
    let quantile = || ratio(1, ONE_PPB - 1);
    let uptime = proptest::option::of("[A-Za-z0-9_-]{1,64}".prop_map(|name| name.parse().unwrap()));
    prop_oneof![
        (bad.clone(), ratio(990_000_000, 999_999_999), 1_u64..60, ratio(1, 200_000_000)).prop_map(
            |(bad, slo, days, spend)| Objective::Burn { bad, slo, period: Span::from_secs(days * 86_400), spend }
        ),
        (bad.clone(), times.clone()).prop_map(|(bad, times)| Objective::Compare { bad, times }),
        (proptest::option::of(quantile()), times)
            .prop_map(|(quantile, times)| Objective::CompareLatency { quantile, times }),
        (1_u32..1_000).prop_map(|slots| Objective::Consecutive { slots }),
        (number(), value.clone()).prop_map(|(number, min)| Objective::Number {
            number,
            min: Some(min),
            max: None,
            target: None
        }),
        (number(), limits(value)).prop_map(|(number, (target, max))| Objective::Number {
            number,
            min: None,
            max: Some(max),
            target
        }),
        (quantile(), limits(span)).prop_map(|(quantile, (target, max))| Objective::Quantile { quantile, max, target }),
        (bad.clone(), limits((1..ONE_PPB).prop_map(Ratio::from_ppb)))
            .prop_map(|(bad, (target, max))| Objective::Ratio { bad, max, target }),
        number().prop_map(|number| Objective::Rising { number }),
        (number(), ratio(1, ONE_PPB), uptime).prop_map(|(number, within, uptime)| Objective::Stable {
            number,
            within,
            uptime
        }),
        prop_oneof![Just(Vec::new()), bad].prop_map(|bad| Objective::Zero { bad }),
    ]
}

fn sentence_like() -> impl Strategy<Value = String> {
    let pieces = vec![
        "no ",
        "never ",
        "burn ",
        "canary ",
        "error_ratio ",
        "5xx_ratio",
        "p99",
        "p",
        "latency",
        "memory ",
        "stable ",
        "within ",
        "a day",
        "<",
        "<= ",
        ">= ",
        ">",
        "=",
        ",",
        ", alert ",
        "(",
        ")",
        "0.1%",
        "10s",
        "1.5x ",
        "baseline",
        "1.5GB",
        "3 slots",
        " down",
        "slo ",
        "spend",
        "é",
        "\u{2028}",
        "\t",
        "ok",
        "errors",
        "timeout",
        "uptime",
    ];
    proptest::collection::vec(proptest::sample::select(pieces), 0..12).prop_map(|pieces| pieces.concat())
}

/// Any sentence is an objective, or findings that point into its line and can be shown.
fn survives(sentence: &str) {
    let quoted = serde_json::Value::from(sentence).to_string();
    let text = plan(&quoted);
    if let Err(findings) = read_plan("shop.yaml", &text, &[], &Validators::new()) {
        assert!(!findings.is_empty());
        render(&findings, &[("shop.yaml", &text)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_can_be_said_is_said_back(objective in sayable()) {
        let sentence = objective.to_string();
        let (plan, _) = read_plan("shop.yaml", &plan(&format!("'{sentence}'")), &[], &Validators::new())
            .unwrap_or_else(|findings| panic!("{sentence}: {}", findings[0]));
        assert_eq!(plan.criteria[0].objective, objective, "{sentence}");
    }

    #[test]
    fn any_text_is_a_sentence_or_findings(text in any::<String>()) {
        survives(&text);
    }

    #[test]
    fn anything_like_a_sentence_is_one_or_findings(text in sentence_like()) {
        survives(&text);
    }

    #[test]
    fn unquoted_text_is_a_sentence_or_findings(text in sentence_like()) {
        let text = plan(&text);
        if let Err(findings) = read_plan("shop.yaml", &text, &[], &Validators::new()) {
            render(&findings, &[("shop.yaml", &text)]);
        }
    }
}
