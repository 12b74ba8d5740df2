//! `bellwether drill`: brings a release out in a plan's first stage, and takes it back on purpose, timed.
//!
//! It is an ordinary rollout, in the log like any other. It stays in its first stage whatever happens, and
//! once that is green the drill asks for a rollback: the same levels and proofs that a failure would lead to.

use std::path::PathBuf;
use std::time::Duration;

use bellwether_bus::Bus;
use bellwether_protocol::action::ActionOutcome;
use bellwether_protocol::command::{CommandBody, Verb};
use bellwether_protocol::explanation::Explanation;
use bellwether_protocol::id::{Release, RolloutId, StageName};
use bellwether_protocol::plan::{Plan, Stage, Validators};
use bellwether_protocol::reason::Ending;
use bellwether_protocol::status::{State, Status};
use bellwether_protocol::time::{SPAN_MAX, Span, Timestamp};
use serde::Serialize;
use tokio::time::Instant;

use crate::args::{Asker, Mesh};
use crate::ask::{Asked, DECIDED_WITHIN, ask, say};
use crate::error::{VerbError, exit};
use crate::out::outln;
use crate::plan::{checked, read};
use crate::render::span;
use crate::replay::ExplainArgs;
use crate::rollout::{Which, last_status};
use crate::verb::Judge;

/// What to rehearse.
#[derive(Debug, clap::Args)]
pub struct DrillArgs {
    /// The plan file
    plan: PathBuf,
    /// The release to bring out and take back; another one than what runs
    #[arg(long)]
    release: Release,
    /// The first stage's name; needed where users may be in it
    #[arg(long)]
    stage: Option<StageName>,
    /// How many slots must be covered, and nothing red, before it is taken back
    #[arg(long, default_value_t = 3)]
    green: u64,
    /// Override a value of the plan, such as `slot=5s`
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    #[command(flatten)]
    asker: Asker,
}

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Beyond what the plan allows for, before the drill gives up.
const SLACK: Duration = Duration::from_secs(60);

/// Rehearses a take-back. Ends with 0 when it was applied within the plan's deadline and recovered.
///
/// # Errors
/// When the plan is refused, users may be in its first stage, or the mesh cannot be used.
pub(crate) async fn drill(
    mesh: &Mesh,
    args: &DrillArgs,
    validators: &Validators,
    judge: &Judge,
) -> Result<u8, VerbError> {
    let text = read(&args.plan, mesh.json)?;
    let mut plan = checked(&args.plan, &text, &args.overrides, validators, mesh.json)?;
    let stage = first_stage(&plan, args.stage.as_ref())?.name.clone();
    // It must not be left for the next one, however long people look at it.
    let overrides = args.overrides.iter().cloned().chain([format!("stages.{stage}.soak={SPAN_MAX}")]);
    let overrides: Vec<String> = overrides.collect();
    plan = checked(&args.plan, &text, &overrides, validators, mesh.json)?;
    let bus = mesh.connect().await?;
    let body = CommandBody {
        release: Some(args.release.clone()),
        plan: Some(text),
        overrides,
        reason: Some("drill: brought out to be taken back".to_owned()),
        ..CommandBody::default()
    };
    let service = plan.service.clone();
    let asked = |verb, body| {
        Ok::<_, VerbError>(Asked { service: service.clone(), verb, principal: args.asker.principal()?, body })
    };
    let answer = ask(&bus, &asked(Verb::Start, body)?, DECIDED_WITHIN, |_| {}).await?;
    let Some(rollout) = answer.outcome.as_ref().filter(|it| it.refused.is_none()).and_then(|it| it.rollout.clone())
    else {
        return say(&answer, mesh.json);
    };
    eprintln!("{rollout}: {} in {stage}, until {} slots are covered and nothing is red", args.release, args.green);
    let until = Instant::now() + green_within(&plan, args.green);
    let is_green = wait(&bus, &rollout, until, |status| is_green(status, args.green)).await?;
    eprintln!("{rollout}: {}; taking back", if is_green { "green" } else { "not green in time" });
    let body = CommandBody { rollout: Some(rollout.clone()), ..CommandBody::default() };
    let answer = ask(&bus, &asked(Verb::Rollback, body)?, DECIDED_WITHIN, |_| {}).await?;
    let is_asked = answer.outcome.as_ref().is_some_and(|outcome| outcome.refused.is_none());
    let until = Instant::now() + back_within(&plan);
    wait(&bus, &rollout, until, |_| false).await?;
    let which = Which { service: rollout.service.clone(), number: Some(rollout.number) };
    let why = ExplainArgs::of(which).tell(mesh, judge.explain).await?;
    let timed = timed(&plan, &why, is_green && is_asked);
    if mesh.json {
        outln!("{}", serde_json::json!(timed));
    } else {
        lines(&timed).iter().for_each(|line| outln!("{line}"));
    }
    Ok(timed.exit)
}

/// The stage that is rehearsed, unless users may be in it and nobody said so.
fn first_stage<'a>(plan: &'a Plan, named: Option<&StageName>) -> Result<&'a Stage, VerbError> {
    let setup = |why: String| Err(VerbError::Setup(why));
    let Some(first) = plan.stages.first() else { return setup("the plan has no stage".to_owned()) };
    match named {
        Some(named) if *named == first.name => Ok(first),
        Some(named) => {
            setup(format!("`{named}` is not the first stage, which is `{}`: a rollout begins there", first.name))
        }
        None if plan.stages.len() == 1 || first.name.as_str().contains("prod") => setup(format!(
            "users may be in `{0}`, the plan's first stage{1}; say `--stage {0}` to rehearse it there",
            first.name,
            if plan.stages.len() == 1 { " and last" } else { "" },
        )),
        None => Ok(first),
    }
}

/// Waits until `enough` holds, the rollout has ended, or it is too late; whether `enough` held.
async fn wait(
    bus: &Bus,
    rollout: &RolloutId,
    until: Instant,
    enough: impl Fn(&Status) -> bool,
) -> Result<bool, VerbError> {
    while Instant::now() < until {
        let status = last_status(bus, &rollout.service).await?.filter(|status| status.rollout == *rollout);
        match status {
            Some(status) if enough(&status) => return Ok(true),
            Some(status) if status.ending.is_some() => return Ok(false),
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
    Ok(false)
}

fn is_green(status: &Status, slots: u64) -> bool {
    let is_covered = !status.regions.is_empty() && status.regions.iter().all(|region| region.covered >= slots);
    matches!(status.state, State::Soaking | State::Waiting) && status.holds.is_empty() && is_covered
}

fn green_within(plan: &Plan, slots: u64) -> Duration {
    let Some(stage) = plan.stages.first() else { return SLACK };
    let levers = u64::try_from(stage.enter.len()).unwrap_or(u64::MAX);
    let enter = stage.enter_within.times(levers).to_std();
    enter + stage.settle.to_std() + plan.slot.times(slots.saturating_add(2)).to_std() + plan.grace.to_std() + SLACK
}

fn back_within(plan: &Plan) -> Duration {
    let levels: Duration = plan.take_back.levels.iter().map(|level| level.apply_within.to_std()).sum();
    let within = plan.slot.times(u64::from(plan.take_back.within).saturating_add(2)).to_std();
    levels + within + plan.grace.to_std() + SLACK
}

/// What the rehearsal has shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Timed {
    rollout: RolloutId,
    ending: Option<Ending>,
    /// Whether the release was green before, so that the way back is what was rehearsed.
    was_green: bool,
    /// From asked to read back on every target, by lever.
    levers: Vec<(String, Option<Span>)>,
    /// From asked to seen to be applied.
    applied: Option<Span>,
    apply_within: Span,
    /// From asked to seen to be green again.
    recovered: Option<Span>,
    exit: u8,
}

fn timed(plan: &Plan, why: &Explanation, was_green: bool) -> Timed {
    let asked = why.decided.as_ref().map(|decided| decided.at);
    let since = |at: Timestamp| asked.map(|asked| at.since(asked));
    let levers = why.moves.iter().filter(|own| own.is_back).map(|own| {
        let is_back = own.outcome == Some(ActionOutcome::Done);
        (format!("{} {}", own.lever, own.to), own.answered.filter(|_| is_back).and_then(since))
    });
    let apply_within = plan.take_back.levels.first().map(|level| level.apply_within).unwrap_or_default();
    let (applied, recovered) = (why.applied.and_then(since), why.recovered.and_then(|(at, _)| since(at)));
    let ending = why.status.ending;
    let in_time = applied.is_some_and(|applied| applied <= apply_within);
    let exit = match ending {
        Some(Ending::RolledBack) if was_green && in_time => exit::DONE,
        Some(Ending::RolledBack) if was_green => exit::HELD,
        Some(ending) => ending.exit_code(),
        None => exit::UNKNOWN,
    };
    let rollout = why.status.rollout.clone();
    Timed { rollout, ending, was_green, levers: levers.collect(), applied, apply_within, recovered, exit }
}

fn lines(timed: &Timed) -> Vec<String> {
    let after =
        |at: Option<Span>| at.map_or_else(|| "not seen".to_owned(), |at| format!("after {}", span(at.rounded())));
    let mut lines: Vec<String> =
        timed.levers.iter().map(|(lever, at)| format!("read back  {lever}: {}", after(*at))).collect();
    lines.push(format!("applied    {}; the plan allows {}", after(timed.applied), span(timed.apply_within)));
    lines.push(format!("recovered  {}", after(timed.recovered)));
    let verdict = match (timed.ending, timed.exit) {
        (Some(Ending::RolledBack), exit::DONE) => "taken back within the plan's deadline",
        (Some(Ending::RolledBack), exit::HELD) => "taken back, but LATER than the plan allows",
        (Some(Ending::RolledBack), _) => {
            "taken back, but the release was not green before: it failed by itself, or too little was seen"
        }
        (Some(Ending::NotTakenBack), _) => "NOT TAKEN BACK: a person must act",
        (Some(_), _) => "it ended otherwise",
        (None, _) => "it has not ended: look with bellwether rollout watch",
    };
    lines.push(format!("{}: {verdict}. exit {}", timed.rollout, timed.exit));
    lines
}

#[cfg(test)]
mod tests {
    use bellwether_protocol::plan::read_plan;

    use super::*;

    const SHOP: &str = include_str!("../../../tests/plans/shop.yaml");

    #[test]
    fn users_are_not_rehearsed_on_unless_somebody_says_so() {
        let canary = SHOP.find("  - name: canary").unwrap();
        let alone =
            SHOP[..canary].to_owned() + "take_back: { levels: [{ set: [{ set: staging, to: '{previous}' }] }] }\n";
        for (text, named, said) in [
            (SHOP.to_owned(), None, "staging"),
            (SHOP.to_owned(), Some("staging"), "staging"),
            (SHOP.to_owned(), Some("canary"), "error: `canary` is not the first stage"),
            (SHOP.replacen("- name: staging", "- name: preprod", 1), None, "error: users may be in `preprod`"),
            (alone.clone(), None, "error: users may be in `staging`, the plan's first stage and last"),
            (alone, Some("staging"), "staging"),
        ] {
            let (plan, _) = read_plan("plan.yaml", &text, &[], &Default::default())
                .unwrap_or_else(|findings| panic!("{findings:?}"));
            let named = named.map(|name| name.parse().unwrap());
            let stage = first_stage(&plan, named.as_ref()).map(|stage| stage.name.to_string());
            let stage = stage.unwrap_or_else(|error| format!("error: {error}"));
            assert!(stage.starts_with(said), "{stage}");
        }
    }

    #[test]
    fn the_end_says_what_the_rehearsal_has_shown() {
        let base = Timed {
            rollout: "shop/7".parse().unwrap(),
            ending: Some(Ending::RolledBack),
            was_green: true,
            levers: vec![("release v42".to_owned(), Some(Span::from_ms(1_400)))],
            applied: Some(Span::from_secs(6)),
            apply_within: Span::from_secs(120),
            recovered: Some(Span::from_secs(36)),
            exit: exit::DONE,
        };
        let expected = [
            "read back  release v42: after 1s",
            "applied    after 6s; the plan allows 2m",
            "recovered  after 36s",
            "shop/7: taken back within the plan's deadline. exit 0",
        ];
        assert_eq!(lines(&base), expected);
        let late = lines(&Timed { exit: exit::HELD, ..base.clone() });
        assert_eq!(late[3], "shop/7: taken back, but LATER than the plan allows. exit 3");
        let stuck = Timed { ending: Some(Ending::NotTakenBack), applied: None, exit: exit::NOT_TAKEN_BACK, ..base };
        assert_eq!(lines(&stuck)[1], "applied    not seen; the plan allows 2m");
        assert_eq!(lines(&stuck)[3], "shop/7: NOT TAKEN BACK: a person must act. exit 5");
    }
}
