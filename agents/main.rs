//! The one binary: parses, builds, runs. The only file that sees every room; it decides nothing.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context;
use bellwether_operator::{
    AgentArgs, AgentRole, AgentsVerb, CommandVerb, CoordinatorArgs, DemoArgs, Mesh, PlanVerb, ReplayArgs, RolloutVerb,
    UpArgs, VerbError, exit,
};
use bellwether_protocol::plan::Validators;
use bellwether_runtime::telemetry;
use clap::{CommandFactory, Parser, Subcommand};

/// Watches a release travel from staging to production, and takes it back when it goes wrong
#[derive(Debug, Parser)]
#[command(name = "bellwether", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    mesh: Mesh,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Demo(DemoArgs),
    Up(UpArgs),
    Coordinator(CoordinatorArgs),
    Agent(AgentArgs),
    #[command(subcommand)]
    Plan(PlanVerb),
    #[command(subcommand)]
    Rollout(Rollout),
    #[command(subcommand)]
    Command(CommandVerb),
    #[command(subcommand)]
    Agents(AgentsVerb),
    /// Print a completion script
    Completions {
        shell: clap_complete::Shell,
    },
    #[command(hide = true)]
    Shim {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    #[command(hide = true)]
    Site(bellwether_site::SiteArgs),
    #[command(hide = true)]
    SiteLever(bellwether_site::lever::LeverArgs),
}

/// Start, list, look at, watch and replay rollouts
#[derive(Debug, Subcommand)]
enum Rollout {
    #[command(flatten)]
    Operator(RolloutVerb),
    /// Decide a whole log again, and compare
    Replay(ReplayArgs),
}

fn main() -> ExitCode {
    // Every client gets our TLS settings; this is for code of others that asks for a default.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    if let Verb::Shim { args } = cli.verb {
        return bellwether_bus::child::shim(args);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.into()),
    };
    let code = runtime.block_on(run(cli));
    // What still blocks, such as a process that is being stopped, must not hold up the end.
    runtime.shutdown_background();
    code.unwrap_or_else(|error| complain(&error))
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { mesh, verb } = cli;
    let validators: Validators = bellwether_probe::validators().into_iter().collect();
    Ok(ExitCode::from(match verb {
        Verb::Demo(args) => bellwether_operator::demo(&mesh, &args).await?,
        Verb::Up(args) => {
            let _telemetry = telemetry::init("bellwether-up");
            bellwether_operator::up(&args, &mesh.prefix.to_string()).await?
        }
        Verb::Coordinator(args) => coordinate(&mesh, args).await?,
        Verb::Agent(args) => agent(args.role, &args.config).await?,
        Verb::Plan(verb) => bellwether_operator::plan(&verb, mesh.json, &validators)?,
        Verb::Rollout(Rollout::Operator(verb)) => bellwether_operator::rollout(&mesh, verb, &validators).await?,
        Verb::Rollout(Rollout::Replay(args)) => {
            let records = bellwether_operator::stored_records(&mesh, &args).await?;
            let replayed = bellwether_coordinator::offline::replay(records)?;
            bellwether_operator::show_replayed(&mesh, &replayed.records, &replayed.heads)
        }
        Verb::Command(verb) => bellwether_operator::command(&mesh, verb).await?,
        Verb::Agents(verb) => bellwether_operator::agents(&mesh, verb).await?,
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "bellwether", &mut script);
            bellwether_operator::print(format_args!("{}", String::from_utf8_lossy(&script)));
            exit::DONE
        }
        Verb::Shim { .. } => exit::USAGE,
        Verb::Site(args) => bellwether_site::run(&args).await.map(|()| exit::DONE)?,
        Verb::SiteLever(args) => return Ok(bellwether_site::lever::lever(&args).await),
    }))
}

async fn coordinate(mesh: &Mesh, args: CoordinatorArgs) -> anyhow::Result<u8> {
    let _telemetry = telemetry::init("bellwether-coordinator");
    let CoordinatorArgs { dir, id, nats_monitor: monitor } = args;
    let options = bellwether_coordinator::Options { connect: mesh.options(), id, dir, monitor };
    tokio::select! {
        ended = bellwether_coordinator::run(options) => ended.map(|()| exit::DONE).context("the coordinator stopped"),
        () = bellwether_runtime::shutdown() => Ok(exit::DONE),
    }
}

async fn agent(role: AgentRole, config: &std::path::Path) -> anyhow::Result<u8> {
    let _telemetry = telemetry::init("bellwether-agent");
    match role {
        AgentRole::Alert => bellwether_alert::run(config).await?,
        AgentRole::Flag => bellwether_flag::run(config).await?,
        AgentRole::Probe => bellwether_probe::run(config).await?,
        AgentRole::Rollback => bellwether_rollback::run(config).await?,
    }
    Ok(exit::DONE)
}

/// The message, its causes, and what to try.
fn complain(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    let Some(verb) = error.downcast_ref::<VerbError>() else {
        let is_log = error.is::<bellwether_coordinator::offline::ReplayError>();
        return ExitCode::from(if is_log { exit::UNKNOWN } else { exit::USAGE });
    };
    if let Some(hint) = verb.hint() {
        eprintln!("  try: {hint}");
    }
    ExitCode::from(verb.exit_code())
}
