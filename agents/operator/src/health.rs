//! `bellwether health`: asks a process how it is, for a container's health check, where there is no curl.

use std::time::Duration;

use crate::args::Mesh;
use crate::error::exit;
use crate::out::outln;

/// Where to ask.
#[derive(Debug, clap::Args)]
pub struct HealthArgs {
    /// What to ask; any answer of 200 to 299 is well
    #[arg(default_value = "http://127.0.0.1:9600/healthz")]
    url: String,
}

/// How long the answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How much of an answer is shown, in characters.
const ANSWER_LEN_MAX: usize = 200;

/// Asks once. Ends with 0 when it is well and with 1 when it is not: the two that a health check may use.
pub(crate) async fn health(mesh: &Mesh, HealthArgs { url }: &HealthArgs) -> u8 {
    let asked = ask(url).await;
    let said = asked.as_ref().unwrap_or_else(|why| why);
    if mesh.json {
        outln!("{}", serde_json::json!({ "url": url, "well": asked.is_ok(), "said": said }));
    } else {
        outln!("{url}: {said}");
    }
    if asked.is_ok() { exit::DONE } else { exit::TAKEN_BACK }
}

/// What it said, or why it is not well.
async fn ask(url: &str) -> Result<String, String> {
    let client = bellwether_runtime::http().map_err(|error| error.to_string())?;
    let mut answer = client.get(url).timeout(ANSWER_WITHIN).send().await.map_err(|error| cause(&error))?;
    let status = answer.status();
    let first = answer.chunk().await.map_err(|error| cause(&error))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&first);
    let line: String = text.lines().next().unwrap_or_default().chars().take(ANSWER_LEN_MAX).collect();
    let said = format!("{} {line}", status.as_u16());
    if status.is_success() { Ok(said) } else { Err(said) }
}

/// The innermost cause says what happened; the outer ones only where.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), cause)
}
