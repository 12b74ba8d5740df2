//! `bellwether rollout`: start one, list them, look at one, watch one.

use std::path::PathBuf;
use std::str::FromStr;

use bellwether_bus::Bus;
use bellwether_protocol::codec;
use bellwether_protocol::command::{self, CommandBody, Verb};
use bellwether_protocol::id::{IdError, Principal, Release, RolloutId, Service};
use bellwether_protocol::plan::Validators;
use bellwether_protocol::presence::Stuck;
use bellwether_protocol::status::{NeedsYou, Status};
use bellwether_protocol::subject::Bucket;
use bellwether_protocol::time::Span;
use bellwether_runtime::Mode;

use crate::agents::stuck;
use crate::args::{Asker, Mesh, now};
use crate::ask::{Asked, DECIDED_WITHIN, ask, say};
use crate::dry_run::dry_run;
use crate::error::{VerbError, exit};
use crate::follow::{Follow, follow};
use crate::out::outln;
use crate::plan;
use crate::render::{Frame, draw, table};
use crate::replay::{Explain, ExplainArgs, ReplayArgs};
use crate::report::{EvidenceArgs, ReportArgs};
use crate::screen::Screen;
use crate::verb::Judge;

/// Start, list, look at, watch, explain and report rollouts
#[derive(Debug, clap::Subcommand)]
pub enum RolloutVerb {
    /// The latest rollout of each service
    List,
    /// Bring out a release
    Start(StartArgs),
    /// One rollout, once
    Status {
        /// SERVICE or SERVICE/NUMBER; default: the only one
        rollout: Option<Which>,
    },
    /// One rollout, until it ends
    Watch(WatchArgs),
    /// Say why a rollout went as it did: decided when, on which numbers, and seen to work how
    Explain(ExplainArgs),
    /// Report a rollout: may what comes next follow, and on which evidence
    Report(ReportArgs),
    /// Show the slots behind a rollout's numbers, as they were folded
    Evidence(EvidenceArgs),
    /// Decide a whole log again, and compare
    Replay(ReplayArgs),
}

/// What to start, and whether to wait for its end.
#[derive(Debug, clap::Args)]
pub struct StartArgs {
    /// The plan file
    plan: PathBuf,
    /// The release to bring out, as its fingerprint will name it
    #[arg(long)]
    release: Release,
    /// Override a value of the plan, such as `stages.canary.soak=60s`
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Look and decide, and move nothing: say what would have been done
    #[arg(long)]
    shadow: bool,
    /// Say each call that it would make and what blocks it; publish nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// End a rollout that is on, and go on from where it stands
    #[arg(long)]
    supersede: bool,
    /// Watch until it ends, and end with its exit code
    #[arg(long)]
    wait: bool,
    /// With --wait: give up after this long, with exit code 3
    #[arg(long, requires = "wait", value_name = "SPAN")]
    timeout: Option<Span>,
    /// With --wait: lines instead of the live view
    #[arg(long)]
    plain: bool,
    /// Why
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    asker: Asker,
}

/// What to watch.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    /// SERVICE or SERVICE/NUMBER; default: the only one
    rollout: Option<Which>,
    /// Lines instead of the live view
    #[arg(long)]
    plain: bool,
    /// Give up after this long, with exit code 3
    #[arg(long, value_name = "SPAN")]
    timeout: Option<Span>,
    #[command(flatten)]
    asker: Asker,
}

/// A service, or one rollout of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Which {
    pub(crate) service: Service,
    pub(crate) number: Option<u64>,
}

impl Which {
    /// That there is no such rollout.
    pub(crate) fn none(&self) -> VerbError {
        let Self { service, number } = self.clone();
        match number {
            Some(number) => VerbError::NoRollout(RolloutId { service, number }),
            None => VerbError::NoService(service),
        }
    }
}

impl From<RolloutId> for Which {
    fn from(RolloutId { service, number }: RolloutId) -> Self {
        Self { service, number: Some(number) }
    }
}

impl FromStr for Which {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.contains('/') {
            return Ok(text.parse::<RolloutId>()?.into());
        }
        Ok(Self { service: text.parse()?, number: None })
    }
}

/// Does what is asked of rollouts.
///
/// # Errors
/// When the plan is refused, the mesh cannot be used, or there is no such rollout.
pub(crate) async fn rollout(
    mesh: &Mesh,
    verb: RolloutVerb,
    validators: &Validators,
    judge: &Judge,
) -> Result<u8, VerbError> {
    match verb {
        RolloutVerb::Evidence(args) => args.show(mesh, judge).await,
        RolloutVerb::Explain(args) => args.show(mesh, judge).await,
        RolloutVerb::List => list(mesh).await,
        RolloutVerb::Replay(args) => args.show(mesh, judge).await,
        RolloutVerb::Report(args) => args.show(mesh, judge).await,
        RolloutVerb::Start(args) => start(mesh, &args, validators, judge).await,
        RolloutVerb::Status { rollout } => status(mesh, rollout.as_ref()).await,
        RolloutVerb::Watch(args) => watch(mesh, &args, judge.explain).await,
    }
}

async fn list(mesh: &Mesh) -> Result<u8, VerbError> {
    let all = statuses(&mesh.connect().await?).await?;
    if mesh.json {
        print_json(&all)?;
    } else if all.is_empty() {
        outln!("No rollouts yet. do: bellwether rollout start PLAN --release RELEASE");
    } else {
        table::rollouts(&all, now()).iter().for_each(|line| outln!("{}", line.plain()));
    }
    Ok(exit::DONE)
}

async fn status(mesh: &Mesh, which: Option<&Which>) -> Result<u8, VerbError> {
    let status = find(&mesh.connect().await?, which).await?;
    if let Some(Which { service, number: Some(number) }) = which
        && status.rollout.number != *number
    {
        let asked = RolloutId { service: service.clone(), number: *number };
        let is_past = asked.number < status.rollout.number;
        let current = status.rollout;
        return Err(if is_past { VerbError::Past { asked, current } } else { VerbError::NoRollout(asked) });
    }
    if mesh.json {
        print_json(&status)?;
    } else {
        let (width, look) = (Screen::size().0, mesh.look());
        let frame = Frame { status: &status, now: now(), width, height: usize::MAX, look, keys: false };
        draw(&frame).iter().for_each(|line| outln!("{}", line.paint(look, usize::MAX)));
    }
    Ok(exit::DONE)
}

async fn watch(mesh: &Mesh, args: &WatchArgs, explain: Explain) -> Result<u8, VerbError> {
    let bus = mesh.connect().await?;
    let rollout = match &args.rollout {
        Some(Which { service, number: Some(number) }) => RolloutId { service: service.clone(), number: *number },
        which => find(&bus, which.as_ref()).await?.rollout,
    };
    let asker = args.asker.principal()?;
    let options = View { plain: args.plain, timeout: args.timeout, asker, explain };
    watch_until_end(mesh, &bus, rollout, options).await
}

struct View {
    plain: bool,
    timeout: Option<Span>,
    asker: Principal,
    explain: Explain,
}

async fn watch_until_end(mesh: &Mesh, bus: &Bus, rollout: RolloutId, view: View) -> Result<u8, VerbError> {
    let mode = Mode::choose(mesh.json, view.plain);
    let followed = follow(Follow {
        bus,
        rollout,
        mode,
        look: mesh.look(),
        timeout: view.timeout.map(Span::to_std),
        asker: (mode == Mode::Live).then_some(view.asker),
        explain: view.explain,
        notes: None,
    });
    Ok(followed.await?.exit_code())
}

async fn start(mesh: &Mesh, args: &StartArgs, validators: &Validators, judge: &Judge) -> Result<u8, VerbError> {
    let text = plan::read(&args.plan, mesh.json)?;
    let plan = plan::checked(&args.plan, &text, &args.overrides, validators, mesh.json)?;
    let principal = args.asker.principal()?;
    let bus = mesh.connect().await?;
    if args.dry_run {
        let start = command::Start {
            release: args.release.clone(),
            text,
            overrides: args.overrides.clone(),
            shadow: args.shadow,
            supersede: args.supersede,
            plan,
        };
        let status = last_status(&bus, &start.plan.service).await?;
        return dry_run(mesh, &bus, judge, (start, &principal), status).await;
    }
    let body = CommandBody {
        release: Some(args.release.clone()),
        plan: Some(text),
        overrides: args.overrides.clone(),
        shadow: args.shadow,
        supersede: args.supersede,
        reason: args.reason.clone(),
        ..CommandBody::default()
    };
    let asked = Asked { service: plan.service, verb: Verb::Start, principal: principal.clone(), body };
    let answer = ask(&bus, &asked, DECIDED_WITHIN, |command| {
        if !mesh.json {
            outln!("stored: command {command}");
        }
    });
    let answer = answer.await?;
    let code = say(&answer, mesh.json)?;
    match answer.outcome.and_then(|outcome| outcome.rollout) {
        Some(rollout) if args.wait && code == exit::DONE => {
            let view = View { plain: args.plain, timeout: args.timeout, asker: principal, explain: judge.explain };
            watch_until_end(mesh, &bus, rollout, view).await
        }
        Some(rollout) if code == exit::DONE && !mesh.json => {
            outln!("next: bellwether rollout watch {rollout}");
            Ok(code)
        }
        _ => Ok(code),
    }
}

/// Where the rollout that is meant stands: that of the only service, when none is named.
pub(crate) async fn find(bus: &Bus, which: Option<&Which>) -> Result<Status, VerbError> {
    let Some(Which { service, .. }) = which else {
        let mut all = statuses(bus).await?;
        return match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                let services = all.into_iter().chain([last]).map(|status| status.rollout.service).collect();
                Err(VerbError::Ambiguous(services))
            }
            (None, _) => Err(VerbError::NoRollouts),
        };
    };
    last_status(bus, service).await?.ok_or_else(|| VerbError::NoService(service.clone()))
}

/// Where the last rollout of a service stands; `None` when there was none.
pub(crate) async fn last_status(bus: &Bus, service: &Service) -> Result<Option<Status>, VerbError> {
    let entry = bus.kv(Bucket::Status).get(service.as_str()).await?;
    let Some(bytes) = entry.and_then(|entry| entry.value) else { return Ok(None) };
    Ok(Some(held(codec::from_json("status", &bytes)?, stuck(bus).await?.as_ref())))
}

/// `status` while nothing is decided, if that is so: what it says is old then, and it holds.
pub(crate) fn held(mut status: Status, stuck: Option<&Stuck>) -> Status {
    if let Some(stuck) = stuck.filter(|_| status.ending.is_none()) {
        let run = Some("bellwether doctor".to_owned());
        status.needs_you = Some(NeedsYou { what: "nothing is decided".to_owned(), run });
        status.stuck = Some(stuck.clone());
    }
    status
}

pub(crate) async fn statuses(bus: &Bus) -> Result<Vec<Status>, VerbError> {
    let (bucket, stuck) = (bus.kv(Bucket::Status), stuck(bus).await?);
    let mut all = Vec::new();
    for entry in bucket.entries().await? {
        all.push(held(codec::from_json("status", &entry.value.unwrap_or_default())?, stuck.as_ref()));
    }
    Ok(all)
}

fn print_json<T: serde::Serialize>(value: &T) -> Result<(), VerbError> {
    let text = codec::to_json("status", value)?;
    outln!("{}", String::from_utf8_lossy(&text));
    Ok(())
}
