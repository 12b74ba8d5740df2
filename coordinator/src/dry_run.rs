//! What a start would do: the judge decides it on agents as they are now, and nothing is published.

use bellwether_decide::{Desk, Rollout, step};
use bellwether_protocol::command::{Ask, Command, Start};
use bellwether_protocol::dry_run::{DryRun, Move};
use bellwether_protocol::id::IdError;
use bellwether_protocol::plan::{Plan, Set, SetTo};
use bellwether_protocol::presence::Presence;
use bellwether_protocol::record::{AgentSeen, Input};
use bellwether_protocol::time::Timestamp;

use crate::room::here;

/// Decides a start on these agents. A rollout that is on is not known here, and would refuse it.
///
/// # Errors
/// None that can be caused from outside.
pub fn dry_run(start: Start, agents: &[Presence], now: Timestamp) -> Result<DryRun, IdError> {
    let Start { plan, release, .. } = start.clone();
    let service = plan.service.clone();
    let seen = |presence: &Presence| AgentSeen { agent: presence.agent.clone(), here: Some(here(presence, &service)) };
    let mut inputs: Vec<Input> = agents.iter().map(seen).map(Input::Presence).collect();
    inputs.push(Input::Command(Command {
        id: "dry-run".parse()?,
        seq: 1,
        service: service.clone(),
        principal: "dry-run".parse()?,
        at: now,
        not_after: now,
        rollout: None,
        reason: None,
        ask: Ask::Start(Box::new(start)),
    }));
    let decided = step(&Desk::new(service), &inputs, now);
    let rollout = decided.desk.rollout;
    let moves = |sets: &[Set]| sets.iter().map(|set| one_move(set, rollout.as_ref(), &release.to_string())).collect();
    Ok(DryRun {
        refused: decided.outcomes.into_iter().find_map(|outcome| outcome.refused),
        previous: rollout.as_ref().and_then(|rollout| rollout.previous().cloned()),
        stages: plan.stages.iter().map(|stage| (stage.name.clone(), moves(&stage.enter))).collect(),
        levels: levels(&plan, moves),
    })
}

fn levels(plan: &Plan, moves: impl Fn(&[Set]) -> Vec<Move>) -> Vec<Vec<Move>> {
    plan.take_back.levels.iter().map(|level| moves(&level.set)).collect()
}

/// What is set: as the rollout would, or as the plan says where it would not begin.
fn one_move(set: &Set, rollout: Option<&Rollout>, release: &str) -> Move {
    let to = match (&set.to, rollout) {
        (SetTo::Run, _) => "run".parse().ok(),
        (_, Some(rollout)) => rollout.value_of(set),
        (SetTo::Previous, None) => None,
        (SetTo::Release, None) => release.parse().ok(),
        (SetTo::Value(value), None) => Some(value.clone()),
    };
    Move { lever: set.lever.clone(), to }
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::id::LeverName;
    use bellwether_protocol::plan::read_plan;
    use bellwether_protocol::presence::LeverReading;

    use super::*;

    const PLAN: &str = "service: shop\nregions: { east: 'http://127.0.0.1:1' }\nlevers:\n  release: { holds_release: true }\n  \
        backup: { runs: true }\nslis: [{ name: home, http: { path: / } }]\ncriteria: [{ name: down, must: never 3 slots down }]\n\
        stages: [{ name: live, enter: [{ run: backup }, { set: release, to: '{release}' }], soak: 5m }]\n\
        take_back: { levels: [{ set: [{ set: release, to: '{previous}' }] }] }\n";

    fn agent(id: &str, levers: &[(&str, Option<&str>)]) -> Presence {
        let reading = |(lever, value): &(&str, Option<&str>)| LeverReading {
            lever: lever.parse().unwrap(),
            value: value.map(|value| value.parse().unwrap()),
            targets: Vec::new(),
            history: Vec::new(),
        };
        Presence {
            kinds: ["http".to_owned()].into(),
            levers: [("shop".parse().unwrap(), levers.iter().map(reading).collect())].into(),
            ..Presence::new(id.parse().unwrap(), "0", Timestamp::default())
        }
    }

    fn dry(text: &str, release: &str, agents: &[Presence]) -> DryRun {
        let (plan, _) = read_plan("plan.yaml", text, &[], &Default::default()).unwrap();
        let (text, overrides) = (text.to_owned(), Vec::new());
        let start = Start { release: release.parse().unwrap(), text, overrides, plan, shadow: false, supersede: false };
        dry_run(start, agents, "2026-05-05T13:51:10Z".parse().unwrap()).unwrap()
    }

    #[test]
    fn it_says_what_would_be_set_and_what_blocks() {
        let probe = agent("east.probe.probe-1", &[]);
        let levers = |release| agent("east.rollback.roll-1", &[("release", release), ("backup", Some("never"))]);
        let all = |would: &DryRun| -> Vec<(LeverName, Option<String>)> {
            let moves = would.stages.iter().flat_map(|(_, moves)| moves).chain(would.levels.iter().flatten());
            moves.map(|one| (one.lever.clone(), one.to.as_ref().map(ToString::to_string))).collect()
        };
        let moves = |back: Option<&str>| {
            [("backup", Some("run")), ("release", Some("v2")), ("release", back)]
                .map(|(lever, to)| (lever.parse().unwrap(), to.map(str::to_owned)))
        };
        let good = dry(PLAN, "v2", &[probe.clone(), levers(Some("v1"))]);
        assert_eq!((good.refused.as_deref(), good.previous.as_ref().map(|v| v.as_str())), (None, Some("v1")));
        assert_eq!(all(&good), moves(Some("v1")));
        for (agents, why) in [
            (vec![], "no live agent holds lever backup; no live agent holds lever release; region east has 0 of 1"),
            (vec![probe.clone(), levers(None)], "lever release could not be read back"),
            (vec![probe, levers(Some("v2"))], "v2 is out already"),
        ] {
            let blocked = dry(PLAN, "v2", &agents);
            assert!(blocked.refused.as_ref().is_some_and(|said| said.starts_with(why)), "{:?}", blocked.refused);
            assert_eq!(all(&blocked), moves(None));
        }
    }

    #[test]
    fn every_environment_of_the_sample_shop_goes_back_to_its_own_release() {
        const SHOP: &str = include_str!("../../tests/plans/shop.yaml");
        let probes = ["staging", "east", "west"].map(|region| agent(&format!("{region}.probe.probe-1"), &[]));
        let held = |staging| {
            let others = [("traffic", Some("0%")), ("new_checkout", Some("off"))];
            let held = [("staging", Some(staging)), ("release", Some("v42")), ("stable", Some("v42"))];
            let mut roll = agent("east.rollback.roll-1", &[&held[..], &others].concat());
            for reading in roll
                .levers
                .values_mut()
                .flatten()
                .filter(|reading| held.iter().any(|(lever, _)| reading.lever.as_str() == *lever))
            {
                reading.history = vec!["v42".parse().unwrap(), "v41".parse().unwrap()];
            }
            [&probes[..], &[roll]].concat()
        };
        // v42 is out already in the second case; in the third, staging alone is a release behind.
        for (release, staging, back) in
            [("v43", "v42", "v42 v42 v42"), ("v42", "v42", "v41 v41 v41"), ("v43", "v41", "v42 v42 v41")]
        {
            let would = dry(SHOP, release, &held(staging));
            assert_eq!(would.refused, None);
            let to = |lever: &str| {
                would.levels[0].iter().find(|one| one.lever.as_str() == lever).and_then(|one| one.to.clone())
            };
            let found = ["release", "stable", "staging"].map(|lever| to(lever).unwrap().to_string());
            assert_eq!(found.join(" "), back, "{release} while staging holds {staging}");
        }
    }
}
