//! Which slots are closed, whose word counts in them, and that the order of arrival does not matter.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;

use bellwether_decide::collect::{CLOSED_MAX, Collector, Heard};
use bellwether_decide::evidence::{Expected, Frame};
use bellwether_decide::{Desk, step};
use bellwether_protocol::action::{ActionOutcome, ActionResult};
use bellwether_protocol::command::{Ask, Command, Start};
use bellwether_protocol::id::{AgentId, Revision};
use bellwether_protocol::plan::{
    Criterion, Fingerprint, LeverUse, Objective, OnFail, Plan, Require, Set, SetTo, Sli, Stage, TakeBack, TakeBackLevel,
};
use bellwether_protocol::presence::{LeverReading, Target, Watching};
use bellwether_protocol::ratio::Ratio;
use bellwether_protocol::reason::DataFault;
use bellwether_protocol::record::{AgentHere, AgentSeen, ClosedSlot, Input};
use bellwether_protocol::sample::{Cohort, Control, Level, Portion, Sample, Tick};
use bellwether_protocol::time::{Span, Timestamp};
use proptest::prelude::*;

const SLOT: Span = Span::from_secs(30);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_ms(1_800_000_000_000 + seconds * 1_000)
}

/// Everything stored until then was read, long after.
fn heard(seconds: i64) -> Heard {
    Heard { upto: at(seconds), now: at(20_000) }
}

fn plan() -> Plan {
    let set = |to| Set { lever: "release".parse().unwrap(), to };
    Plan {
        service: "shop".parse().unwrap(),
        slot: SLOT,
        grace: Span::from_secs(10),
        quorum: 1,
        alpha: Ratio::from_ppb(10_000_000),
        regions: [("east".parse().unwrap(), "http://127.0.0.1:1".to_owned())].into(),
        canary: BTreeMap::new(),
        baseline: None,
        fingerprint: Some(Fingerprint::Header("x-release".to_owned())),
        levers: [("release".parse().unwrap(), LeverUse { holds_release: true, ..LeverUse::default() })].into(),
        slis: vec![Sli {
            name: "checkout".parse().unwrap(),
            every: Span::from_secs(1),
            timeout: Span::from_secs(1),
            kind: "http".to_owned(),
            settings: serde_json::json!({}),
        }],
        criteria: vec![Criterion {
            name: "error_rate".parse().unwrap(),
            sli: "checkout".parse().unwrap(),
            objective: Objective::Ratio { bad: Vec::new(), max: Ratio::from_ppb(5_000_000), target: None },
            hard: true,
            require: Require::NotFailed,
            hold_for: Span::ZERO,
            min_events: 1,
            on_fail: OnFail::Rollback.at_once(),
        }],
        stages: vec![Stage {
            name: "canary".parse().unwrap(),
            regions: vec!["east".parse().unwrap()],
            cohorts: vec![Cohort::Canary],
            enter: vec![set(SetTo::Release)],
            enter_within: Span::from_secs(60),
            settle: Span::ZERO,
            soak: Span::from_secs(300),
            criteria: vec!["error_rate".parse().unwrap()],
            approval: false,
            during: Vec::new(),
            irreversible: false,
        }],
        take_back: TakeBack {
            levels: vec![TakeBackLevel {
                set: vec![set(SetTo::Previous)],
                apply_within: Span::from_secs(60),
                automatic: false,
                refuses: Vec::new(),
            }],
            green: 3,
            within: 10,
        },
        freeze: Vec::new(),
    }
}

fn probe(name: &str) -> AgentId {
    format!("east.probe.{name}").parse().unwrap()
}

fn seen(agent: AgentId, here: AgentHere) -> Input {
    Input::Presence(AgentSeen { agent, here: Some(here) })
}

fn looker(watching: Option<Watching>) -> AgentHere {
    AgentHere { kinds: ["http".to_owned()].into(), watching, levers: Vec::new() }
}

/// A desk with a rollout that is preparing, watched by the named probes.
fn desk(probes: &[&str]) -> Desk {
    let value = Some("v41".parse().unwrap());
    let reading = LeverReading {
        lever: "release".parse().unwrap(),
        value: value.clone(),
        targets: vec![Target { id: "east".to_owned(), value }],
        history: Vec::new(),
    };
    let lever_agent = AgentHere { levers: vec![reading], ..AgentHere::default() };
    let mut inputs = vec![seen("east.rollback.roll-1".parse().unwrap(), lever_agent)];
    inputs.extend(probes.iter().map(|name| seen(probe(name), looker(None))));
    let start = Start {
        release: "v42".parse().unwrap(),
        text: String::new(),
        overrides: Vec::new(),
        plan: plan(),
        shadow: false,
        supersede: false,
    };
    inputs.push(Input::Command(Command {
        id: "start-1".parse().unwrap(),
        seq: 1,
        service: "shop".parse().unwrap(),
        principal: "release-manager".parse().unwrap(),
        at: at(0),
        not_after: at(300),
        rollout: None,
        reason: None,
        ask: Ask::Start(Box::new(start)),
    }));
    let started = step(&Desk::new("shop".parse().unwrap()), &inputs, at(1)).desk;
    assert!(started.running().is_some(), "the rollout did not start: {started:?}");
    let watching = Some(Watching { revision: Revision(1), refused: None, gaps: Vec::new() });
    let taken_up: Vec<Input> = probes.iter().map(|name| seen(probe(name), looker(watching.clone()))).collect();
    step(&started, &taken_up, at(2)).desk
}

fn tick(desk: &Desk, agent: &str, slot: Timestamp, classes: &[(&str, u64)], control: Control) -> Tick {
    let rollout = desk.running().expect("a rollout is on");
    let classes = classes.iter().map(|(class, count)| (class.parse().unwrap(), *count)).collect();
    let portion = Portion { release: Some("v42".parse().unwrap()), classes, ..Portion::default() };
    Tick {
        agent: probe(agent),
        seq: 1,
        clock_adrift: false,
        samples: vec![Sample {
            rollout: rollout.id.clone(),
            revision: Revision(1),
            sli: "checkout".parse().unwrap(),
            cohort: Cohort::Canary,
            slot,
            portions: vec![portion],
            control,
            evidence: Vec::new(),
            source: None,
        }],
    }
}

fn closed(inputs: Vec<Input>) -> Vec<ClosedSlot> {
    let slots = inputs.into_iter().filter_map(|input| match input {
        Input::Closed(slot) => Some(slot),
        _ => None,
    });
    slots.collect()
}

fn n(slot: &ClosedSlot) -> u64 {
    slot.portions.iter().map(Portion::n).sum()
}

#[test]
fn a_slot_closes_when_all_are_in_or_when_grace_is_over() {
    let desk = desk(&["probe-1", "probe-2"]);
    let mut collector = Collector::default();
    let first = at(30);
    collector.offer(&desk, 1, &tick(&desk, "probe-1", first, &[("ok", 5)], Control::Well));
    assert_eq!(closed(collector.inputs(&desk, heard(61), CLOSED_MAX)), Vec::new());
    let by_grace = closed(collector.inputs(&desk, heard(70), CLOSED_MAX));
    assert_eq!((by_grace.len(), by_grace[0].reporters, n(&by_grace[0])), (1, 1, 5));
    collector.offer(&desk, 2, &tick(&desk, "probe-2", first, &[("ok", 7)], Control::Well));
    let all_in = closed(collector.inputs(&desk, heard(0), CLOSED_MAX));
    assert_eq!((all_in.len(), all_in[0].reporters, n(&all_in[0])), (1, 2, 12));
}

#[test]
fn an_agent_that_is_ahead_of_the_time_shortens_no_soak() {
    let desk = desk(&["probe-1"]);
    let mut collector = Collector::default();
    for (seq, slot) in (1..).zip(1..100) {
        collector.offer(&desk, seq, &tick(&desk, "probe-1", at(30 * slot), &[("ok", 5)], Control::Well));
    }
    for (now, expected) in [(60, 1), (79, 1), (80, 2), (110, 3)] {
        let slots = closed(collector.inputs(&desk, Heard { upto: at(0), now: at(now) }, CLOSED_MAX));
        assert_eq!(slots.len(), expected, "at {now}");
    }
    // What is a day ahead is not even kept, so that two of it cannot contradict each other.
    for (slot, is_kept) in [(at(30 * 90), true), (at(24 * 3_600 + 30), false)] {
        let mut collector = Collector::default();
        for ok in [5, 6] {
            collector.offer(&desk, 200, &tick(&desk, "probe-1", slot, &[("ok", ok)], Control::Well));
        }
        let inputs = collector.inputs(&desk, Heard { upto: at(0), now: at(0) }, CLOSED_MAX);
        assert_eq!(inputs.iter().any(|input| matches!(input, Input::DataFault { .. })), is_kept, "{slot}");
    }
}

#[test]
fn events_that_two_agents_read_from_one_source_count_once() {
    let desk = desk(&["probe-1", "probe-2"]);
    let check = |sources: [Option<&str>; 2], expected: u64| {
        let mut collector = Collector::default();
        for (seq, (agent, source)) in (1..).zip(["probe-1", "probe-2"].into_iter().zip(sources)) {
            let mut tick = tick(&desk, agent, at(30), &[("ok", 5)], Control::Absent);
            tick.samples[0].source = source.map(str::to_owned);
            collector.offer(&desk, seq, &tick);
        }
        let slots = closed(collector.inputs(&desk, heard(0), CLOSED_MAX));
        assert_eq!((slots[0].reporters, n(&slots[0])), (2, expected), "{sources:?}");
    };
    check([None, None], 10);
    check([Some("main"), Some("main")], 5);
    check([Some("main"), Some("other")], 10);
}

#[test]
fn a_failure_before_any_response_counts_only_from_a_prober_that_is_well() {
    let desk = desk(&["probe-1", "probe-2"]);
    let check = |first: Control, second: Option<Control>, expected: (u32, u32)| {
        let mut collector = Collector::default();
        collector.offer(&desk, 1, &tick(&desk, "probe-1", at(30), &[("resolve", 5)], first));
        if let Some(control) = second {
            collector.offer(&desk, 2, &tick(&desk, "probe-2", at(30), &[("resolve", 5)], control));
        }
        let slots = closed(collector.inputs(&desk, heard(70), CLOSED_MAX));
        assert_eq!((slots[0].reporters, slots[0].unwell), expected, "{first:?} beside {second:?}");
    };
    check(Control::Well, None, (1, 0));
    check(Control::Sick, None, (0, 1));
    check(Control::Absent, None, (0, 1));
    check(Control::Absent, Some(Control::Absent), (2, 0));
    check(Control::Absent, Some(Control::Sick), (0, 2));
    check(Control::Sick, Some(Control::Well), (1, 1));
}

#[test]
fn what_is_logged_is_forgotten_and_what_comes_after_is_late() {
    let desk = desk(&["probe-1"]);
    let mut collector = Collector::default();
    collector.offer(&desk, 1, &tick(&desk, "probe-1", at(30), &[("ok", 5)], Control::Well));
    let inputs = collector.inputs(&desk, heard(0), CLOSED_MAX);
    let next = step(&desk, &inputs, at(62)).desk;
    collector.prune(&next);
    assert_eq!(collector.inputs(&next, heard(62), CLOSED_MAX), Vec::new());
    assert_eq!(collector.lowest_needed(&next), 2);
    // Read again after a restart: the log says that it was read. A message behind that is late.
    let again = tick(&next, "probe-1", at(30), &[("http_5xx", 5)], Control::Well);
    collector.offer(&next, 1, &again);
    assert_eq!(collector.inputs(&next, heard(62), CLOSED_MAX), Vec::new());
    collector.offer(&next, 2, &again);
    assert!(matches!(collector.inputs(&next, heard(62), CLOSED_MAX)[..], [Input::Read { seq: 2 }, Input::Late(_)]));
}

/// Samples and log are read by two readers: samples of an assignment may come before its record.
#[test]
fn what_comes_before_its_assignment_waits_for_it() {
    let desk = desk(&["probe-1"]);
    let mut collector = Collector::default();
    let before = Desk::new("shop".parse().unwrap());
    collector.offer(&before, 7, &tick(&desk, "probe-1", at(30), &[("ok", 5)], Control::Well));
    collector.prune(&before);
    assert_eq!(
        (closed(collector.inputs(&before, heard(70), CLOSED_MAX)), collector.lowest_needed(&before)),
        (vec![], 7)
    );
    collector.prune(&desk);
    let slots = closed(collector.inputs(&desk, heard(70), CLOSED_MAX));
    assert_eq!((slots.len(), slots[0].reporters, n(&slots[0])), (1, 1, 5));
}

/// What is wrong is left out, and told once per agent and rollout.
#[test]
fn an_agent_that_sends_something_wrong_is_told_of_once() {
    let desk = desk(&["probe-1", "probe-2"]);
    let five = tick(&desk, "probe-1", at(30), &[("ok", 5)], Control::Well);
    let changed = |change: &dyn Fn(&mut Portion)| {
        let mut tick = five.clone();
        change(&mut tick.samples[0].portions[0]);
        tick
    };
    let number = |n, min, max, last| {
        changed(&|portion| _ = portion.numbers.insert("memory".parse().unwrap(), Level { n, min, max, last }))
    };
    let check = |ticks: &[Tick], expected: &[DataFault], counted: u64| {
        let mut collector = Collector::default();
        (1..).zip(ticks).for_each(|(seq, tick)| collector.offer(&desk, seq, tick));
        let inputs = collector.inputs(&desk, heard(70), CLOSED_MAX);
        let faults = inputs.iter().filter_map(|input| match input {
            Input::DataFault { fault, .. } => Some(*fault),
            _ => None,
        });
        assert_eq!(faults.collect::<Vec<_>>(), expected, "{ticks:?}");
        assert_eq!(closed(inputs).iter().map(n).sum::<u64>(), counted, "{ticks:?}");
    };
    let fewer = tick(&desk, "probe-1", at(30), &[("ok", 4)], Control::Well);
    check(&[five.clone(), five.clone()], &[], 5);
    check(&[five.clone(), fewer], &[DataFault::Contradiction], 5);
    check(&[number(5, 1.0, 2.0, 1.5)], &[], 5);
    check(&[number(6, 1.0, 2.0, 1.5)], &[DataFault::Impossible], 0);
    check(&[number(5, 2.0, 1.0, 1.5)], &[DataFault::Impossible], 0);
    check(&[number(5, f64::NEG_INFINITY, 2.0, 1.5)], &[DataFault::Impossible], 0);
    check(&[number(5, 1.0, 2.0, f64::NAN), five.clone()], &[DataFault::Impossible], 5);
    check(&[changed(&|portion| _ = portion.latency.0.insert(50, 6))], &[DataFault::Impossible], 0);

    let mut collector = Collector::default();
    collector.offer_unreadable(&desk, 1, &probe("probe-2"));
    collector.offer_unreadable(&desk, 2, &probe("unknown"));
    let told = step(&desk, &collector.inputs(&desk, heard(31), CLOSED_MAX), at(31));
    assert_eq!((told.reasons.len(), told.alerts.len()), (1, 1), "{:?}", told.reasons);
    collector.prune(&told.desk);
    collector.offer_unreadable(&told.desk, 3, &probe("probe-2"));
    assert_eq!(collector.inputs(&told.desk, heard(31), CLOSED_MAX), Vec::new());
}

/// A reading that comes right is told to nobody, and yet decides what a later, wrong one means.
#[test]
fn a_step_that_moves_anything_but_counts_is_not_quiet() {
    let desk = desk(&["probe-1"]);
    let lever = "release".parse().unwrap();
    let action = desk.running().unwrap().levers[&lever].action.clone().expect("it was asked");
    let agent: AgentId = "east.rollback.roll-1".parse().unwrap();
    let value = Some("v42".parse().unwrap());
    let targets = vec![Target { id: "east".to_owned(), value: value.clone() }];
    let (outcome, detail) = (ActionOutcome::Done, String::new());
    let result = ActionResult {
        action,
        lever: lever.clone(),
        agent: agent.clone(),
        outcome,
        targets: targets.clone(),
        detail,
        at: at(5),
    };
    let done = step(&desk, &[Input::Result { seq: 2, result }], at(5)).desk;
    let reading = LeverReading { lever, value, targets, history: Vec::new() };
    let read = [seen(agent, AgentHere { levers: vec![reading], ..AgentHere::default() })];
    let right = step(&done, &read, at(6));
    assert!(right.reasons.is_empty() && !right.is_quiet());
    assert!(step(&right.desk, &read, at(7)).is_quiet());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Permutations and duplicates before closing change nothing.
    #[test]
    fn order_and_repetition_do_not_matter(
        counts in prop::collection::vec((0_u64..50, 0_u64..5), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let desk = desk(&["probe-1", "probe-2"]);
        let ticks: Vec<Tick> = counts
            .iter()
            .enumerate()
            .map(|(i, (ok, bad))| {
                let slot = at(30 * (1 + i64::try_from(i / 2).unwrap()));
                tick(&desk, if i % 2 == 0 { "probe-1" } else { "probe-2" }, slot, &[("ok", *ok), ("http_5xx", *bad)], Control::Well)
            })
            .collect();
        let fold = |sequence: &[usize]| {
            let mut collector = Collector::default();
            for index in sequence {
                collector.offer(&desk, 1, &ticks[*index]);
            }
            let inputs = collector.inputs(&desk, heard(10_000), 20);
            step(&desk, &inputs, at(10_000))
        };
        let straight: Vec<usize> = (0..ticks.len()).collect();
        let mut shuffled: Vec<usize> = order.iter().map(|index| index.index(ticks.len())).collect();
        shuffled.extend(straight.iter().rev());
        prop_assert_eq!(fold(&straight), fold(&shuffled));
    }
}

#[test]
fn what_cannot_name_a_release_is_evidence_for_its_cohort() {
    let desk = desk(&["probe-1"]);
    let check = |kind: &str, settings: serde_json::Value, release: Option<&str>, covered: u64| {
        let mut plan = plan();
        plan.slis[0].kind = kind.to_owned();
        plan.slis[0].settings = settings;
        let (stage, canary) = (&plan.stages[0], "v42".parse().unwrap());
        let canary = plan.regions.keys().map(|region| (region, &canary)).collect();
        let expected = Expected { canary, baseline: BTreeMap::new() };
        let frame = Frame::new(&plan, stage, expected, false, &[]);
        let mut evidence = desk.running().unwrap().evidence.clone();
        let (series, slot) = evidence.series.iter().map(|(series, state)| (series.clone(), state.next)).next().unwrap();
        let classes = [("ok".parse().unwrap(), 5)].into();
        let release = release.map(|release| release.parse().unwrap());
        let portion = Portion { release: release.clone(), classes, ..Portion::default() };
        let portions = vec![portion];
        let closed =
            ClosedSlot { series: series.clone(), slot, reporters: 1, unwell: 0, portions, evidence: Vec::new() };
        evidence.fold(&frame, &closed);
        assert_eq!(evidence.series[&series].covered, covered, "{kind} {release:?}");
    };
    let none = || serde_json::json!({});
    check("http", none(), Some("v42"), 1);
    check("http", none(), None, 0);
    check("host", none(), None, 1);
    check("pushed", none(), Some("v41"), 0);
    check("prometheus", none(), None, 1);
    check("prometheus", serde_json::json!({"release_label": "version"}), None, 0);
}
