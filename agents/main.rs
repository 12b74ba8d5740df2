//! The one binary: parses, builds, runs. The only file that sees every room; it decides nothing.

use std::process::ExitCode;

use anyhow::Context;
use bellwether_coordinator::{assess::JUDGE, backtest, explain::explain, offline, report};
use bellwether_operator::{self as operator, Mesh, exit};
use bellwether_protocol::{assessment::Glance, plan::Validators};
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
    Demo(operator::DemoArgs),
    Up(operator::UpArgs),
    Coordinator(operator::CoordinatorArgs),
    Agent(operator::AgentArgs),
    #[command(subcommand)]
    Alert(Alert),
    #[command(subcommand)]
    Plan(operator::PlanVerb),
    #[command(subcommand)]
    Rollback(operator::RollbackVerb),
    #[command(subcommand)]
    Rollout(Rollout),
    #[command(subcommand)]
    Command(operator::CommandVerb),
    #[command(subcommand)]
    Agents(operator::AgentsVerb),
    #[command(subcommand)]
    Audit(operator::AuditVerb),
    Backtest(operator::BacktestArgs),
    Completions(operator::CompletionsArgs),
    #[command(hide = true)]
    Shim {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
    #[command(flatten)]
    Site(bellwether_site::SiteVerb),
}

/// Try who would be told, and take incidents up
#[derive(Debug, Subcommand)]
enum Alert {
    Ack(operator::AckArgs),
    Test(bellwether_alert::TestArgs),
}

/// Start, list, look at, watch, explain and report rollouts
#[derive(Debug, Subcommand)]
enum Rollout {
    #[command(flatten)]
    Verb(operator::RolloutVerb),
    Explain(operator::ExplainArgs),
    Report(operator::ReportArgs),
    Evidence(operator::EvidenceArgs),
    Replay(operator::ReplayArgs),
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
        Err(error) => return operator::complain(&error.into(), |_| false),
    };
    let code = runtime.block_on(run(cli));
    runtime.shutdown_background(); // what still blocks, such as a process being stopped, must not hold up the end
    code.unwrap_or_else(|error| operator::complain(&error, |error| error.is::<offline::ReplayError>()))
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { mesh, verb } = cli;
    let stays = [
        matches!(verb, Verb::Agent(_)).then_some("bellwether-agent"),
        matches!(verb, Verb::Coordinator(_)).then_some("bellwether-coordinator"),
        matches!(verb, Verb::Up(_)).then_some("bellwether-up"),
    ];
    let _telemetry = stays.into_iter().flatten().next().map(telemetry::init);
    let validators: Validators =
        bellwether_probe::validators().into_iter().chain(bellwether_metric::validators()).collect();
    Ok(ExitCode::from(match verb {
        Verb::Demo(args) => operator::demo(&mesh, &args, explain).await?,
        Verb::Up(args) => operator::up(&args, &mesh.prefix.to_string()).await?,
        Verb::Coordinator(args) => coordinate(&mesh, args).await?,
        Verb::Agent(args) => agent(args.role, &args.config).await?,
        Verb::Alert(Alert::Ack(args)) => args.run(&mesh).await?,
        Verb::Alert(Alert::Test(args)) => args.run(mesh.json).await?,
        Verb::Plan(verb) => operator::plan(&verb, mesh.json, &validators, offline::power)?,
        Verb::Rollback(operator::RollbackVerb::Assess(args)) => assess(&mesh, &args, &validators).await?,
        Verb::Rollout(Rollout::Verb(verb)) => operator::rollout(&mesh, verb, &validators, explain).await?,
        Verb::Rollout(Rollout::Explain(args)) => args.show(&mesh, explain).await??,
        Verb::Rollout(Rollout::Report(args)) => args.show(&mesh, report::report).await??,
        Verb::Rollout(Rollout::Evidence(args)) => args.show(&mesh, report::evidence).await??,
        Verb::Rollout(Rollout::Replay(args)) => args.show(&mesh, offline::records).await??,
        Verb::Audit(verb) => verb.show(&mesh, offline::verify).await??,
        Verb::Command(verb) => operator::command(&mesh, verb).await?,
        Verb::Agents(verb) => operator::agents(&mesh, verb).await?,
        Verb::Backtest(args) => args.show(&mesh, &validators, |asked| {
            let samples = backtest::Samples::read(asked.name, asked.samples, asked.plan)?;
            anyhow::Ok(backtest::backtest(asked.plan, &samples, asked.with_looks, asked.tell))
        })??,
        Verb::Completions(args) => operator::completions(args, &mut Cli::command()),
        Verb::Shim { .. } => exit::USAGE,
        Verb::Site(verb) => return Ok(bellwether_site::run(&verb).await?),
    }))
}

async fn coordinate(mesh: &Mesh, args: operator::CoordinatorArgs) -> anyhow::Result<u8> {
    let operator::CoordinatorArgs { dir, id, nats_monitor: monitor } = args;
    let options = bellwether_coordinator::Options { connect: mesh.options(), id, dir, monitor };
    tokio::select! {
        ended = bellwether_coordinator::run(options) => ended.context("the coordinator stopped")?,
        () = bellwether_runtime::shutdown() => {}
    }
    Ok(exit::DONE)
}

async fn assess(mesh: &Mesh, args: &operator::AssessArgs, validators: &Validators) -> anyhow::Result<u8> {
    let eyes = bellwether_probe::Eyes::open(args.probe.as_deref())?;
    let kinds = bellwether_probe::validators().map(|(kind, _)| kind);
    let agent = bellwether_rollback::configured(&args.config)?;
    Ok(args.run(mesh, validators, agent, JUDGE, &kinds, async |glance: Glance<'_>| eyes.see(glance).await).await?)
}

async fn agent(role: operator::AgentRole, config: &std::path::Path) -> anyhow::Result<u8> {
    match role {
        operator::AgentRole::Alert => bellwether_alert::run(config).await?,
        operator::AgentRole::Flag => bellwether_flag::run(config).await?,
        operator::AgentRole::Metric => bellwether_metric::run(config).await?,
        operator::AgentRole::Probe => bellwether_probe::run(config).await?,
        operator::AgentRole::Rollback => bellwether_rollback::run(config).await?,
    }
    Ok(exit::DONE)
}
