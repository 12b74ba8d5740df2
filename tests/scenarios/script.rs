//! Scripts: one line per happening, with its minute and second since the beginning.

use bellwether_protocol::command::{CommandBody, Verb};
use bellwether_protocol::sample::class;
use bellwether_protocol::time::{Span, Timestamp};

use crate::world::{BEGIN, Fault, Hand, Node, Probe, World};

/// Plays a script to its `until`.
pub(crate) fn play(script: &str) -> World {
    let mut lines = script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.next().and_then(|line| line.strip_prefix("plan ")).expect("a script begins with `plan <file>`");
    let plan = read(first);
    let mut world = shop();
    world.begin();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["at", at, rest @ ..] => {
                let rest: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
                let plan = plan.clone();
                world.at(instant(at), move |world| {
                    let words: Vec<&str> = rest.iter().map(String::as_str).collect();
                    happen(world, &plan, &words);
                });
            }
            ["until", at] => {
                world.run(instant(at));
                return world;
            }
            _ => panic!("cannot read `{line}`"),
        }
    }
    panic!("a script ends with `until <mm:ss>`")
}

fn read(plan: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(plan);
    std::fs::read_to_string(path).unwrap()
}

/// Two regions with a probe agent each, two levers, one coordinator, nothing wrong.
fn shop() -> World {
    let mut world = World::new(1, "shop", Span::from_secs(30));
    world.site.baseline = Some("v1".parse().unwrap());
    world.site.lever("release", &["east", "west"], "v1", Span::from_secs(4));
    world.site.lever("traffic", &["edge"], "0%", Span::from_secs(1));
    world.nodes = vec![Node::new("c1", world.now)];
    world.probes = vec![Probe::new("east.probe.p1", 0), Probe::new("west.probe.p1", 0)];
    world.hands = vec![
        Hand::new("hub.rollback.r1", "release", &["v1", "v0"], 0),
        Hand::new("hub.rollback.t1", "traffic", &[], 0),
    ];
    world
}

fn happen(world: &mut World, plan: &str, words: &[&str]) {
    match words {
        ["start", release, how @ ..] => {
            let other = how.iter().find_map(|word| word.strip_prefix("plan=")).map(read);
            let plan = other.as_deref().unwrap_or(plan);
            let body = CommandBody {
                release: Some(release.parse().unwrap()),
                plan: Some(plan.to_owned()),
                shadow: how.contains(&"shadow"),
                supersede: how.contains(&"supersede"),
                ..CommandBody::default()
            };
            world.command(Verb::Start, &body);
        }
        ["command", rest @ ..] => command(world, plan, rest),
        ["samples", "stuck"] => world.samples_stuck = true,
        ["samples", "flow"] => world.samples_stuck = false,
        ["agent", lever, "dead"] => {
            let hand = world.hands.iter_mut().find(|hand| hand.lever.as_str() == *lever);
            hand.expect("an agent that holds it").is_up = false;
        }
        ["fault", rest @ ..] => world.site.faults.push(fault(rest)),
        ["heal"] => world.site.faults.clear(),
        ["lever", name, happens @ ..] => lever(world, name, happens),
        ["region", region, "held", "by", lever] => {
            world.site.held_by.insert(region.parse().unwrap(), lever.parse().unwrap());
        }
        ["probe", region, state] => {
            let probe = world.probes.iter_mut().find(|probe| probe.id.region.as_str() == *region);
            let probe = probe.expect("a probe agent in that region");
            match *state {
                "dead" => probe.is_dead = true,
                "sick" => probe.is_sick = true,
                "silent" => probe.is_silent = true,
                "cut-off" => probe.is_cut_off = true,
                "well" => {
                    (probe.is_dead, probe.is_sick) = (false, false);
                    (probe.is_silent, probe.is_cut_off) = (false, false);
                }
                _ => panic!("a probe agent is not `{state}`"),
            }
        }
        _ => panic!("cannot read `{}`", words.join(" ")),
    }
}

fn command(world: &mut World, plan: &str, words: &[&str]) {
    match words {
        ["exclude", kind @ ("criterion" | "region"), name, "for", span] => {
            let body = CommandBody {
                criterion: (*kind == "criterion").then(|| name.parse().unwrap()),
                region: (*kind == "region").then(|| name.parse().unwrap()),
                until: Some(world.now + span.parse::<Span>().unwrap()),
                reason: Some(format!("{kind} {name} is known")),
                ..CommandBody::default()
            };
            world.command(Verb::Exclude, &body);
        }
        ["amend", from, "to", to] => {
            let (from, to) = (&from.replace('_', " "), &to.replace('_', " "));
            assert!(plan.contains(from), "the plan does not say `{from}`");
            let body = CommandBody { plan: Some(plan.replace(from, to)), ..CommandBody::default() };
            world.command(Verb::Amend, &body);
        }
        [verb] => {
            let verb = Verb::ALL.into_iter().find(|own| own.as_str() == *verb).expect("a verb");
            let status = world.watch.status.as_ref().filter(|_| verb == Verb::Approve);
            let body = CommandBody {
                entry: status.map(|status| status.entry),
                gate: status.map(|status| status.gate),
                ..CommandBody::default()
            };
            world.command(verb, &body);
        }
        _ => panic!("nobody asks `{}`", words.join(" ")),
    }
}

fn lever(world: &mut World, name: &str, words: &[&str]) {
    match words {
        ["refuses"] => world.site.real(name).refuses = Some("403: the token has expired".to_owned()),
        ["obeys"] => world.site.real(name).refuses = None,
        ["at", value] => {
            world.site.lever(name, &["here"], value, Span::from_secs(1));
            world.hands.push(Hand::new(&format!("hub.flag.{name}"), name, &[], 0));
            world.hand_beats(world.hands.len() - 1);
        }
        ["loses", target] => drop(world.site.real(name).targets.remove(*target)),
        ["target", target, "at", value] => {
            drop(world.site.real(name).targets.insert((*target).to_owned(), value.parse().unwrap()));
        }
        ["moves", value] => world.order(&name.parse().unwrap(), &value.parse().unwrap()),
        ["stuck", target] => drop(world.site.real(name).stuck.insert((*target).to_owned())),
        _ => panic!("cannot read `{}` of a lever", words.join(" ")),
    }
}

/// `release=v2 region=east class=refused share=5% answers=1 while=traffic:10%`, each optional.
fn fault(words: &[&str]) -> Fault {
    let (class, left) = (class::HTTP_5XX, u64::MAX);
    let mut fault = Fault { release: None, region: None, lever: None, class, share: 1.0, left };
    for word in words {
        match word.split_once('=').expect("key=value") {
            ("release", text) => fault.release = Some(text.parse().unwrap()),
            ("class", text) => fault.class = class::ALL.into_iter().find(|own| *own == text).expect("a class"),
            ("region", text) => fault.region = Some(text.parse().unwrap()),
            ("share", text) => fault.share = text.trim_end_matches('%').parse::<f64>().unwrap() / 100.0,
            ("answers", text) => fault.left = text.parse().unwrap(),
            ("while", text) => {
                let (lever, value) = text.split_once(':').expect("lever:value");
                fault.lever = Some((lever.parse().unwrap(), value.parse().unwrap()));
            }
            (key, _) => panic!("a fault has no `{key}`"),
        }
    }
    fault
}

/// Minutes and seconds since the beginning.
fn instant(text: &str) -> Timestamp {
    let (minutes, seconds) = text.split_once(':').expect("mm:ss");
    let (minutes, seconds): (i64, i64) = (minutes.parse().unwrap(), seconds.parse().unwrap());
    Timestamp::from_ms(BEGIN + (minutes * 60 + seconds) * 1_000)
}
