//! One seed, one run: which faults there are, what the release is like, when everything heals.

use bellwether_protocol::command::{CommandBody, Verb};
use bellwether_protocol::reason::Hold;
use bellwether_protocol::record::Source;
use bellwether_protocol::time::{Span, Timestamp};

use crate::world::{BEGIN, Bug, Fault, Faults, Hand, Node, Probe, World};

pub(crate) const PLAN: &str = include_str!("shop.yaml");

/// What the release, or the day, is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The release fails.
    Bad,
    /// Everything fails, whatever the release.
    BadDay,
    /// The release fails only with its flag on.
    BadFlag,
    /// Nothing is wrong with it.
    Good,
}

pub(crate) struct Run {
    pub(crate) kind: Kind,
    pub(crate) world: World,
}

/// From when on nothing goes wrong any more, and until when a run may take at most.
const HEAL: Span = Span::from_secs(90);
const LIMIT: Span = Span::from_secs(600);
/// How far off an agent's clock is at most that was anchored lately, in milliseconds.
const SKEW_MS: i64 = 200;
/// How long after the end of the rollout stragglers may still come in.
const AFTERWARDS: Span = Span::from_secs(15);

pub(crate) fn play(seed: u64, bug: Option<Bug>) -> Run {
    let mut world = World::new(seed, "shop", Span::from_secs(5));
    world.bug = bug;
    world.heal_at = world.now + HEAL;
    let kind = [Kind::Bad, Kind::Good, Kind::Good, Kind::BadFlag, Kind::BadDay][world.rng.usize(0..5)];
    world.faults = faults(&mut world.rng);
    furnish(&mut world);
    trouble(&mut world, kind);
    world.begin();
    start_at(&mut world, 1);
    people(&mut world);
    let limit = world.now + LIMIT;
    loop {
        let until = world.now + Span::from_secs(5);
        world.run(until);
        world.now = until;
        if std::env::var("SIM_TRACE").is_ok() {
            println!("{} {}", world.now, world.watch.handled);
        }
        let ended = world.watch.status.as_ref().is_some_and(|status| status.ending.is_some());
        let held = kind == Kind::BadDay && world.now > world.heal_at + Span::from_secs(60);
        if world.now > limit || ((ended || held) && world.now > world.heal_at) {
            world.watch.is_over = true;
            let until = world.now + AFTERWARDS;
            world.run(until);
            // Somebody may have asked again just before: then that comes to its end too.
            let is_open = world.watch.status.as_ref().is_some_and(|status| status.ending.is_none());
            if held || !is_open || world.now > limit {
                return Run { kind, world };
            }
        }
    }
}

/// A random half of the kinds of faults, each at its own rate.
fn faults(rng: &mut fastrand::Rng) -> Faults {
    let mut rate = |most: f64| if rng.bool() { rng.f64() * most } else { 0.0 };
    Faults {
        append_unknown: rate(0.3),
        command_twice: rate(0.5),
        hand_crash: rate(0.15),
        node_crash: rate(0.02),
        presence_lost: rate(0.3),
        relay_lost: rate(0.03),
        sample_late: rate(0.2),
        sample_lost: rate(0.1),
        sample_twice: rate(0.3),
        set_unclear: rate(0.6),
        slow: rate(0.05),
    }
}

fn furnish(world: &mut World) {
    let now = world.now;
    world.site.baseline = Some("v1".parse().unwrap());
    let lag = |rng: &mut fastrand::Rng| Span::from_ms(rng.u64(100..6_000));
    let lags = [lag(&mut world.rng), lag(&mut world.rng), lag(&mut world.rng)];
    world.site.lever("release", &["east", "west"], "v1", lags[0]);
    world.site.lever("traffic", &["edge"], "0%", lags[1]);
    world.site.lever("new_checkout", &["store"], "off", lags[2]);
    let mut skew = || world.rng.i64(-SKEW_MS..=SKEW_MS);
    world.hands = vec![
        Hand::new("hub.rollback.r1", "release", &["v1", "v0"], skew()),
        Hand::new("hub.rollback.t1", "traffic", &[], skew()),
        Hand::new("hub.flag.f1", "new_checkout", &[], skew()),
    ];
    world.probes = vec![Probe::new("east.probe.p1", skew()), Probe::new("west.probe.p1", skew())];
    let second = Probe::new("west.probe.p2", skew());
    world.probes.extend(Some(second).filter(|_| world.rng.bool()));
    let nodes = if world.rng.u8(0..3) == 0 { &["c1"][..] } else { &["c1", "c2"] };
    world.nodes = nodes.iter().map(|name| Node::new(name, now)).collect();
}

fn trouble(world: &mut World, kind: Kind) {
    let class = bellwether_protocol::sample::class::HTTP_5XX;
    let fault = Fault { release: None, region: None, lever: None, class, share: 1.0, left: u64::MAX };
    let release = Some("v2".parse().unwrap());
    match kind {
        Kind::Bad => world.site.faults.push(Fault { release, share: 0.4, ..fault }),
        Kind::BadFlag => {
            let lever = Some(("new_checkout".parse().unwrap(), "on".parse().unwrap()));
            world.site.faults.push(Fault { release, lever, share: 0.5, ..fault });
        }
        Kind::BadDay => {
            let at = instant(world.rng.u64(15..60));
            world.at(at, move |world| world.site.faults.push(fault));
        }
        Kind::Good => {}
    }
    if world.rng.u8(0..8) == 0 {
        // The platform says no, or leaves a target where it is, for ever or until it is healed.
        let at = instant(world.rng.u64(5..60));
        let (refuses, for_ever) = (world.rng.bool(), world.rng.bool());
        world.at(at, move |world| {
            let real = world.site.real("release");
            if refuses {
                real.refuses = Some("no".to_owned());
            } else {
                real.stuck.insert("west".to_owned());
            }
        });
        if !for_ever {
            world.at(instant(85), |world| {
                let real = world.site.real("release");
                real.refuses = None;
                real.stuck.clear();
            });
        }
    }
    for i in 0..world.probes.len() {
        if world.rng.bool() {
            continue;
        }
        let (from, long, how) = (world.rng.u64(1..75), world.rng.u64(5..40), world.rng.u8(0..5));
        let turn = move |world: &mut World, on: bool| match how {
            0 => world.probes[i].is_silent = on,
            1 => world.probes[i].is_dead = on,
            2 => world.probes[i].is_sick = on,
            3 => world.probes[i].is_adrift = on,
            _ => world.probes[i].is_cut_off = on,
        };
        world.at(instant(from), move |world| turn(world, true));
        world.at(instant((from + long).min(90)), move |world| turn(world, false));
    }
    for source in [Source::Inbox, Source::Samples] {
        if world.rng.u8(0..8) == 0 {
            let at = instant(world.rng.u64(3..85));
            world.at(at, move |world| world.lose(source));
        }
    }
    for i in 0..world.nodes.len() {
        if world.rng.bool() {
            let (from, long) = (world.rng.u64(1..75), world.rng.u64(1..25));
            world.at(instant(from), move |world| world.nodes[i].paused_until = instant(from + long));
        }
    }
}

/// Somebody starts it, and tries again when that was refused.
fn start_at(world: &mut World, seconds: u64) {
    world.at(instant(seconds), move |world| {
        if world.watch.status.is_some() {
            return;
        }
        let plan = Some(PLAN.to_owned());
        let body = CommandBody { release: Some("v2".parse().unwrap()), plan, ..CommandBody::default() };
        world.command(Verb::Start, &body);
        start_at(world, seconds + 20);
    });
}

/// People approve what waits for them, and now and then pause, resume or give up.
fn people(world: &mut World) {
    let pause = world.some(2_000, 6_000);
    world.after(pause, |world| {
        if world.watch.is_over {
            return;
        }
        let waits = world.watch.status.as_ref().filter(|status| status.holds.contains(&Hold::Approval));
        if let Some((entry, gate)) = waits.map(|status| (status.entry, status.gate)) {
            let body = CommandBody { entry: Some(entry), gate: Some(gate), ..CommandBody::default() };
            world.command(Verb::Approve, &body);
        }
        let is_paused = world.watch.status.as_ref().is_some_and(|status| status.holds.contains(&Hold::Paused));
        match world.rng.u8(0..120) {
            _ if is_paused || world.rng.u8(0..10) == 0 => world.command(Verb::Resume, &CommandBody::default()),
            0..=4 if world.now < world.heal_at => world.command(Verb::Pause, &CommandBody::default()),
            5 if world.now < world.heal_at => world.command(Verb::Abort, &CommandBody::default()),
            6 if world.now < world.heal_at => world.command(Verb::Rollback, &CommandBody::default()),
            7 if world.now < world.heal_at => world.command(Verb::FlagOff, &CommandBody::default()),
            _ => {}
        }
        people(world);
    });
}

fn instant(seconds: u64) -> Timestamp {
    Timestamp::from_ms(BEGIN) + Span::from_secs(seconds)
}
