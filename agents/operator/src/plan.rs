//! `bellwether plan check`, `plan explain` and `plan schema`: what is wrong with a plan, what it would do,
//! and what can be written in one, before anything is contacted.

use std::path::{Path, PathBuf};

use bellwether_protocol::plan::{Finding, FindingSeverity, Plan, Validators, plan_schema, read_plan, render};
use bellwether_protocol::time::Timestamp;

use crate::args::now;
use crate::error::{VerbError, exit};
use crate::out::outln;
use crate::render::{failure_lines, power_lines, timeline_lines};
use crate::verb::Judge;

/// Look at plan files
#[derive(Debug, clap::Subcommand)]
pub enum PlanVerb {
    /// Say what is wrong with plan files; nothing is contacted
    Check {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Override a value, such as `stages.canary.soak=60s`
        #[arg(long = "override", value_name = "KEY=VALUE")]
        overrides: Vec<String>,
        /// Requests a minute of one cohort in one region; default: the plan's own looks
        #[arg(long, value_name = "PER_MINUTE", value_parser = traffic)]
        traffic: Option<f64>,
    },
    /// Say what a plan would do, when, and what each failure would lead to; nothing is contacted
    Explain(ExplainPlanArgs),
    /// Print the JSON Schema of plan files, for editors
    Schema,
}

/// What to explain.
#[derive(Debug, clap::Args)]
pub struct ExplainPlanArgs {
    /// The file
    file: PathBuf,
    /// When it would start, such as `2026-05-04T09:00:00Z`; default: now
    #[arg(long, value_name = "INSTANT")]
    start: Option<Timestamp>,
    /// Override a value, such as `stages.canary.soak=60s`
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Requests a minute of one cohort in one region; default: the plan's own looks
    #[arg(long, value_name = "PER_MINUTE", value_parser = traffic)]
    traffic: Option<f64>,
}

fn traffic(text: &str) -> Result<f64, String> {
    let read = text.parse().ok().filter(|traffic: &f64| traffic.is_finite() && *traffic > 0.0 && *traffic <= 1e9);
    read.ok_or_else(|| "write requests a minute, such as `6` or `240`, at most 1e9".to_owned())
}

/// Largest plan file, in bytes.
const PLAN_LEN_MAX: u64 = 1024 * 1024;

/// Checks or explains plans.
///
/// # Errors
/// When a file cannot be read. Findings are a result, not an error; only a right plan is explained.
pub(crate) fn plan(verb: &PlanVerb, json: bool, validators: &Validators, judge: &Judge) -> Result<u8, VerbError> {
    let (files, overrides, traffic) = match verb {
        PlanVerb::Check { files, overrides, traffic } => (files, overrides, traffic),
        PlanVerb::Explain(args) => return explain(args, json, validators, judge),
        PlanVerb::Schema => return Ok(schema(validators)),
    };
    let mut powers = Vec::new();
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    for path in files {
        let text = read(path)?;
        let name = path.display().to_string();
        findings.extend(match read_plan(&name, &text, overrides, validators) {
            Ok((plan, warnings)) => {
                powers.push((name.clone(), plan.alpha, (judge.power)(&plan, *traffic)));
                warnings
            }
            Err(findings) => findings,
        });
        sources.push((name, text));
    }
    let code = if findings.iter().any(is_error) { exit::USAGE } else { exit::DONE };
    if json {
        let powers = powers
            .iter()
            .map(|(file, alpha, stages)| serde_json::json!({ "file": file, "alpha": alpha, "stages": stages }));
        let powers: Vec<_> = powers.collect();
        outln!("{}", serde_json::json!({ "findings": findings, "power": powers, "exit": code }));
    } else {
        let sources: Vec<(&str, &str)> = sources.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        for (_, alpha, stages) in &powers {
            power_lines(*alpha, stages).iter().for_each(|line| outln!("{line}"));
        }
        outln!("{} exit {code}", render(&findings, &sources).trim_end());
    }
    Ok(code)
}

fn explain(args: &ExplainPlanArgs, json: bool, validators: &Validators, judge: &Judge) -> Result<u8, VerbError> {
    let ExplainPlanArgs { file, start, overrides, traffic } = args;
    let plan = checked(file, &read(file)?, overrides, validators, json)?;
    let timeline = plan.timeline(start.unwrap_or_else(now));
    let powers = (judge.power)(&plan, *traffic);
    if json {
        outln!("{}", serde_json::json!({ "timeline": timeline, "power": powers, "plan": plan, "exit": exit::DONE }));
        return Ok(exit::DONE);
    }
    timeline_lines(&plan, &timeline).iter().for_each(|line| outln!("{line}"));
    outln!("\nwhat the data can show");
    power_lines(plan.alpha, &powers).iter().for_each(|line| outln!("{line}"));
    outln!("\nwhat each failure does");
    failure_lines(&plan).iter().for_each(|line| outln!("{line}"));
    outln!("\nnext: bellwether rollout start {} --release RELEASE --dry-run", file.display());
    Ok(exit::DONE)
}

/// What an editor needs to know of plans, and how it gets to know it.
fn schema(validators: &Validators) -> u8 {
    outln!("{:#}", plan_schema(validators));
    eprintln!("keep it beside your plans as plan.schema.json, and begin each of them with this line:");
    eprintln!("# yaml-language-server: $schema=plan.schema.json");
    exit::DONE
}

fn is_error(finding: &Finding) -> bool {
    finding.severity == FindingSeverity::Error
}

pub(crate) fn read(path: &Path) -> Result<String, VerbError> {
    let wrong = |source| VerbError::File { doing: "read", path: path.to_owned(), source };
    let len = std::fs::metadata(path).map_err(wrong)?.len();
    if len > PLAN_LEN_MAX {
        return Err(wrong(std::io::Error::other(format!("{len} bytes is over the limit of {PLAN_LEN_MAX}"))));
    }
    std::fs::read_to_string(path).map_err(wrong)
}

/// Reads a plan that is about to be started; shows what is wrong on standard error.
pub(crate) fn checked(
    path: &Path,
    text: &str,
    overrides: &[String],
    validators: &Validators,
    json: bool,
) -> Result<Plan, VerbError> {
    let name = path.display().to_string();
    let (plan, findings) = match read_plan(&name, text, overrides, validators) {
        Ok((plan, warnings)) => (Ok(plan), warnings),
        Err(findings) => (Err(VerbError::PlanRefused), findings),
    };
    if json && plan.is_err() {
        outln!("{}", serde_json::json!({ "findings": findings, "exit": exit::USAGE }));
    } else if !findings.is_empty() {
        eprint!("{}", render(&findings, &[(&name, text)]));
    }
    plan
}
