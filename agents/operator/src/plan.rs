//! `bellwether plan check`, `plan show`, `plan explain` and `plan schema`: what is wrong with a plan, what
//! it says with its bases, what it would do, and what can be written in one, before anything is contacted.
//!
//! The only place that reads plan files.

use std::path::{Path, PathBuf};

use bellwether_protocol::plan::{
    Finding, FindingSeverity, Plan, Unjoined, Validators, files, join, plan_schema, read_plan, render, written,
};
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
    /// Print a plan as it is run: with the bases that it `extends`, without comments
    Show {
        /// The file
        file: PathBuf,
        /// Override a value, such as `stages.canary.soak=60s`
        #[arg(long = "override", value_name = "KEY=VALUE")]
        overrides: Vec<String>,
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
    let (paths, overrides, traffic) = match verb {
        PlanVerb::Check { files, overrides, traffic } => (files, overrides, traffic),
        PlanVerb::Explain(args) => return explain(args, json, validators, judge),
        PlanVerb::Show { file, overrides } => return show(file, overrides, json),
        PlanVerb::Schema => return Ok(schema(validators)),
    };
    let mut powers = Vec::new();
    let mut findings: Vec<Finding> = Vec::new();
    let mut sources: Vec<(String, String)> = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        let (text, found) = match whole(path)? {
            Ok(text) => match read_plan(&name, &text, overrides, validators) {
                Ok((plan, warnings)) => {
                    powers.push((name.clone(), plan.alpha, (judge.power)(&plan, *traffic)));
                    (text, warnings)
                }
                Err(findings) => (text, findings),
            },
            Err(unjoined) => (unjoined.text, vec![unjoined.finding]),
        };
        // What is wrong with a base of several is told once.
        for (name, text) in files(&name, &text) {
            if !sources.iter().any(|(own, _)| *own == name) {
                sources.push((name, text.to_owned()));
            }
        }
        for finding in found {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
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
    let plan = checked(file, &read(file, json)?, overrides, validators, json)?;
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

fn show(path: &Path, overrides: &[String], json: bool) -> Result<u8, VerbError> {
    let (name, text) = (path.display().to_string(), read(path, json)?);
    let shown = written(&name, &text, overrides).map_err(|found| refused(&found, &files(&name, &text), json))?;
    if json {
        outln!("{}", serde_json::json!({ "plan": shown, "exit": exit::DONE }));
    } else {
        outln!("{}", shown.trim_end());
    }
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

/// The text of a plan file and of every base below it; shows on standard error why there is none.
///
/// # Errors
/// When a file cannot be read, or the plan cannot be laid over its base.
pub(crate) fn read(path: &Path, json: bool) -> Result<String, VerbError> {
    whole(path)?.map_err(|unjoined| {
        let Unjoined { finding, text } = *unjoined;
        refused(&[finding], &files(&path.display().to_string(), &text), json)
    })
}

fn whole(path: &Path) -> Result<Result<String, Box<Unjoined>>, VerbError> {
    let wrong = |source| VerbError::File { doing: "read", path: path.to_owned(), source };
    let text = file(path).map_err(wrong)?;
    Ok(join(&path.display().to_string(), text, |base| file(Path::new(base)).map_err(|error| error.to_string())))
}

fn file(path: &Path) -> std::io::Result<String> {
    let len = std::fs::metadata(path)?.len();
    if len > PLAN_LEN_MAX {
        return Err(std::io::Error::other(format!("{len} bytes is over the limit of {PLAN_LEN_MAX}")));
    }
    std::fs::read_to_string(path)
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
    let sources = files(&name, text);
    match read_plan(&name, text, overrides, validators) {
        Ok((plan, warnings)) => {
            if !warnings.is_empty() {
                // What follows may well contact or change something.
                eprintln!("{}", render(&warnings, &sources).trim_end().trim_end_matches(NOTHING_DONE));
            }
            Ok(plan)
        }
        Err(findings) => Err(refused(&findings, &sources, json)),
    }
}

/// What a check may say, and a start may not.
const NOTHING_DONE: &str = " Nothing was contacted or changed.";

fn refused(findings: &[Finding], sources: &[(String, &str)], json: bool) -> VerbError {
    if json {
        outln!("{}", serde_json::json!({ "findings": findings, "exit": exit::USAGE }));
    } else {
        eprint!("{}", render(findings, sources));
    }
    VerbError::PlanRefused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_with_the_bases_below_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/plans");
        let cart = folder.join("cart.yaml");
        let text = read(&cart, false).unwrap();
        let plan = checked(&cart, &text, &["stages.canary.soak=5h".to_owned()], &Validators::new(), false).unwrap();
        assert_eq!((plan.service.as_str(), plan.slis.len(), plan.stages[0].soak.as_ms()), ("cart", 2, 18_000_000));
        assert_eq!(show(&cart, &[], false).unwrap(), exit::DONE);
        let moved = tempfile::tempdir().unwrap();
        std::fs::copy(&cart, moved.path().join("cart.yaml")).unwrap();
        let refused = read(&moved.path().join("cart.yaml"), false).unwrap_err();
        assert!(matches!(refused, VerbError::PlanRefused), "{refused}");
        let unjoined = whole(&moved.path().join("cart.yaml")).unwrap().unwrap_err();
        assert_eq!(unjoined.finding.message, "the base `storefront.yaml` cannot be read");
        assert!(unjoined.finding.help.is_some_and(|why| why.contains("No such file")));
    }
}
