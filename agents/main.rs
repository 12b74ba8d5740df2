//! The one binary: parses, builds, runs. The only file that sees every room; it decides nothing.

use std::process::ExitCode;

use anyhow::Context;
use bellwether_coordinator::{assess::JUDGE, backtest, dry_run::dry_run, explain::explain, offline, report};
use bellwether_operator::{self as operator, Mesh, exit};
use bellwether_protocol::{assessment::Glance, plan::Validators};
use bellwether_runtime::telemetry;
use clap::{CommandFactory, Parser, Subcommand};

/// Watches a release travel from staging to production, and takes it back when it goes wrong
#[derive(Debug, Parser)]
#[command(name = "bellwether", version = env!("BELLWETHER_VERSION"), arg_required_else_help = true)]
#[command(after_help = operator::EXITS)]
struct Cli {
    #[command(flatten)]
    mesh: Mesh,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(flatten)]
    Operator(operator::Verb),
    Coordinator(operator::CoordinatorArgs),
    Agent(operator::AgentArgs),
    #[command(subcommand)]
    Alert(Alert),
    #[command(subcommand)]
    Load(bellwether_load::LoadVerb),
    #[command(subcommand)]
    Probe(bellwether_probe::ProbeVerb),
    #[command(subcommand)]
    Rollback(operator::RollbackVerb),
    Completions(operator::CompletionsArgs),
    Man(operator::ManArgs),
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

/// What the coordinator's room does for the operator's.
const JUDGING: operator::Judge = operator::Judge {
    backtest: |asked| {
        let samples = backtest::Samples::read(asked.name, asked.samples, asked.plan)?;
        Ok(backtest::backtest(asked.plan, &samples, asked.with_looks, asked.tell))
    },
    dry_run: |start, agents, now| Ok(dry_run(start, agents, now)?),
    evidence: |log, which, wanted| Ok(report::evidence(log, which, wanted)?),
    explain: |log, which| Ok(explain(log, which)?),
    power: offline::power,
    records: |log| Ok(offline::records(log)?),
    report: |log, which| Ok(report::report(log, which)?),
    verify: |log| Ok(offline::verify(log)?),
};

fn main() -> ExitCode {
    // Every client gets our TLS settings; this is for code of others that asks for a default.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let json = cli.mesh.json;
    if let Verb::Shim { args } = cli.verb {
        return bellwether_bus::child::shim(args);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return operator::complain(&error.into(), json),
    };
    let code = runtime.block_on(run(cli));
    runtime.shutdown_background(); // what still blocks, such as a process being stopped, must not hold up the end
    code.unwrap_or_else(|error| operator::complain(&error, json))
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { mesh, verb } = cli;
    let stays = match &verb {
        Verb::Agent(args) => Some(args.role.process()),
        Verb::Coordinator(_) => Some("bellwether-coordinator"),
        Verb::Operator(operator::Verb::Up(_)) => Some("bellwether-up"),
        _ => None,
    };
    let _telemetry = stays.map(telemetry::init);
    let looks = bellwether_probe::validators().into_iter().chain(bellwether_metric::validators());
    let validators: Validators = looks.chain(bellwether_load::validators()).collect();
    Ok(ExitCode::from(match verb {
        Verb::Operator(verb) => verb.run(&mesh, &validators, &JUDGING).await?,
        Verb::Coordinator(args) => coordinate(&mesh, args).await?,
        Verb::Agent(args) => agent(args.role, &args.config, &validators).await?,
        Verb::Alert(Alert::Ack(args)) => args.run(&mesh).await?,
        Verb::Alert(Alert::Test(args)) => args.run(mesh.json).await?,
        Verb::Load(verb) => verb.run(mesh.json).await?,
        Verb::Probe(verb) => verb.run(mesh.json).await?,
        Verb::Rollback(operator::RollbackVerb::Assess(args)) => assess(&mesh, &args, &validators).await?,
        Verb::Completions(args) => operator::completions(args, &mut Cli::command()),
        Verb::Man(args) => operator::man(&args, Cli::command())?,
        Verb::Shim { .. } => exit::USAGE,
        Verb::Site(verb) => return Ok(bellwether_site::run(&verb).await?),
    }))
}

async fn coordinate(mesh: &Mesh, args: operator::CoordinatorArgs) -> anyhow::Result<u8> {
    let operator::CoordinatorArgs { dir, id, nats_monitor: monitor } = args;
    let options = bellwether_coordinator::Options { connect: mesh.options()?, id, dir, monitor };
    bellwether_coordinator::run(options, bellwether_runtime::shutdown()).await.context("the coordinator stopped")?;
    Ok(exit::DONE)
}

async fn assess(mesh: &Mesh, args: &operator::AssessArgs, validators: &Validators) -> anyhow::Result<u8> {
    let eyes = bellwether_probe::Eyes::open(args.probe.as_deref())?;
    let kinds = bellwether_probe::validators().map(|(kind, _)| kind);
    let agent = bellwether_rollback::configured(&args.config)?;
    Ok(args.run(mesh, validators, agent, JUDGE, &kinds, async |glance: Glance<'_>| eyes.see(glance).await).await?)
}

async fn agent(role: operator::AgentRole, config: &std::path::Path, validators: &Validators) -> anyhow::Result<u8> {
    match role {
        operator::AgentRole::Alert => bellwether_alert::run(config).await?,
        operator::AgentRole::Flag => bellwether_flag::run(config).await?,
        operator::AgentRole::Load => bellwether_load::run(config).await?,
        operator::AgentRole::Metric => bellwether_metric::run(config).await?,
        operator::AgentRole::Probe => bellwether_probe::run(config).await?,
        operator::AgentRole::Rollback => bellwether_rollback::run(config).await?,
        operator::AgentRole::Trigger => bellwether_trigger::run(config, validators).await?,
    }
    Ok(exit::DONE)
}
