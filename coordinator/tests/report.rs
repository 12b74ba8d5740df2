//! What is told of logs that are recorded here, slot by slot: a staging release at 36 of 48 hours,
//! and a canary that is taken back.
//!
//! `REPORTS=overwrite cargo test -p bellwether-coordinator --test report` stores the report of the
//! first one anew, where the operator's tests read it.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeMap;
use std::path::Path;

use bellwether_coordinator::explain::explain;
use bellwether_coordinator::log;
use bellwether_coordinator::report::{evidence, report};
use bellwether_decide::{Desk, step};
use bellwether_protocol::action::{ActionOutcome, ActionResult};
use bellwether_protocol::codec::to_json;
use bellwether_protocol::command::{Amend, Ask, COMMAND_VALID, Command, Excluded, Start};
use bellwether_protocol::id::{CoordinatorId, Service};
use bellwether_protocol::plan::read_plan;
use bellwether_protocol::presence::{Gap, LeverReading, Target, Watching};
use bellwether_protocol::reason::{Lack, Reason, Verdict};
use bellwether_protocol::record::{AgentHere, AgentSeen, ClosedSlot, Hash, Input, Positions, Series};
use bellwether_protocol::report::{Answered, Issue, Met, Percentile, Priority, Report, Wanted};
use bellwether_protocol::sample::{Cohort, Evidence, Histogram, LATENCY_EDGES_MS, Level, Portion};
use bellwether_protocol::time::{Span, Timestamp};

/// A coordinator that writes down whatever it is told.
struct Recorder {
    desk: Desk,
    hash: Hash,
    now: Timestamp,
    lines: Vec<Vec<u8>>,
    inbox: u64,
    levers: BTreeMap<&'static str, String>,
    regions: Vec<&'static str>,
    is_shadow: bool,
}

impl Recorder {
    /// A service on which nothing runs yet.
    fn new(service: &str, regions: &[&'static str], levers: &[(&'static str, &str)], now: &str) -> Self {
        let levers = levers.iter().map(|(lever, value)| (*lever, (*value).to_owned())).collect();
        let (desk, now) = (Desk::new(service.parse().unwrap()), now.parse().unwrap());
        let regions = regions.to_vec();
        Self { desk, hash: Hash::default(), now, lines: Vec::new(), inbox: 0, levers, regions, is_shadow: false }
    }

    fn record(&mut self, inputs: Vec<Input>) -> Vec<Reason> {
        let step = step(&self.desk, &inputs, self.now);
        let writer: CoordinatorId = "c1".parse().unwrap();
        let record = log::record(&self.desk, self.hash, &writer, inputs, Positions::default(), self.now, &step);
        let body = to_json("record", &record).unwrap();
        self.hash = self.hash.chain(&body);
        self.desk = step.desk;
        self.lines.push(body);
        record.reasons
    }

    fn later(&mut self, span: &str) {
        self.now = self.now + span.parse::<Span>().unwrap();
    }

    fn ask(&mut self, ask: Ask, reason: &str) -> Vec<Reason> {
        self.inbox += 1;
        let command = Command {
            id: format!("c{}", self.inbox).parse().unwrap(),
            seq: self.inbox,
            service: self.desk.service.clone(),
            principal: "ann".parse().unwrap(),
            at: self.now,
            not_after: self.now + COMMAND_VALID,
            rollout: None,
            reason: Some(reason.to_owned()),
            ask,
        };
        self.record(vec![Input::Command(command)])
    }

    /// One probe in each region, and a rollback agent that holds every lever.
    fn presence(&self) -> Vec<Input> {
        let revisions = self.desk.rollout.as_ref().map(|rollout| &rollout.revisions);
        let probes = self.regions.iter().map(|region| {
            let revision = revisions.and_then(|revisions| revisions.get(&region.parse().unwrap()));
            let watching = revision.map(|revision| Watching { revision: *revision, refused: None, gaps: Vec::new() });
            let agent = format!("{region}.probe.probe-1").parse().unwrap();
            AgentSeen {
                agent,
                here: Some(AgentHere { kinds: ["http".to_owned()].into(), watching, levers: Vec::new() }),
            }
        });
        let reading = |(lever, value): (&&str, &String)| LeverReading {
            lever: lever.parse().unwrap(),
            value: Some(value.parse().unwrap()),
            targets: vec![Target { id: "m1".to_owned(), value: Some(value.parse().unwrap()) }],
            history: Vec::new(),
        };
        let levers = self.levers.iter().map(reading).collect();
        let here = Some(AgentHere { levers, ..AgentHere::default() });
        let hand = AgentSeen { agent: "sjc.rollback.roll-1".parse().unwrap(), here };
        probes.chain([hand]).map(Input::Presence).collect()
    }

    /// Starts a rollout, and sets whatever it asks to be set until it asks for nothing more.
    fn start(&mut self, release: &str, text: &str) {
        self.record(self.presence());
        let plan = read_plan("plan.yaml", text, &[], &BTreeMap::new()).unwrap().0;
        let (release, text, shadow) = (release.parse().unwrap(), text.to_owned(), self.is_shadow);
        let start =
            Ask::Start(Box::new(Start { release, text, overrides: Vec::new(), plan, shadow, supersede: false }));
        let reasons = self.ask(start, "a test");
        assert!(self.desk.rollout.is_some(), "{reasons:?}");
        let reasons = self.record(self.presence());
        self.obey(reasons);
    }

    /// Sets what was asked, one lever after the other, and tells.
    fn obey(&mut self, mut reasons: Vec<Reason>) {
        let names: Vec<&'static str> = self.levers.keys().copied().collect();
        while reasons.iter().any(|reason| matches!(reason, Reason::Asked { .. })) {
            self.later("1s");
            let mut inputs = Vec::new();
            for reason in &reasons {
                let Reason::Asked { action, lever, to, .. } = reason else { continue };
                let own = names.iter().find(|name| **name == lever.as_str()).unwrap();
                self.levers.insert(own, to.to_string());
                self.inbox += 1;
                let result = ActionResult {
                    action: action.clone(),
                    lever: lever.clone(),
                    agent: "sjc.rollback.roll-1".parse().unwrap(),
                    outcome: ActionOutcome::Done,
                    targets: vec![Target { id: "m1".to_owned(), value: Some(to.clone()) }],
                    detail: String::new(),
                    at: self.now,
                };
                inputs.push(Input::Result { seq: self.inbox, result });
            }
            inputs.extend(self.presence());
            reasons = self.record(inputs);
        }
    }

    fn reported(&self, number: Option<u64>) -> Report {
        report(self.lines.clone(), (&self.desk.service, number)).unwrap().unwrap()
    }
}

/// One slot with one portion: `bad` of `n` answers were refused.
fn slot(series: &str, slot: Timestamp, release: Option<&str>, n: u64, bad: u64) -> ClosedSlot {
    let counts = [("ok", n - bad), ("http_5xx", bad)].into_iter().filter(|(_, count)| *count > 0);
    let mut latency = Histogram::default();
    (0..n).for_each(|_| latency.record(&LATENCY_EDGES_MS, Span::from_ms(120)));
    let portion = Portion {
        release: release.map(|release| release.parse().unwrap()),
        classes: counts.map(|(name, count)| (name.parse().unwrap(), count)).collect(),
        latency,
        numbers: BTreeMap::new(),
    };
    let text = format!("GET 503 <b>{series}</b>");
    let evidence = Evidence { at: slot, class: "http_5xx".parse().unwrap(), text };
    ClosedSlot {
        series: series.parse::<Series>().unwrap(),
        slot,
        reporters: 1,
        unwell: 0,
        portions: vec![portion],
        evidence: if bad > 0 { vec![evidence] } else { Vec::new() },
    }
}

/// Story 1 at 36 of 48 hours: a quarter of an hour that nobody saw, memory over its target, and an
/// integration that is down since an hour.
fn staging() -> Recorder {
    let mut recorder = Recorder::new("estimator", &["sjc"], &[], "2026-05-04T09:00:00Z");
    recorder.start("v42", include_str!("../../tests/plans/estimator-staging.yaml"));
    let begin = recorder.now;
    for index in 0..432 {
        let at = begin + Span::from_secs(300).times(index);
        recorder.now = at + Span::from_secs(310);
        let close = |sli: &str| {
            let is_down = sli == "companycam" && index >= 420;
            let mut closed = slot(&format!("{sli}/canary/sjc"), at, None, 1, u64::from(is_down));
            if (100..103).contains(&index) {
                closed = ClosedSlot { reporters: 0, portions: Vec::new(), ..closed };
            }
            if sli == "health" {
                let used = if index < 400 { 200e6 } else { 226e6 };
                let uptime = 300.0 * index as f64;
                for (name, value) in [("memory", used), ("memory_share", used / 2.39e6), ("uptime", uptime)] {
                    let portions = closed.portions.iter_mut();
                    portions.for_each(|own| _ = own.numbers.insert(name.parse().unwrap(), Level::one(value)));
                }
            }
            Input::Closed(closed)
        };
        let slis = ["companycam", "headers", "health", "jwks", "metrics", "salesforce"];
        let reasons = recorder.record(slis.map(close).into());
        assert!(!reasons.iter().any(|reason| matches!(reason, Reason::TakingBack { .. })), "{reasons:?}");
    }
    let late = slot("jwks/canary/sjc", begin + Span::from_secs(300).times(101), None, 1, 0);
    recorder.record(vec![Input::Late(late)]);
    let until = recorder.now + Span::from_secs(3_600);
    let what = Excluded::Criterion("headers_cached".parse().unwrap());
    recorder.ask(Ask::Exclude { what, until }, "<script>alert(1)</script> is not in the plan");
    let what = Excluded::Criterion("salesforce".parse().unwrap());
    recorder.ask(Ask::Exclude { what, until }, "their sandbox is <script>down</script>");
    recorder
}

#[test]
fn a_staging_release_is_reported_at_any_moment() {
    let report = staging().reported(None);
    if std::env::var("REPORTS").is_ok_and(|mode| mode == "overwrite") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agents/operator/src/render/golden/report.json");
        std::fs::write(path, serde_json::to_string(&report).unwrap() + "\n").unwrap();
    }
    let answer = &report.answer;
    assert_eq!(answer.question, "May production follow?");
    assert_eq!(answer.verdict, Answered::NotYet);
    assert_eq!(answer.met + answer.not_met + answer.unknown, 11, "every criterion of the plan is counted once");
    assert_eq!((answer.soaked.to_string(), answer.soak.to_string()), ("1d10h50m".to_owned(), "2d".to_owned()));
    let results: BTreeMap<&str, Met> = report.criteria.iter().map(|row| (row.criterion.as_str(), row.result)).collect();
    for (name, expected) in [
        ("uptime", Met::Unknown),
        ("memory", Met::Met),
        ("memory_share", Met::Met),
        ("companycam", Met::NotMet),
        ("salesforce", Met::Unknown),
    ] {
        assert_eq!(results.get(name), Some(&expected), "{name}");
    }
    let memory = report.criteria.iter().find(|row| row.criterion.as_str() == "memory_share").unwrap();
    assert!(memory.judgement.as_ref().unwrap().over_target, "94.6 is over the target of 94.5");
    let gap = &report.gaps[0];
    assert_eq!((gap.slots, gap.missing, gap.late), (432, 3, 1));
    assert_eq!(report.strips[0].cells.iter().map(|cell| cell.missing).sum::<u32>(), 3, "no gap is lost");
    let seen: Vec<_> = report.endpoints.iter().map(|own| (own.covered, own.slots)).collect();
    assert_eq!(seen, [(429, 432); 6]);
    let edge = Some(Percentile::AtMost(Span::from_ms(128)));
    assert!(report.endpoints.iter().all(|own| own.p95 == edge), "120 ms lie below the edge of 128");
    let failed = |issue: &&Issue| matches!(&issue.what, Reason::VerdictChanged { judgement } if judgement.verdict == Verdict::Fail);
    let down = report.issues.iter().find(failed).unwrap();
    assert_eq!((down.priority, down.until, down.times), (Priority::Medium, None, 1));
    assert_eq!(down.since.clock(), "20:10:10Z");
    let silent = report.issues.iter().find(|issue| matches!(issue.what, Reason::Held { .. })).unwrap();
    assert_eq!(silent.until.unwrap().since(silent.since), Span::from_secs(900), "three slots of silence");
    assert_eq!(report.exclusions.len(), 1, "an exclusion that was refused leaves nothing out");
}

/// Twenty endpoints, looked at for 48 hours every 5 minutes; nobody saw slot 300. The log is made
/// while it is read, so what is kept is what the report keeps.
#[test]
fn a_report_of_48_hours_is_no_larger_than_one_of_an_hour() {
    let slis: Vec<String> = (0..20).map(|index| format!("s{index}")).collect();
    let mut plan = "service: wide\nslot: 5m\nregions: { sjc: 'https://sjc.example' }\nslis:\n".to_owned();
    slis.iter().for_each(|sli| plan.push_str(&format!("  - {{ name: {sli}, http: {{ path: /{sli} }} }}\n")));
    plan.push_str("criteria:\n");
    for sli in &slis {
        plan.push_str(&format!("  - {{ name: {sli}, sli: {sli}, must: 'error_ratio < 1%' }}\n"));
    }
    plan.push_str("stages: [{ name: staging, soak: 48h, approval: true }]\n");
    let after = |slots: u64| {
        let mut recorder = Recorder::new("wide", &["sjc"], &[], "2026-05-04T09:00:00Z");
        recorder.start("v42", &plan);
        let (begin, mut index) = (recorder.now, 0);
        let lines = std::iter::from_fn(|| {
            if recorder.lines.is_empty() && index < slots {
                let at = begin + Span::from_secs(300).times(index);
                recorder.now = at + Span::from_secs(310);
                let close = |sli: &String| {
                    let closed = slot(&format!("{sli}/canary/sjc"), at, None, 6, 0);
                    let unseen = ClosedSlot { reporters: 0, portions: Vec::new(), ..closed.clone() };
                    Input::Closed(if index == 300 { unseen } else { closed })
                };
                recorder.record(slis.iter().map(close).collect());
                index += 1;
            }
            (!recorder.lines.is_empty()).then(|| recorder.lines.remove(0))
        });
        let service: Service = "wide".parse().unwrap();
        let report = report(lines, (&service, None)).unwrap().unwrap();
        (serde_json::to_string(&report).unwrap().len(), report)
    };
    let (hour, _) = after(12);
    let (days, report) = after(576);
    assert!(days < hour + hour / 10, "{hour} bytes after an hour, {days} after 48");
    assert_eq!(report.strips[0].cells.iter().map(|cell| cell.missing).sum::<u32>(), 1, "the gap is still seen");
    assert_eq!((report.gaps[0].missing, report.answer.verdict), (1, Answered::NotYet));
}

#[test]
fn every_number_names_a_row_that_is_there() {
    let report = staging().reported(Some(1));
    let rows = report.criteria.iter().map(|row| row.evidence).chain(report.issues.iter().map(|issue| issue.evidence));
    let rows = rows.chain(report.endpoints.iter().map(|own| own.evidence)).chain([report.answer.evidence]);
    for number in rows {
        let row = &report.evidence[number.0 - 1];
        assert!(row.records.0 <= row.records.1 && row.run.starts_with("bellwether "), "{number}: {row:?}");
    }
}

const CANARY: &str = "
service: shop
slot: 30s
regions: { iad: 'https://iad.example', sjc: 'https://sjc.example' }
cohorts: { canary: { headers: { x-cohort: canary } }, baseline: { headers: { x-cohort: baseline } } }
fingerprint: { header: x-release }
levers: { release: { holds_release: true } }
slis: [{ name: checkout, every: 500ms, http: { path: /checkout } }]
criteria:
  - { name: error_rate, must: 'error_ratio < 0.1%, alert 0.5%', hard: true }
stages:
  - { name: canary, soak: 4h, enter: [{ set: release, to: '{release}' }] }
  - { name: production, soak: 24h }
take_back: { levels: [{ set: [{ set: release, to: '{previous}' }] }] }
";

/// A canary that fails in one region. The record that decides holds all of its slots; the first one
/// straddles the entry, and is no evidence.
fn canary() -> Recorder {
    failed(false)
}

/// A canary that fails, in the shadow or not.
fn failed(is_shadow: bool) -> Recorder {
    let mut recorder = Recorder::new("shop", &["iad", "sjc"], &[("release", "v41")], "2026-05-05T13:50:00Z");
    recorder.is_shadow = is_shadow;
    recorder.start("v42", CANARY);
    fail(&mut recorder);
    recorder
}

fn fail(recorder: &mut Recorder) {
    let first = recorder.desk.rollout.as_ref().unwrap().evidence.series.values().next().unwrap().next;
    let mut inputs = Vec::new();
    for (series, release, slots, bad) in [
        ("checkout/baseline/iad", "v41", 3, [0, 0, 0]),
        ("checkout/baseline/sjc", "v41", 3, [0, 0, 0]),
        ("checkout/canary/iad", "v42", 2, [0, 0, 0]),
        ("checkout/canary/sjc", "v42", 3, [0, 6, 9]),
    ] {
        let close = |(index, bad): (u64, u64)| {
            Input::Closed(slot(series, first + Span::from_secs(30).times(index), Some(release), 60, bad))
        };
        inputs.extend((0..).zip(bad).take(slots).map(close));
    }
    recorder.now = first + Span::from_secs(100);
    let reasons = recorder.record(inputs);
    let is_taken_back = reasons.iter().any(|reason| matches!(reason, Reason::TakingBack { .. }));
    assert_ne!(is_taken_back, recorder.is_shadow, "{reasons:?}");
    recorder.obey(reasons);
}

#[test]
fn an_explanation_points_into_the_plan_that_was_judged_by() {
    let mut recorder = Recorder::new("shop", &["iad", "sjc"], &[("release", "v41")], "2026-05-05T13:50:00Z");
    recorder.start("v42", CANARY);
    let (text, overrides) = (CANARY.replacen('\n', "# Two lines\n# more.\n", 1), Vec::new());
    let plan = read_plan("plan.yaml", &text, &overrides, &BTreeMap::new()).unwrap().0;
    recorder.ask(Ask::Amend(Box::new(Amend { text, overrides: overrides.clone(), plan: plan.clone() })), "a test");
    // What was refused is not what was judged by.
    let text = "\n".repeat(50) + CANARY;
    let (release, other) = ("v43".parse().unwrap(), text.clone());
    let start =
        Start { release, text, overrides: overrides.clone(), plan: plan.clone(), shadow: false, supersede: false };
    recorder.ask(Ask::Start(Box::new(start)), "a test");
    let plan = bellwether_protocol::plan::Plan { service: "other".parse().unwrap(), ..plan };
    recorder.ask(Ask::Amend(Box::new(Amend { text: other, overrides, plan })), "a test");
    recorder.later("1m");
    fail(&mut recorder);
    let line = |recorder: &Recorder| {
        explain(recorder.lines.clone(), (&recorder.desk.service, None)).unwrap().unwrap().plan_line
    };
    assert_eq!((line(&canary()), line(&recorder)), (Some(10), Some(11)));
}

#[test]
fn an_explanation_counts_what_the_decision_was_made_on() {
    let recorder = canary();
    let why = explain(recorder.lines.clone(), (&recorder.desk.service, None)).unwrap().unwrap();
    let numbers: Vec<_> = why
        .verdicts
        .iter()
        .filter_map(|own| {
            let region = own.judgement.region.as_ref()?;
            let numbers = &own.judgement.numbers;
            Some((own.judgement.cohort.to_string(), region.as_str(), numbers.bad, numbers.n, own.upto))
        })
        .collect();
    let decided = why.decided.as_ref().unwrap();
    let end = decided.at - Span::from_secs(10);
    for expected in
        [("canary", "sjc", 15, 120, end), ("baseline", "sjc", 0, 120, end), ("baseline", "iad", 0, 120, end)]
    {
        let expected = (expected.0.to_owned(), expected.1, expected.2, expected.3, expected.4);
        assert!(numbers.contains(&expected), "{expected:?} is not among {numbers:?}");
    }
    // Of what was logged later the decision knew nothing, and as of when is said.
    let earlier = ("canary".to_owned(), "iad", 0, 60, end - Span::from_secs(30));
    assert!(numbers.contains(&earlier), "{numbers:?}");
    let slots: Vec<_> = why.slots.iter().map(|own| (own.bad, own.n)).collect();
    assert_eq!(slots, [(6, 60), (9, 60)]);
    let users = why.users.as_ref().unwrap();
    let regions: Vec<&str> = users.regions.iter().map(|region| region.as_str()).collect();
    assert_eq!((users.failed, regions, users.to), (15, vec!["sjc"], end));
    assert_eq!(users.to.since(users.from), Span::from_secs(60));
}

#[test]
fn what_could_not_be_measured_is_told_with_its_reason() {
    let mut recorder = canary();
    let gap = |since: &str, why: &str| Gap {
        sli: "checkout".parse().unwrap(),
        cohort: Cohort::Canary,
        since: since.parse().unwrap(),
        why: why.to_owned(),
    };
    let mut says = |gaps: Vec<Gap>| {
        recorder.later("1m");
        let mut inputs = recorder.presence();
        for input in &mut inputs {
            if let Input::Presence(AgentSeen { here: Some(here), .. }) = input
                && let Some(watching) = &mut here.watching
            {
                watching.gaps.clone_from(&gaps);
            }
        }
        recorder.record(inputs);
        let why = explain(recorder.lines.clone(), (&recorder.desk.service, None)).unwrap().unwrap();
        let now: Vec<_> = why.status.regions.iter().flat_map(|own| &own.gaps).map(|(_, gap)| gap.clone()).collect();
        let missed: Vec<_> = why.missed.iter().filter(|own| own.agent.region.as_str() == "iad").cloned().collect();
        (now, missed.into_iter().map(|own| (own.gap, own.until)).collect::<Vec<_>>(), recorder.now)
    };
    let first = gap("2026-05-05T13:52:00Z", "status 500");
    let (now, missed, _) = says(vec![first.clone()]);
    assert_eq!((now, missed), (vec![first.clone(), first.clone()], vec![(first.clone(), None)]));
    let (reworded, second) = (Gap { why: "no answer".to_owned(), ..first }, gap("2026-05-05T13:53:30Z", "NaN"));
    let (_, missed, _) = says(vec![reworded.clone()]);
    assert_eq!(missed, [(reworded.clone(), None)], "one gap, whatever its last reason");
    let (now, missed, over) = says(vec![second.clone()]);
    assert_eq!((now.len(), missed), (2, vec![(reworded, Some(over)), (second, None)]));
    assert_eq!(says(Vec::new()).0, []);
}

#[test]
fn a_release_that_is_taken_back_may_not_follow() {
    for is_shadow in [true, false] {
        let answer = failed(is_shadow).reported(None).answer;
        assert_eq!((answer.verdict, answer.not_met), (Answered::No, 1), "{is_shadow}");
    }
    let report = canary().reported(None);
    assert_eq!(report.answer.question, "May production follow?");
    assert_eq!(report.answer.soaked, Span::from_secs(30), "the worst region was covered for one slot");
    assert_eq!(report.issues[0].priority, Priority::High);
    let scale = report.criteria[0].scale.unwrap();
    let (low, high) = scale.band.unwrap();
    assert!(scale.limit < low && low < scale.value && scale.value < high, "{scale:?}");
    let west = report.endpoints.iter().find(|own| own.region.as_str() == "sjc").unwrap();
    assert_eq!((west.n, west.not_ok, west.covered), (120, 15, 2));
}

#[test]
fn evidence_is_what_was_folded() {
    let recorder = canary();
    let found =
        |wanted: &Wanted| evidence(recorder.lines.clone(), (&recorder.desk.service, None), wanted).unwrap().unwrap();
    assert_eq!(found(&Wanted::default()).total, 7);
    let region = Some("sjc".parse().unwrap());
    let criterion = Some("error_rate".parse().unwrap());
    let first = found(&Wanted::default()).slots[0].slot;
    let at = first + Span::from_secs(44);
    let slot = Some(at.seconds().parse().unwrap());
    let wanted = Wanted { slot, criterion, region };
    let folded = found(&wanted);
    let daily = Wanted { slot: Some(at.clock().parse().unwrap()), ..wanted };
    assert_eq!(found(&daily).slots, folded.slots);
    let seen: Vec<_> = folded
        .slots
        .iter()
        .map(|own| (own.cohort().to_string(), own.mark, own.counted[0].1, own.counted[0].2))
        .collect();
    assert_eq!(seen, [("baseline".to_owned(), '.', 60, 0), ("canary".to_owned(), 'x', 60, 9)]);
    assert_eq!(found(&Wanted { criterion: Some("p99".parse().unwrap()), ..Wanted::default() }).total, 0);
}

#[test]
fn what_is_not_in_the_log_is_not_told() {
    let recorder = canary();
    let other: Service = "other".parse().unwrap();
    assert!(report(recorder.lines.clone(), (&other, None)).unwrap().is_none());
    assert!(report(recorder.lines.clone(), (&recorder.desk.service, Some(2))).unwrap().is_none());
    let mut broken = recorder.lines.clone();
    broken.remove(2);
    assert!(report(broken, (&recorder.desk.service, None)).is_err(), "a log that does not replay is not reported");
    let nothing = Verdict::Inconclusive(Lack::NoData);
    let early: Vec<_> = recorder.lines.iter().take(4).cloned().collect();
    let early = report(early, (&recorder.desk.service, None)).unwrap().unwrap();
    assert_eq!(early.answer.met, 0, "nothing is met before it was seen");
    assert!(early.criteria.iter().all(|row| row.judgement.as_ref().is_none_or(|own| own.verdict == nothing)));
}
