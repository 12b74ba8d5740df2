//! What a plan decides on samples: a small service that is well, bad figures, and that no order of
//! lines, repetition or gap ever helps.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fmt::Write;
use std::ops::ControlFlow;

use bellwether_coordinator::backtest::{Samples, SamplesError, backtest};
use bellwether_protocol::backtest::{Decision, Event, Outcome};
use bellwether_protocol::plan::{Plan, read_plan};
use bellwether_protocol::reason::{Hold, Verdict};
use bellwether_protocol::time::{Span, Timestamp};
use proptest::prelude::*;

const START: i64 = 1_800_000_000_000;
const SLOT: Span = Span::from_secs(60);

/// Two regions, story 2's thresholds.
fn plan(soak: &str, require: &str) -> Plan {
    let text = format!(
        "
service: estimator
slot: 60s
regions: {{ iad: 'https://iad.example', sjc: 'https://sjc.example' }}
levers: {{ traffic: {{}} }}
slis: [{{ name: requests, every: 10s, http: {{}} }}]
criteria:
  - {{ name: error_rate, must: 'error_ratio < 0.1%, alert 0.5%', hard: true, require: {require} }}
stages: [{{ name: canary, soak: {soak}, enter: [{{ set: traffic, to: 10% }}] }}]
"
    );
    read_plan("estimator.yaml", &text, &[], &Default::default()).unwrap().0
}

/// One slot of one region: n and bad.
type Cell = (&'static str, i64, u64, u64);

fn lines(cells: &[Cell]) -> Vec<String> {
    let line = |(region, slot, n, bad): &Cell| {
        let at = Timestamp::from_ms(START + slot * 60_000).seconds();
        format!(
            "{{\"at\":\"{at}\",\"sli\":\"requests\",\"cohort\":\"canary\",\"region\":\"{region}\",\"n\":{n},\"bad\":{bad}}}\n"
        )
    };
    cells.iter().map(line).collect()
}

fn read(plan: &Plan, text: &str) -> Result<Samples, SamplesError> {
    Samples::read("samples.jsonl", text.as_bytes(), plan)
}

fn decide(plan: &Plan, text: &str) -> Decision {
    backtest(plan, &read(plan, text).unwrap(), false, |_| ControlFlow::Continue(())).unwrap()
}

/// A service that answers six requests a minute, one in two thousand badly.
fn small_service(slots: i64, silent: Option<&'static str>) -> String {
    let regions = ["iad", "sjc"].into_iter().filter(|region| Some(*region) != silent);
    let cells: Vec<Cell> = regions
        .flat_map(|region| (0..slots).map(move |slot| (region, slot, 6, u64::from(region == "sjc" && slot == 130))))
        .collect();
    lines(&cells).concat()
}

#[test]
fn a_small_service_that_is_well_is_promoted_without_a_human() {
    let plan = plan("4h", "not_failed");
    let text = small_service(241, None);
    let decision = decide(&plan, &text);
    assert_eq!(decision.decision, Outcome::Completed, "{decision:?}");
    assert_eq!(decision.at, Timestamp::from_ms(START) + Span::from_secs(4 * 3_600));
    // What the data rule out is told: 1 of 2,880 is less than 0.5 %.
    let mut bounds = Vec::new();
    let samples = read(&plan, &text).unwrap();
    backtest(&plan, &samples, false, |event| {
        if let Event::Reason(_, bellwether_protocol::reason::Reason::VerdictChanged { judgement }) = event {
            bounds.extend(judgement.grounds.as_ref().map(|grounds| grounds.high));
        }
        ControlFlow::Continue(())
    });
    assert!(bounds.iter().all(|bound| bound.ppb() > 0), "{bounds:?}");
}

#[test]
fn the_same_service_with_a_silent_region_is_held() {
    let decision = decide(&plan("4h", "not_failed"), &small_service(241, Some("iad")));
    assert_eq!(decision.decision, Outcome::Held, "{decision:?}");
    assert!(
        matches!(&decision.holds[..], [Hold::NoData { region, .. }, ..] if region.as_str() == "iad"),
        "{decision:?}"
    );
}

#[test]
fn a_proof_that_the_plan_wants_is_waited_for() {
    let plan = plan("4h", "proven");
    let decision = decide(&plan, &small_service(241, None));
    assert_eq!(decision.decision, Outcome::Held);
    assert!(decision.holds.iter().any(|hold| matches!(hold, Hold::NotProven { .. })), "{decision:?}");
}

#[test]
fn a_regression_in_one_region_is_taken_back_from_there() {
    let cells: Vec<Cell> = ["iad", "sjc"]
        .into_iter()
        .flat_map(|region| {
            (0..240).map(move |slot| (region, slot, 360, if region == "sjc" && slot >= 100 { 18 } else { 0 }))
        })
        .collect();
    let decision = decide(&plan("4h", "not_failed"), &lines(&cells).concat());
    assert_eq!(decision.decision, Outcome::TakenBack, "{decision:?}");
    let judgement = decision.judgement.unwrap();
    assert_eq!(judgement.region.unwrap().as_str(), "sjc");
    assert!(decision.at <= Timestamp::from_ms(START) + SLOT.times(103), "{}", decision.at);
}

#[test]
fn lines_that_are_no_samples_are_refused_with_their_number() {
    let good = small_service(3, None);
    let cases = [
        ("{\"at\":\"2027-01-15T08:00:00Z\",\"sli\":\"requests\",\"region\":\"sjc\",\"n\":6,\"ba", "cut off"),
        ("{\"at\":\"2027-01-15T08:00:00Z\",\"sli\":\"request\",\"region\":\"sjc\",\"n\":6}\n", "no `request`"),
        ("{\"at\":\"2027-01-15T08:00:00Z\",\"sli\":\"requests\",\"region\":\"fra\",\"n\":6}\n", "no `fra`"),
        ("{\"at\":\"2027-01-15T08:00:00Z\",\"sli\":\"requests\",\"n\":6}\n", "region"),
        ("{\"at\":\"yesterday\",\"sli\":\"requests\",\"region\":\"sjc\",\"n\":6}\n", "RFC 3339"),
        ("{\"at\":\"2027-01-15T08:00:07Z\",\"sli\":\"requests\",\"region\":\"sjc\",\"n\":6}\n", "start of a slot"),
        ("{\"at\":\"2027-01-15T08:00:00Z\",\"sli\":\"requests\",\"region\":\"sjc\",\"n\":-6}\n", "n"),
        ("{\"at\":\"2027-01-15T08:00:00Z\",\"sli\":\"requests\",\"region\":\"sjc\",\"n\":NaN}\n", "not a sample"),
        ("{\"at\":\"2027-01-15T08:00:00Z\",\"sli\":\"requests\",\"region\":\"sjc\",\"n\":1e308}\n", "not a sample"),
        ("{\"at\":\"2027-01-15T08:00:00Z\",\"sli\":\"requests\",\"region\":\"sjc\"}\n", "neither"),
        (
            "{\"at\":\"2027-01-15T08:00:00Z\",\"sli\":\"requests\",\"region\":\"sjc\",\"n\":6,\"nn\":1}\n",
            "unknown field",
        ),
        (
            "{\"at\":\"2027-01-15T08:00:00Z\",\"sli\":\"requests\",\"region\":\"sjc\",\"buckets\":{\"-1\":6}}\n",
            "upper edge",
        ),
        ("[]\n", "not a sample"),
    ];
    for (bad, expected) in cases {
        let error = read(&plan("4h", "not_failed"), &format!("{good}{bad}")).unwrap_err().to_string();
        assert!(error.starts_with("samples.jsonl:7: ") && error.contains(expected), "{bad}: {error}");
    }
    assert!(matches!(read(&plan("4h", "not_failed"), "\n\n"), Err(SamplesError::Empty(_))));
}

#[test]
fn figures_that_cannot_be_true_leave_a_gap_and_are_counted() {
    let plan = plan("3m", "not_failed");
    let whole = small_service(6, None);
    assert_eq!(decide(&plan, &whole).decision, Outcome::Completed);
    let at = "{\"at\":\"2027-01-15T08:01:00Z\",\"sli\":\"requests\",\"region\":\"sjc\"";
    let sjc = lines(&[("sjc", 1, 6, 0)]).concat();
    for (instead, why) in [
        (format!("{at},\"n\":6,\"bad\":7}}\n"), "more bad"),
        (format!("{at},\"n\":2000000000000,\"bad\":7}}\n"), "more events"),
        (format!("{at},\"value\":1e300}}\n"), "beyond"),
        (format!("{at},\"value\":-1}}\n"), "below zero"),
        (format!("{sjc}{at},\"n\":7,\"bad\":0}}\n"), "other figures"),
    ] {
        let decision = decide(&plan, &whole.replace(&sjc, &instead));
        assert!(decision.rejected.keys().any(|own| own.contains(why)), "{why}: {:?}", decision.rejected);
        // The slot is missing, so the soak takes one slot more.
        assert_eq!(decision.decision, Outcome::Completed, "{why}");
        assert_eq!(decision.at, Timestamp::from_ms(START) + SLOT.times(4), "{why}");
    }
}

/// How far a verdict is from a Pass.
fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Pass => 0,
        Verdict::Inconclusive(_) => 1,
        Verdict::Fail => 2,
    }
}

/// One verdict: when and where.
type Look = (Timestamp, Option<String>, Verdict);

/// Every verdict of every look, in order, and the decision.
fn looks(plan: &Plan, text: &str) -> (Vec<Look>, Option<Decision>) {
    let mut all = Vec::new();
    let Ok(samples) = read(plan, text) else { return (all, None) };
    let decision = backtest(plan, &samples, true, |event| {
        if let Event::Looks(looks) = event {
            all.extend(looks.iter().map(|look| (look.at, look.region.map(ToString::to_string), look.verdict)));
        }
        ControlFlow::Continue(())
    });
    (all, decision)
}

fn cells() -> impl Strategy<Value = Vec<Cell>> {
    prop::collection::vec((0..40_u64, 0..6_u64), 4..20).prop_map(|slots| {
        let of = |(index, (n, bad)): (i64, (u64, u64))| {
            (["iad", "sjc"][usize::from(index % 2 == 1)], index / 2, n * 20, bad.min(n * 20))
        };
        (0..).zip(slots).map(of).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50_000))]

    #[test]
    fn order_and_repetition_change_nothing(cells in cells(), keys in prop::collection::vec(any::<u32>(), 40)) {
        let plan = plan_of_tests();
        let lines = lines(&cells);
        let mut shuffled: Vec<(u32, &String)> = keys.iter().copied().zip(lines.iter().chain(&lines)).collect();
        for (index, line) in lines.iter().enumerate() {
            shuffled.push((keys[index], line));
        }
        shuffled.sort();
        let mut again = String::new();
        shuffled.iter().for_each(|(_, line)| again.write_str(line).unwrap());
        prop_assert_eq!(read(&plan, &again).unwrap().rows, read(&plan, &lines.concat()).unwrap().rows);
    }

    #[test]
    fn a_gap_never_helps(cells in cells(), gap in any::<prop::sample::Index>()) {
        let plan = plan_of_tests();
        let gap = gap.index(cells.len());
        let (region, slot, _, bad) = cells[gap];
        let mut fewer = cells.clone();
        fewer.remove(gap);
        let (whole, decided) = looks(&plan, &lines(&cells).concat());
        let (gappy, decided_gappy) = looks(&plan, &lines(&fewer).concat());
        for (at, of, verdict) in &gappy {
            let Some((_, _, before)) = whole.iter().find(|(a, o, _)| (a, o) == (at, of)) else { continue };
            let in_gap = *at == Timestamp::from_ms(START) + SLOT.times(u64::try_from(slot).unwrap() + 1)
                && of.as_deref().is_none_or(|own| own == region);
            // While it gapes nothing passes; a gap where nothing was bad never helps afterwards.
            prop_assert!(!in_gap || *verdict != Verdict::Pass, "passed in the gap");
            prop_assert!(bad > 0 || rank(*verdict) >= rank(*before), "{verdict:?} instead of {before:?}");
        }
        if let (Some(whole), Some(gappy)) = (decided, decided_gappy) {
            let early = gappy.decision == Outcome::Completed && whole.decision == Outcome::Completed && gappy.at < whole.at;
            prop_assert!(!early, "completed earlier with a gap");
        }
    }
}

/// A plan that is read once: the properties try it many times.
fn plan_of_tests() -> Plan {
    thread_local! {
        static PLAN: Plan = plan("4m", "not_failed");
    }
    PLAN.with(Plan::clone)
}
