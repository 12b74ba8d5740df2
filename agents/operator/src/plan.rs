//! `bellwether plan check`: what is wrong with a plan, before anything is contacted.

use std::path::{Path, PathBuf};

use bellwether_protocol::plan::{Finding, FindingSeverity, Plan, Validators, read_plan, render};

use crate::error::{VerbError, exit};
use crate::out::outln;

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
    },
}

/// Largest plan file, in bytes.
const PLAN_LEN_MAX: u64 = 1024 * 1024;

/// Checks plans.
///
/// # Errors
/// When a file cannot be read. Findings are a result, not an error.
pub fn plan(verb: &PlanVerb, json: bool, validators: &Validators) -> Result<u8, VerbError> {
    let PlanVerb::Check { files, overrides } = verb;
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    for path in files {
        let text = read(path)?;
        let name = path.display().to_string();
        findings.extend(match read_plan(&name, &text, overrides, validators) {
            Ok((_, warnings)) => warnings,
            Err(findings) => findings,
        });
        sources.push((name, text));
    }
    let code = if findings.iter().any(is_error) { exit::USAGE } else { exit::DONE };
    if json {
        outln!("{}", serde_json::json!({ "findings": findings, "exit": code }));
    } else {
        let sources: Vec<(&str, &str)> = sources.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        outln!("{} exit {code}", render(&findings, &sources).trim_end());
    }
    Ok(code)
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
