use bellwether_protocol::id::{Entry, GateVersion, Ordinal};
use bellwether_protocol::presence::Gap;
use bellwether_protocol::reason::{Grounds, Hold, Nats};
use bellwether_protocol::sample::Evidence;
use bellwether_protocol::status::{LeverStatus, NeedsYou};

use super::*;

pub(crate) fn at(clock: &str) -> Timestamp {
    format!("2026-05-05T{clock}Z").parse().unwrap()
}

pub(crate) fn judgement(name: &str, verdict: Verdict, bad: u64, n: u64) -> Judgement {
    Judgement {
        criterion: name.parse().unwrap(),
        hard: true,
        cohort: Cohort::Canary,
        region: Some("sjc".parse().unwrap()),
        verdict,
        over_target: false,
        numbers: Numbers {
            bad,
            n,
            value: format!("{:.1}%", 100.0 * bad as f64 / n.max(1) as f64),
            limit: "0.5%".into(),
        },
        failing_since: None,
        grounds: None,
    }
}

fn pooled(name: &str, value: &str, limit: &str, bad: u64, n: u64) -> Judgement {
    let numbers = Numbers { bad, n, value: value.into(), limit: limit.into() };
    Judgement { region: None, numbers, ..judgement(name, Verdict::Pass, bad, n) }
}

fn stage(name: &str, mark: StageMark, soaked: &str, soak: &str) -> StageStatus {
    let (soaked, soak) = (soaked.parse().unwrap(), soak.parse().unwrap());
    StageStatus { name: name.parse().unwrap(), mark, soaked, soak }
}

fn region(name: &str, strip: &str, covered: u64, slots: u64, answering: &[&str]) -> RegionStatus {
    let answering = answering.iter().map(|release| release.parse().unwrap()).collect();
    let strip = strip.to_owned();
    RegionStatus {
        region: name.parse().unwrap(),
        strip,
        covered,
        slots,
        answering,
        agents_live: 4,
        silent_since: None,
        gaps: Vec::new(),
    }
}

/// A healthy canary; each test changes what it is about.
fn good() -> Status {
    Status {
        rollout: "estimator/42".parse().unwrap(),
        release: "v42".parse().unwrap(),
        previous: Some("v41".parse().unwrap()),
        plan_hash: "3f9c1a000000".into(),
        overrides: Vec::new(),
        is_shadow: false,
        started_at: at("08:00:00"),
        decided_at: at("12:06:10"),
        record: Ordinal(118),
        state: State::Soaking,
        ending: None,
        summary: None,
        holds: Vec::new(),
        needs_you: None,
        stages: vec![
            stage("staging", StageMark::Passed, "4h", "4h"),
            stage("canary", StageMark::Now, "2h5m", "4h"),
            stage("production", StageMark::Later, "0s", "24h30m"),
        ],
        entry: Entry(2),
        gate: GateVersion(1),
        leaves_at: Some(at("14:00:40")),
        criteria: vec![
            Judgement { hard: false, over_target: true, ..pooled("tti", "2.6s", "3s", 0, 840) },
            pooled("error_rate", "0.013%", "0.5%", 4, 30_180),
            pooled("memory", "1.21GB", "1.8GB", 0, 252),
        ],
        budget: None,
        regions: vec![
            region("sjc", "....................", 252, 252, &["v41", "v42"]),
            region("iad", "............?.......", 251, 252, &["v41", "v42"]),
        ],
        levers: Vec::new(),
        take_back: None,
        evidence: Vec::new(),
        agents_live: 8,
        agents_known: 8,
        incidents: Vec::new(),
        excluded: Vec::new(),
        stays: false,
        slot: Span::from_secs(30),
        stuck: None,
    }
}

use bellwether_protocol::time::Span;

fn failing() -> Status {
    let lever = |name: &str, to: &str, value: &str, done, answer: &str| LeverStatus {
        lever: name.parse().unwrap(),
        set_to: Some(to.parse().unwrap()),
        value: Some(value.parse().unwrap()),
        done,
        targets: 2,
        answer: answer.into(),
    };
    let summary = "error_rate 5.8% > 0.5% in sjc";
    let baseline = judgement("error_rate", Verdict::Pass, 0, 1_080);
    Status {
        state: State::TakingBack,
        summary: Some(summary.into()),
        decided_at: at("13:51:10"),
        leaves_at: None,
        stages: vec![
            stage("staging", StageMark::Passed, "4h", "4h"),
            stage("canary", StageMark::Failed, "1m", "4h"),
            stage("production", StageMark::Skipped, "0s", "24h30m"),
        ],
        criteria: vec![
            judgement("error_rate", Verdict::Fail, 7, 120),
            Judgement { cohort: Cohort::Baseline, ..baseline },
        ],
        levers: vec![lever("traffic", "0%", "0%", 2, "done"), lever("release", "v41", "v42", 0, "asked")],
        take_back: Some(TakeBackStatus {
            level: 1,
            levels: 3,
            asked_at: at("13:51:10"),
            due: at("13:53:10"),
            applied_at: None,
            recovered_at: None,
            green: 0,
            green_needed: 3,
        }),
        evidence: vec![Evidence {
            at: at("13:50:04"),
            class: "http_5xx".parse().unwrap(),
            text: "500 POST /api/estimates".into(),
        }],
        regions: Vec::new(),
        incidents: vec!["estimator/42-error_rate".parse().unwrap()],
        ..good()
    }
}

fn check(status: &Status, now: &str, width: usize, height: usize, expected: &str) {
    let look = Look { colour: false, ascii: false };
    let frame = Frame { status, now: at(now), width, height, look, keys: true };
    let lines: Vec<String> = draw(&frame).iter().map(|line| line.paint(look, width)).collect();
    let drawn = lines.join("\n");
    assert_eq!(drawn.trim_end(), expected.trim(), "drawn:\n{drawn}\n");
    assert!(lines.iter().all(|line| line.chars().count() <= width));
}

#[test]
fn a_good_canary_at_80_columns() {
    check(&good(), "12:06:12", 80, 40, include_str!("golden/good-80.txt"));
}

#[test]
fn a_failing_canary_at_120_columns() {
    check(&failing(), "13:51:14", 120, 40, include_str!("golden/failing-120.txt"));
}

#[test]
fn one_region_at_80_columns_shows_no_half_numbers() {
    let percent = |text: &str| text.parse().unwrap();
    let grounds = |low: &str, high: &str| Grounds {
        ln_e_fail: Nats(8.65),
        ln_e_pass: None,
        bar: Nats(4.71),
        luck_one_in: 5_729,
        low: percent(low),
        high: percent(high),
        best: "80%".into(),
        since: None,
        crossed: None,
        anew_from: None,
        covered: 3,
        slots: 3,
        parameters: "18977a6549b7".into(),
    };
    let its = |name: &str, verdict, value: &str, limit: &str, grounds| Judgement {
        numbers: Numbers { value: value.into(), limit: limit.into(), bad: 7, n: 120 },
        grounds: Some(Box::new(grounds)),
        ..judgement(name, verdict, 7, 120)
    };
    let unproven = Verdict::Inconclusive(Lack::NotProven);
    let status = Status {
        criteria: vec![
            its("error_rate", Verdict::Fail, "5.8%", "0.5%", grounds("2.3456%", "12.1%")),
            its("slow", unproven, "0% over 3s", "5% over 3s", grounds("0%", "12.0391%")),
            its("slowest", unproven, "0%", "5%", grounds("0%", "12.0391%")),
        ],
        regions: vec![region("sjc", "....................", 252, 252, &["v41", "v42"])],
        incidents: vec!["estimator/42-not_refused_by_anybody".parse().unwrap()],
        summary: Some("lever release could not be set: refused by the platform, which answered 403 forbidden".into()),
        ..failing()
    };
    check(&status, "13:51:14", 80, 40, include_str!("golden/one-region-80.txt"));
}

#[test]
fn a_wait_for_approval_ends_with_the_exact_command() {
    let run = "bellwether command approve estimator --entry 2 --gate 1".to_owned();
    let status = Status {
        state: State::Waiting,
        holds: vec![Hold::Approval],
        leaves_at: Some(at("12:05:50")),
        needs_you: Some(NeedsYou { what: "approve".into(), run: Some(run) }),
        ..good()
    };
    check(&status, "12:06:12", 80, 40, include_str!("golden/waiting-80.txt"));
}

#[test]
fn a_silent_region_holds_and_says_where_to_look() {
    let why = "no answer within 2s".to_owned();
    let gap = Gap { sli: "memory".parse().unwrap(), cohort: Cohort::Canary, since: at("12:14:48"), why };
    let silent = RegionStatus {
        silent_since: Some(at("12:14:50")),
        answering: Vec::new(),
        gaps: vec![("iad.metric.metric-1".parse().unwrap(), gap); 5],
        ..region("iad", "..............??????", 268, 275, &[])
    };
    let status = Status {
        holds: vec![Hold::NoData { region: "iad".parse().unwrap(), since: at("12:14:50") }],
        needs_you: Some(NeedsYou { what: "look at iad".into(), run: Some("bellwether agents list".into()) }),
        leaves_at: None,
        regions: vec![region("sjc", "....................", 275, 275, &["v42"]), silent],
        agents_live: 4,
        ..good()
    };
    check(&status, "12:18:00", 80, 40, include_str!("golden/silent-80.txt"));
}

#[test]
fn an_ended_rollout_says_both_proofs() {
    let take_back = failing().take_back.map(|back| TakeBackStatus {
        applied_at: Some(at("13:51:29")),
        recovered_at: Some(at("13:53:10")),
        green: 3,
        ..back
    });
    let levers = failing().levers.into_iter().map(|lever| LeverStatus {
        value: lever.set_to.clone(),
        done: 2,
        answer: "done".into(),
        ..lever
    });
    let status = Status {
        state: State::Ended,
        ending: Some(Ending::RolledBack),
        take_back,
        levers: levers.collect(),
        incidents: Vec::new(),
        ..failing()
    };
    check(&status, "13:53:12", 80, 40, include_str!("golden/ended-80.txt"));
}

#[test]
fn a_short_terminal_keeps_headline_red_rows_and_command() {
    check(&failing(), "13:51:14", 120, 4, include_str!("golden/failing-short.txt"));
    check(&good(), "12:06:12", 80, 8, include_str!("golden/good-short.txt"));
}

#[test]
fn a_region_has_a_row_of_its_own_only_when_it_differs() {
    let region = |name: &str, verdict, n| Judgement {
        region: Some(name.parse().unwrap()),
        ..judgement("error_rate", verdict, 0, n)
    };
    let pooled = pooled("error_rate", "0%", "0.5%", 0, 90);
    let baseline = Judgement { cohort: Cohort::Baseline, ..pooled.clone() };
    let missing = region("iad", Verdict::Inconclusive(Lack::NoData), 0);
    let all = [pooled, baseline, region("sjc", Verdict::Pass, 90), missing];
    let shown: Vec<bool> = all.iter().map(|judgement| is_shown(judgement, &all)).collect();
    assert_eq!(shown, [true, false, false, true]);
}

#[test]
fn more_red_rows_than_lines_are_counted() {
    let red = |index: usize| judgement(&format!("c{index}"), Verdict::Fail, 7, 120);
    let status = Status { criteria: (0..50).map(red).collect(), ..failing() };
    let look = Look { colour: false, ascii: false };
    let frame = Frame { status: &status, now: at("13:51:14"), width: 120, height: 10, look, keys: true };
    let lines: Vec<String> = draw(&frame).iter().map(Line::plain).collect();
    assert_eq!(lines.len(), 10);
    assert!(lines[0].starts_with("estimator v41 <- v42"));
    assert_eq!(lines[8], "      43 more");
    assert!(lines[9].starts_with("keys:"));
}

#[test]
fn colour_only_says_look_here() {
    let look = Look { colour: true, ascii: false };
    let painted = |status: &Status| {
        let frame = Frame { status, now: at("12:06:12"), width: 120, height: 40, look, keys: true };
        draw(&frame).iter().map(|line| line.paint(look, 120)).collect::<Vec<_>>().join("\n")
    };
    let healthy = Status { criteria: good().criteria.into_iter().skip(1).collect(), ..good() };
    assert!(!painted(&healthy).contains('\x1b'));
    assert!(painted(&failing()).contains("\x1b[1;31m✗ 5.8%\x1b[0m"));
}

#[test]
fn a_mesh_that_decides_nothing_is_not_called_healthy() {
    let stuck = Stuck {
        since: at("12:14:50"),
        what: "decisions cannot be stored".into(),
        why: "maximum bytes exceeded".into(),
        fix: "give the log room".into(),
    };
    let text = |status: &Status| {
        let frame = Frame {
            status,
            now: at("12:18:00"),
            width: 120,
            height: 40,
            look: Look { colour: false, ascii: false },
            keys: false,
        };
        draw(&frame).iter().map(Line::plain).collect::<Vec<_>>().join("\n")
    };
    let held = text(&crate::rollout::held(good(), Some(&stuck)));
    for said in [
        "HOLDING: decisions cannot be stored",
        "needs you: nothing is decided",
        "decisions cannot be stored since 12:14:50Z (3m10s): maximum bytes exceeded; give the log room",
        "do    bellwether doctor",
    ] {
        assert!(held.contains(said), "no `{said}` in {held}");
    }
    let ended = Status { state: State::Ended, ending: Some(Ending::Completed), ..good() };
    assert_eq!(text(&crate::rollout::held(ended.clone(), Some(&stuck))), text(&ended));
}
