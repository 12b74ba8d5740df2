//! Scenarios: a script, and behind a line of `---` what the product does of it, to be read as prose.
//!
//! `SCENARIOS=overwrite cargo test --test scenarios` writes the transcripts anew.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod cdevents;
mod script;
mod transcript;
#[allow(dead_code, reason = "scenarios need no random faults and no planted defects")]
#[path = "../simulation/world/mod.rs"]
mod world;

use std::fs;
use std::path::Path;

use world::{BEGIN, World};

fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(format!("{name}.txt"));
    let text = fs::read_to_string(&path).unwrap();
    let (script, expected) = text.split_once("---\n").unwrap_or((text.as_str(), ""));
    let world = script::play(script);
    assert!(world.watch.complaints.is_empty(), "{name}: {:#?}", world.watch.complaints);
    cdevents::check(name, &world);
    let found = transcript(&world);
    if std::env::var("SCENARIOS").is_ok_and(|mode| mode == "overwrite") {
        fs::write(&path, format!("{script}---\n{found}")).unwrap();
    } else {
        assert!(found == expected, "{name} went otherwise:\n{}", difference(expected, &found));
    }
}

/// Everything that was decided, each fact with the minute it was decided at.
fn transcript(world: &World) -> String {
    let mut text = String::new();
    for record in world.broker.records() {
        let seconds = (record.now.as_ms() - BEGIN) / 1_000;
        for line in transcript::lines(&record) {
            text.push_str(&format!("{:02}:{:02}  {line}\n", seconds / 60, seconds % 60));
        }
    }
    let levers = world.site.levers.keys().map(|name| {
        let reading = world.site.read(name);
        let value = |value: Option<&_>| value.map_or_else(|| "mixed".to_owned(), ToString::to_string);
        format!("{name} {}", value(reading.value.as_ref()))
    });
    text + &format!("at the end: {}\n", levers.collect::<Vec<_>>().join(", "))
}

/// Lines that are missing (`-`) or new (`+`), from the first one that differs.
fn difference(expected: &str, found: &str) -> String {
    let same = expected.lines().zip(found.lines()).take_while(|(a, b)| a == b).count();
    let shown = |sign, text: &str| -> String {
        text.lines().skip(same).take(12).map(|line| format!("{sign} {line}\n")).collect()
    };
    let before: String = found.lines().take(same).skip(same.saturating_sub(3)).map(|l| format!("  {l}\n")).collect();
    let how = "accept it with `SCENARIOS=overwrite cargo test --test scenarios`";
    format!("{before}{}{}{how}", shown('-', expected), shown('+', found))
}

macro_rules! scenarios {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            check(&stringify!($name).replace('_', "-"));
        })*

        #[test]
        fn every_script_is_played() {
            let names = [$(stringify!($name)),*].map(|name| name.replace('_', "-"));
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let file = entry.file_name().into_string().unwrap();
                if let Some(name) = file.strip_suffix(".txt") {
                    assert!(names.iter().any(|own| own == name), "add {name} to tests/scenarios/main.rs");
                }
            }
        }
    };
}

/// Another rollout may have taken its place when the line is typed, at the same entry and gate.
#[test]
fn what_is_to_be_approved_is_named() {
    let world = script::play("plan shop.yaml\nat 00:20 start v2\nuntil 12:00");
    let named = |line: &str| line.contains(" approve shop --rollout shop/1 --entry 1 --gate 1");
    let alerts = world.broker.alerts.iter();
    assert!(alerts.flat_map(|alert| &alert.next).any(|step| named(&step.run)), "{:#?}", world.broker.alerts);
    let needs_you = world.watch.status.and_then(|status| status.needs_you).and_then(|needs_you| needs_you.run);
    assert!(needs_you.as_deref().is_some_and(named), "{needs_you:?}");
}

scenarios! {
    aborted
    amended
    amended_promoted
    amended_settling
    amended_slots
    approval_late
    baseline_as_red
    criterion_excluded
    criterion_excluded_back
    environments
    flag_off_again
    flag_off_refused
    flag_set_again
    flags_off
    foreign_deploy
    frozen_agent_restarts
    guarded
    healthy
    machine_lost
    machine_missing_back
    machine_missing_recovering
    machine_moved
    mended
    prober_without_dns
    region_silent
    rollback_not_recovered
    rollback_refused
    run_again
    run_fails_last
    samples_lost
    samples_lost_taking_back
    shadow
    single_500
    steps
    superseded
    superseded_other_plan
    unnamed
    watched
    waves
}
