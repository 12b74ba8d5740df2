//! `bellwether rollout start --dry-run`: each call that it would make, and what would block it.

use bellwether_bus::Bus;
use bellwether_protocol::command::{Start, Verb};
use bellwether_protocol::dry_run::{DryRun, Move};
use bellwether_protocol::id::{LeverName, Principal, Role, RolloutId, Service};
use bellwether_protocol::plan::Plan;
use bellwether_protocol::presence::Presence;
use bellwether_protocol::status::Status;
use bellwether_protocol::time::Span;

use crate::agents::presences;
use crate::args::{Mesh, now};
use crate::error::{VerbError, exit};
use crate::out::outln;
use crate::render::{Line, span};
use crate::verb::Judge;

/// Shows what `start` would do, and publishes nothing. Ends with 2 when it would be refused.
///
/// # Errors
/// When the mesh cannot be read.
pub(crate) async fn dry_run(
    mesh: &Mesh,
    bus: &Bus,
    judge: &Judge,
    (start, principal): (Start, &Principal),
    status: Option<Status>,
) -> Result<u8, VerbError> {
    let agents = presences(bus).await?;
    let running = status.filter(|status| status.ending.is_none() && !start.supersede).map(|status| status.rollout);
    let would = (judge.dry_run)(start.clone(), &agents, now()).map_err(|error| VerbError::Setup(error.to_string()))?;
    let blocks = blocks(&would, running, &agents);
    let code = if blocks.is_empty() { exit::DONE } else { exit::USAGE };
    let subject = bus.prefix().command(&start.plan.service, Verb::Start, principal);
    if mesh.json {
        let levers = hands(&start.plan.service, &would, &agents);
        let said = serde_json::json!({
            "publishes": subject, "would": would, "levers": levers, "blocks": blocks, "exit": code,
        });
        outln!("{said}");
        return Ok(code);
    }
    let Start { release, plan, shadow, .. } = &start;
    let what = if *shadow { ", in the shadow: no lever is set" } else { "" };
    outln!("{} {release}   DRY RUN{what}: nothing was published", plan.service);
    outln!("publishes  {subject}");
    if let Some(previous) = &would.previous {
        outln!("goes back to  {previous}");
    }
    lines(plan, &would, &agents).iter().for_each(|line| outln!("{}", line.plain()));
    blocks.iter().for_each(|why| outln!("blocks  {why}"));
    match blocks.len() {
        0 => outln!("nothing blocks it. exit {code}"),
        n => outln!("{n} to fix before it can start. exit {code}"),
    }
    Ok(code)
}

/// Why it would not begin.
fn blocks(would: &DryRun, running: Option<RolloutId>, agents: &[Presence]) -> Vec<String> {
    let refused = would.refused.iter().flat_map(|why| why.split("; ")).map(str::to_owned);
    let running = running.map(|rollout| format!("{rollout} is running: abort it first, or `--supersede`"));
    let nobody = !agents.iter().any(|presence| presence.agent.role == Role::Coordinator);
    let nobody = nobody.then(|| "no coordinator is here: it would be stored, and not decided".to_owned());
    refused.chain(running).chain(nobody).collect()
}

/// Each stage and each level, with what it sets by whom.
fn lines(plan: &Plan, would: &DryRun, agents: &[Presence]) -> Vec<Line> {
    let mut lines = Vec::new();
    for ((name, moves), stage) in would.stages.iter().zip(&plan.stages) {
        let approval = if stage.approval { ", then waits for approval" } else { "" };
        let lasts = Span::from_ms(stage.settle.as_ms().saturating_add(stage.soak.as_ms()));
        lines.push(Line::of(format!("stage {name}   looks for {}{approval}", span(lasts))));
        lines.extend(moves.iter().map(|one| move_line(&plan.service, one, agents)));
        let runs = stage.during.iter().map(|run| Move { lever: run.run.clone(), to: "run".parse().ok() });
        lines.extend(runs.map(|one| move_line(&plan.service, &one, agents)));
    }
    for (level, (moves, number)) in plan.take_back.levels.iter().zip(would.levels.iter().zip(1..)) {
        if !moves.is_empty() {
            lines.push(Line::of(format!("if taken back, level {number}   within {}", span(level.apply_within))));
            lines.extend(moves.iter().map(|one| move_line(&plan.service, one, agents)));
        }
    }
    lines
}

/// Of each lever that would be set: who holds it, where it stands, and what setting it does.
fn hands(service: &Service, would: &DryRun, agents: &[Presence]) -> serde_json::Value {
    let stages = would.stages.iter().flat_map(|(_, moves)| moves);
    let moves = stages.chain(would.levels.iter().flatten()).map(|one| &one.lever);
    let one = |lever: &LeverName| {
        let (agent, stands, does) = held(service, lever, agents)?;
        Some((lever.to_string(), serde_json::json!({ "agent": agent, "now": stands, "does": does })))
    };
    moves.filter_map(one).collect::<serde_json::Map<_, _>>().into()
}

fn move_line(service: &Service, Move { lever, to }: &Move, agents: &[Presence]) -> Line {
    let to = to.as_ref().map_or("{previous}", |to| to.as_str());
    let line = Line::of(format!("  {lever} {to}")).pad_to(26);
    let Some((agent, stands, does)) = held(service, lever, agents) else { return line.then("no agent holds it") };
    line.then(format!("now {stands}")).pad_to(42).then(format!("{agent}: {does}"))
}

/// Who holds a lever, where it stands, and what setting it does.
fn held(service: &Service, lever: &LeverName, agents: &[Presence]) -> Option<(String, String, String)> {
    agents.iter().find_map(|presence| {
        let reading = presence.levers.get(service)?.iter().find(|reading| reading.lever == *lever)?;
        let hand = presence.hands.get(service).and_then(|hands| hands.get(lever)).cloned().unwrap_or_default();
        let stands = match (&reading.value, hand.error) {
            (Some(value), _) => value.to_string(),
            (None, Some(error)) => format!("? ({error})"),
            (None, None) => "? (its targets do not agree)".to_owned(),
        };
        Some((format!("{}/{}", presence.agent.region, presence.agent.name), stands, hand.does))
    })
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::plan::read_plan;

    use super::*;

    const SHOP: &str = include_str!("../../../tests/plans/shop.yaml");

    #[test]
    fn each_call_names_who_would_make_it() {
        let (plan, _) = read_plan("shop.yaml", SHOP, &[], &Default::default()).unwrap();
        let roll = serde_json::json!({
            "agent": "east.rollback.roll-1", "version": "0", "at": "2026-05-05T13:51:10Z", "clock_offset_ms": 0,
            "spooled": 0, "watching": {}, "serving": {},
            "levers": { "shop": [
                { "lever": "staging", "value": "v42", "targets": [], "history": [] },
                { "lever": "traffic", "value": null, "targets": [], "history": [] },
            ] },
            "hands": { "shop": {
                "staging": { "does": "deploy {value}" },
                "traffic": { "does": "shift {value}", "error": "refused: 403" },
            } },
        });
        let roll: Presence = serde_json::from_value(roll).unwrap();
        let one = |lever: &str, to: &str| Move { lever: lever.parse().unwrap(), to: to.parse().ok() };
        let stages = [
            ("staging", one("staging", "v43")),
            ("canary", one("traffic", "10%")),
            ("production", one("stable", "v43")),
        ];
        let would = DryRun {
            refused: Some("no live agent holds lever stable; lever traffic could not be read back".to_owned()),
            previous: None,
            stages: stages.map(|(stage, one)| (stage.parse().unwrap(), vec![one])).into(),
            levels: vec![vec![Move { lever: "staging".parse().unwrap(), to: None }]],
        };
        let text: Vec<String> = lines(&plan, &would, std::slice::from_ref(&roll)).iter().map(Line::plain).collect();
        let expected = "\
stage staging   looks for 1h
  staging v43             now v42         east/roll-1: deploy {value}
stage canary   looks for 4h, then waits for approval
  traffic 10%             now ? (refused: 403)  east/roll-1: shift {value}
stage production   looks for 24h
  stable v43              no agent holds it
if taken back, level 1   within 2m
  staging {previous}      now v42         east/roll-1: deploy {value}";
        assert_eq!(text.join("\n"), expected);
        let levers = hands(&plan.service, &would, std::slice::from_ref(&roll));
        let staging = serde_json::json!({ "agent": "east/roll-1", "now": "v42", "does": "deploy {value}" });
        assert_eq!((&levers["staging"], &levers["stable"]), (&staging, &serde_json::Value::Null));
        let running = Some("shop/7".parse().unwrap());
        let expected = [
            "no live agent holds lever stable",
            "lever traffic could not be read back",
            "shop/7 is running: abort it first, or `--supersede`",
            "no coordinator is here: it would be stored, and not decided",
        ];
        assert_eq!(blocks(&would, running, &[roll]), expected);
    }
}
