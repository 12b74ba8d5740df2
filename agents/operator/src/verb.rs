//! The verbs that ask and show, and what the judge does for them.
//!
//! This crate never decides. What it shows of a decision comes from a judge that is handed in by
//! `main.rs`, the only one who sees both rooms.

use std::error::Error;

use bellwether_protocol::asyncapi::asyncapi;
use bellwether_protocol::backtest::Decision;
use bellwether_protocol::command::Start;
use bellwether_protocol::dry_run::DryRun;
use bellwether_protocol::explanation::Explanation;
use bellwether_protocol::plan::{Plan, Validators};
use bellwether_protocol::power::StagePower;
use bellwether_protocol::presence::Presence;
use bellwether_protocol::record::Record;
use bellwether_protocol::report::{Folded, Report, Wanted};
use bellwether_protocol::time::Timestamp;

use crate::agents::{AgentsVerb, agents};
use crate::args::Mesh;
use crate::backtest::{Asked as Samples, BacktestArgs};
use crate::command::{CommandVerb, command};
use crate::demo::{DemoArgs, demo};
use crate::doctor::{DoctorArgs, doctor};
use crate::drill::{DrillArgs, drill};
use crate::error::{VerbError, exit};
use crate::health::{HealthArgs, health};
use crate::init::{InitArgs, init};
use crate::out::outln;
use crate::plan::{PlanVerb, plan};
use crate::replay::{Asked, AuditVerb, Heads, Log};
use crate::rollout::{RolloutVerb, rollout};
use crate::up::{UpArgs, up};

/// The verbs that ask and show.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Run the whole product on this machine: a good release, then a bad one
    Demo(DemoArgs),
    /// Write the files of a first rollout: asks, or reads flags; replaces nothing
    Init(InitArgs),
    /// Run a mesh on this machine: a local NATS server, a coordinator and agents
    Up(UpArgs),
    /// Look at plan files
    #[command(subcommand)]
    Plan(PlanVerb),
    /// Start, list, look at, watch, explain and report rollouts
    #[command(subcommand)]
    Rollout(RolloutVerb),
    /// Ask something of a rollout
    #[command(subcommand)]
    Command(CommandVerb),
    /// Look at the agents, and let more in
    #[command(subcommand)]
    Agents(AgentsVerb),
    /// Say what is wrong with the mesh, and what would mend it; changes nothing
    Doctor(DoctorArgs),
    /// Rehearse the way back: bring a release out in the first stage, take it back, and time it
    Drill(DrillArgs),
    /// Check the log
    #[command(subcommand)]
    Audit(AuditVerb),
    /// Decide on samples that were seen before: what would this plan have done, and when?
    Backtest(BacktestArgs),
    /// Ask a process on this machine how it is: 0 well, 1 not
    Health(HealthArgs),
    /// Print the AsyncAPI document of every subject on the mesh
    Asyncapi,
}

/// What a judge makes of what it is handed, or why it cannot.
pub type Told<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What the judge does for the verbs. A log is read while it is judged; `None`: it does not hold the rollout.
#[derive(Debug, Clone, Copy)]
pub struct Judge {
    /// What a plan would have decided on samples.
    pub backtest: fn(Samples<'_>) -> Told<Option<Decision>>,
    /// What a start would do with these agents.
    pub dry_run: fn(Start, &[Presence], Timestamp) -> Told<DryRun>,
    /// The slots behind a rollout's numbers.
    pub evidence: fn(Log, Asked<'_>, &Wanted) -> Told<Option<Folded>>,
    /// Why a rollout went as it did.
    pub explain: fn(Log, Asked<'_>) -> Told<Option<Explanation>>,
    /// What the looks of a plan can show, given the traffic a minute.
    pub power: fn(&Plan, Option<f64>) -> Vec<StagePower>,
    /// Every record, decided again.
    pub records: fn(Log) -> Told<(Vec<Record>, Heads)>,
    /// What a rollout has shown.
    pub report: fn(Log, Asked<'_>) -> Told<Option<Report>>,
    /// The last record of each service, after every one was decided again.
    pub verify: fn(Log) -> Told<Heads>,
}

impl Verb {
    /// Does what is asked, and returns the exit code.
    ///
    /// # Errors
    /// As the verbs say.
    pub async fn run(self, mesh: &Mesh, validators: &Validators, judge: &Judge) -> Result<u8, VerbError> {
        match self {
            Self::Demo(args) => demo(mesh, &args, judge.explain).await,
            Self::Init(args) => init(&args, mesh),
            Self::Up(args) => up(&args, &mesh.prefix.to_string()).await,
            Self::Plan(verb) => plan(&verb, mesh.json, validators, judge),
            Self::Rollout(verb) => rollout(mesh, verb, validators, judge).await,
            Self::Command(verb) => command(mesh, verb).await,
            Self::Agents(verb) => agents(mesh, verb).await,
            Self::Drill(args) => drill(mesh, &args, validators, judge).await,
            Self::Doctor(args) => doctor(mesh, &args).await,
            Self::Audit(verb) => verb.show(mesh, judge).await,
            Self::Backtest(args) => args.show(mesh, validators, judge),
            Self::Health(args) => Ok(health(mesh, &args).await),
            Self::Asyncapi => {
                outln!("{:#}", asyncapi(&mesh.prefix, env!("CARGO_PKG_VERSION")));
                Ok(exit::DONE)
            }
        }
    }
}
