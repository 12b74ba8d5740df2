//! The one binary: parses, builds, runs. The only file that sees every room; it decides nothing.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context;
use bellwether_coordinator::{backtest, explain::explain, offline, report};
use bellwether_operator::{
    AgentArgs, AgentRole, AgentsVerb, AuditVerb, BacktestArgs, CommandVerb, CoordinatorArgs, DemoArgs, EvidenceArgs,
    ExplainArgs, Mesh, PlanVerb, ReplayArgs, ReportArgs, RolloutVerb, UpArgs, VerbError, exit,
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
    #[command(subcommand)]
    Audit(AuditVerb),
    Backtest(BacktestArgs),
    /// Print a completion script
    Completions {
        shell: bellwether_operator::Shell,
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

/// Start, list, look at, watch, explain and report rollouts
#[derive(Debug, Subcommand)]
enum Rollout {
    #[command(flatten)]
    Verb(RolloutVerb),
    /// Say why a rollout went as it did: decided when, on which numbers, and seen to work how
    Explain(ExplainArgs),
    Report(ReportArgs),
    Evidence(EvidenceArgs),
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
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.into()),
    };
    let code = runtime.block_on(run(cli));
    runtime.shutdown_background(); // what still blocks, such as a process being stopped, must not hold up the end
    code.unwrap_or_else(|error| complain(&error))
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { mesh, verb } = cli;
    let service = match &verb {
        Verb::Agent(_) => Some("bellwether-agent"),
        Verb::Coordinator(_) => Some("bellwether-coordinator"),
        Verb::Up(_) => Some("bellwether-up"),
        _ => None,
    };
    let _telemetry = service.map(telemetry::init);
    let validators: Validators = bellwether_probe::validators().into_iter().collect();
    Ok(ExitCode::from(match verb {
        Verb::Demo(args) => bellwether_operator::demo(&mesh, &args, explain).await?,
        Verb::Up(args) => bellwether_operator::up(&args, &mesh.prefix.to_string()).await?,
        Verb::Coordinator(args) => coordinate(&mesh, args).await?,
        Verb::Agent(args) => agent(args.role, &args.config).await?,
        Verb::Plan(verb) => bellwether_operator::plan(&verb, mesh.json, &validators, offline::power)?,
        Verb::Rollout(Rollout::Verb(verb)) => bellwether_operator::rollout(&mesh, verb, &validators, explain).await?,
        Verb::Rollout(Rollout::Explain(args)) => args.show(&mesh, explain).await??,
        Verb::Rollout(Rollout::Report(args)) => args.show(&mesh, report::report).await??,
        Verb::Rollout(Rollout::Evidence(args)) => args.show(&mesh, report::evidence).await??,
        Verb::Rollout(Rollout::Replay(args)) => args.show(&mesh, offline::records).await??,
        Verb::Audit(verb) => verb.show(&mesh, offline::verify).await??,
        Verb::Command(verb) => bellwether_operator::command(&mesh, verb).await?,
        Verb::Agents(verb) => bellwether_operator::agents(&mesh, verb).await?,
        Verb::Backtest(args) => args.show(&mesh, &validators, |asked| {
            let samples = backtest::Samples::read(asked.name, asked.samples, asked.plan)?;
            anyhow::Ok(backtest::backtest(asked.plan, &samples, asked.with_looks, asked.tell))
        })??,
        Verb::Completions { shell } => bellwether_operator::completions(shell, &mut Cli::command()),
        Verb::Shim { .. } => exit::USAGE,
        Verb::Site(args) => bellwether_site::run(&args).await.map(|()| exit::DONE)?,
        Verb::SiteLever(args) => return Ok(bellwether_site::lever::lever(&args).await),
    }))
}

async fn coordinate(mesh: &Mesh, args: CoordinatorArgs) -> anyhow::Result<u8> {
    let CoordinatorArgs { dir, id, nats_monitor: monitor } = args;
    let options = bellwether_coordinator::Options { connect: mesh.options(), id, dir, monitor };
    tokio::select! {
        ended = bellwether_coordinator::run(options) => ended.map(|()| exit::DONE).context("the coordinator stopped"),
        () = bellwether_runtime::shutdown() => Ok(exit::DONE),
    }
}

async fn agent(role: AgentRole, config: &std::path::Path) -> anyhow::Result<u8> {
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
    let verb = error.downcast_ref::<VerbError>();
    if let Some(hint) = verb.and_then(VerbError::hint) {
        eprintln!("  try: {hint}");
    }
    let other = if error.is::<offline::ReplayError>() { exit::UNKNOWN } else { exit::USAGE };
    ExitCode::from(verb.map_or(other, VerbError::exit_code))
}
