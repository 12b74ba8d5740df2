use bellwether_protocol::plan::Sli;
use bellwether_protocol::time::Timestamp;

use super::*;
use crate::budget::tests::{criterion, plan, stage};
use crate::kernel::threshold::Pass;
use crate::tally::Tally;
use crate::track::{Pair, Track};

#[test]
fn proofs_take_as_many_events_as_the_test_asks_for() {
    let bar = crate::judge::pass_bar();
    for ppb in [100, 10_000, 1_000_000, 5_000_000, 10_000_000, 20_000_000, 50_000_000, 100_000_000, 200_000_000] {
        let limit = Ratio::from_ppb(ppb);
        let shown = |n: u64| {
            let mut test = Pass::new(share_of(limit));
            test.fold(Counts::new(0, n), true);
            test.ln_e()
        };
        let needed = clean_needed(limit);
        assert!(shown(needed) >= bar && shown(needed - 1) < bar, "{limit}: {needed}");
    }
    assert_eq!(clean_needed(Ratio::from_ppb(1_000_000)), 3_534);
    // Of what so many events prove, no more is needed.
    for clean in [12, 576, 3_534, 1_000_000] {
        assert!(clean_needed(bellwether_protocol::power::proven_by(clean)) <= clean, "{clean}");
    }
}

#[test]
fn regressions_take_as_long_as_streams_say() {
    // 0.1 % -> 0.5 % at alpha .05: a median of 1,440 requests and 9 of 10 within 2,880, plain.
    let bar = libm::log(20.0);
    let (half, most) = (fails_at(0.001, 0.005, bar, 0.0).unwrap(), fails_at(0.001, 0.005, bar, NINE_OF_TEN).unwrap());
    assert!((1_200..1_700).contains(&half) && (2_300..3_600).contains(&most), "{half} {most}");
    // 0.5 % -> 5 % at 1 in 2,000 and half of the weight on the first slot: about 150 requests.
    let n = fails_at(0.005, 0.05, libm::log(2_000.0) + std::f64::consts::LN_2, 0.0).unwrap();
    assert!((120..200).contains(&n), "{n}");
}

/// What a stage of such a soak shows of one criterion, at so many requests a minute.
fn shown(objective: Objective, soak: Span, per_minute: f64, change: impl Fn(&mut Criterion)) -> Shows {
    let mut criterion = criterion("it", true, objective);
    change(&mut criterion);
    let sli = Sli {
        name: criterion.sli.clone(),
        every: Span::from_secs(1),
        timeout: Span::from_secs(1),
        kind: "http".to_owned(),
        settings: serde_json::Value::Null,
    };
    let stages = vec![stage(&["east"], soak, &["it"])];
    let plan = Plan { criteria: vec![criterion], slis: vec![sli], stages, ..plan() };
    power(&plan, Some(per_minute)).remove(0).criteria.remove(0).shows
}

const DAY: Span = Span::from_secs(86_400);

fn compare(milli: u32) -> Objective {
    Objective::Compare { bad: Vec::new(), times: Times::from_milli(milli) }
}

#[test]
fn every_criterion_says_what_its_own_rule_shows() {
    let minutes = |minutes: u64| Some(Span::from_secs(60 * minutes));
    let burn = || Objective::Burn {
        bad: Vec::new(),
        slo: Ratio::from_ppb(999_000_000),
        period: DAY.times(30),
        spend: Ratio::from_ppb(100_000_000),
    };
    let number = || Objective::Number { number: "memory".parse().unwrap(), min: None, max: Some(1.0), target: None };
    let lasting = |slots, seconds| Shows::Lasting { slots: Some((slots, Span::from_secs(seconds))) };
    let plain = |_: &mut Criterion| {};
    // 14.4 times is no more than the hour's own limit: the six hours' is reached after 2.5.
    let times = FAST;
    let fast = Some(Span::from_ms(9_030_000));
    assert_eq!(shown(burn(), DAY, 240.0, plain), Shows::Burn { times, fast, outage: minutes(1) });
    let half_an_hour = Span::from_secs(1_800);
    let outage = Some(Span::from_secs(330));
    assert_eq!(shown(burn(), half_an_hour, 240.0, plain), Shows::Burn { times, fast: None, outage });
    assert_eq!(shown(Objective::Consecutive { slots: 3 }, DAY, 60.0, plain), lasting(3, 90));
    // One look in five minutes: a slot without one is neither up nor down.
    assert_eq!(shown(Objective::Consecutive { slots: 3 }, DAY, 0.2, plain), lasting(30, 900));
    assert_eq!(shown(number(), DAY, 60.0, plain), lasting(1, 30));
    let five_minutes = |criterion: &mut Criterion| criterion.hold_for = Span::from_secs(300);
    assert_eq!(shown(number(), DAY, 60.0, five_minutes), lasting(10, 300));
    let many = |criterion: &mut Criterion| criterion.min_events = 31;
    assert_eq!(shown(number(), DAY, 60.0, many), Shows::Lasting { slots: None });
    let silence = Shows::Silence { clean: 2_880, rules_out: Ratio::from_ppb(1_039_645) };
    assert_eq!(shown(Objective::Zero { bad: Vec::new() }, DAY, 2.0, plain), silence);
    // What is tolerated is no regression.
    let Shows::Compared { jumps, .. } = shown(compare(3_000), DAY, 6.0, plain) else { panic!("compared") };
    assert_eq!(jumps, [(JUMPS[1], Seen { half: None, most: None })]);
}

#[test]
fn steeper_climbs_are_shown_by_earlier_looks() {
    let within = Ratio::from_ppb(50_000_000);
    let stable = Objective::Stable { number: "memory".parse().unwrap(), within, uptime: None };
    let Shows::Climb { looks } = shown(stable, DAY, 60.0, |_| {}) else { panic!("a climb") };
    assert_eq!(looks.iter().map(|(at, _)| at.as_ms() / 21_600_000).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(looks.windows(2).all(|pair| pair[0].1 > pair[1].1) && looks[3].1 > within, "{looks:?}");
}

/// Streams of 60 answers a slot: half of them must be seen about when it is said, and nine of ten.
#[test]
fn comparisons_take_as_long_as_streams_do() {
    let criterion = criterion("it", true, compare(1_500));
    let plan = Plan { criteria: vec![criterion.clone()], stages: vec![stage(&["east"], DAY, &["it"])], ..plan() };
    let path = Path { plan: &plan, stage: &plan.stages[0], criterion: &criterion, per_minute: 120.0 };
    let mut state = 88_172_645_463_325_252_u64;
    let mut draw = |p: f64| {
        let is_bad = |state: &mut u64| {
            // Marsaglia's xorshift: good enough to draw from, and the same everywhere.
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 11) as f64 / 9_007_199_254_740_992.0 < p
        };
        Tally { n: 60, bad: (0..60).filter(|_| is_bad(&mut state)).count() as u64, ..Tally::default() }
    };
    for (p, times) in [(0.01, 5.0), (0.02, 3.0)] {
        let share = budget::share(&plan, &plan.stages[0], &criterion, false);
        let mut slots: Vec<u64> = Vec::new();
        for _ in 0..200 {
            let mut track = Track::new(&criterion, share, plan.slot, Timestamp::default());
            while !track.fails(&criterion) {
                let pair = Pair { canary: draw(p * times), baseline: draw(p) };
                track.push(&criterion, track.upto, &pair.canary.clone(), &[pair], true);
            }
            slots.push(track.upto.since(Timestamp::default()).as_ms());
        }
        slots.sort_unstable();
        for (deviates, seen) in [(0.0, slots[100]), (NINE_OF_TEN, slots[180])] {
            let said = path.fails_beside(p, times, deviates).unwrap().as_ms();
            assert!((0.8..1.25).contains(&(said as f64 / seen as f64)), "{p} {times}: {said} for {seen}");
        }
    }
}

#[test]
fn a_load_is_counted_by_its_rate_and_by_all_agents_that_put_it() {
    let check = |settings: serde_json::Value, given: Option<f64>, expected: u64| {
        let criterion = criterion("it", true, Objective::Zero { bad: Vec::new() });
        let sli = Sli {
            name: criterion.sli.clone(),
            every: Span::from_secs(30),
            timeout: Span::from_secs(1),
            kind: "load".to_owned(),
            settings,
        };
        let stages = vec![stage(&["east"], Span::from_secs(3_600), &["it"])];
        let plan = Plan { criteria: vec![criterion], slis: vec![sli], stages, quorum: 2, ..plan() };
        let shown = power(&plan, given).remove(0).criteria.remove(0);
        assert_eq!(shown.per_minute as u64, expected, "{shown:?}");
        assert_eq!(shown.shows == Shows::Unknown, expected == 0, "{shown:?}");
    };
    check(serde_json::json!({"rate": "5/s"}), None, 600);
    check(serde_json::json!({"rate": "90/m"}), None, 180);
    check(serde_json::json!({"users": 10}), None, 0);
    check(serde_json::json!({"users": 10}), Some(600.0), 600);
}
