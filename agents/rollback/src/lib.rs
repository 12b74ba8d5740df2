//! The rollback agent: moves a service between releases, and reads back where it is.
//!
//! It does what an action says to a lever that its own configuration names. It never judges, never
//! chooses a value, and knows no plan. One file per driver: `exec`, `render`.

use std::path::Path;
use std::sync::Arc;

use bellwether_protocol::id::{LeverName, Role, Service};
use bellwether_runtime::{AgentConfig, ConfigError, Driver, Lever, LeverError, Runtime, StartError, Task, TaskConfig};
use serde::Deserialize;

use crate::exec::{Exec, ExecConfig};
use crate::render::{AutoDeploy, Render, RenderConfig};

mod exec;
mod render;

#[cfg(test)]
mod contract;

/// The file of one rollback agent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    agent: AgentConfig,
    rollback: RollbackConfig,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackConfig {
    service: Service,
    levers: Vec<LeverConfig>,
}

/// One lever, with exactly one driver.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeverConfig {
    name: LeverName,
    exec: Option<ExecConfig>,
    render: Option<RenderConfig>,
    render_auto_deploy: Option<RenderConfig>,
    task: Option<TaskConfig>,
}

/// Why a rollback agent did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// Its file cannot be read.
    #[error("could not read the configuration")]
    Config(#[from] ConfigError),
    /// Two levers with one name.
    #[error("lever `{0}` is configured twice")]
    Duplicate(LeverName),
    /// Its levers cannot be acted on.
    #[error("could not hold the levers")]
    Hold(#[from] LeverError),
    /// A lever that could never work.
    #[error("lever `{0}` is not configured right")]
    Lever(LeverName, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// No lever at all.
    #[error("`rollback.levers` is empty, so there would be nothing to do")]
    NoLever,
    /// A lever that nothing moves, or several do.
    #[error("lever `{0}` needs one driver: give it `exec`, `render`, `render_auto_deploy` or `task`")]
    Driver(LeverName),
    /// It could not join the mesh.
    #[error("could not start")]
    Start(#[from] StartError),
}

/// Runs the agent that `config` describes until the process is told to stop.
///
/// # Errors
/// When the configuration cannot work or the mesh cannot be joined.
pub async fn run(config: &Path) -> Result<(), RollbackError> {
    let (agent, levers) = configured(config)?;
    let runtime = Runtime::start(Role::Rollback, &agent).await?;
    Ok(runtime.serve_levers(levers).await?)
}

/// The agent that `config` describes, and its levers, for whoever acts without a mesh.
///
/// # Errors
/// When the configuration cannot work.
pub fn configured(config: &Path) -> Result<(AgentConfig, Vec<Lever>), RollbackError> {
    let Config { agent, rollback } = bellwether_runtime::load_config(config)?;
    let levers = levers(&rollback, &agent.state_dir)?;
    Ok((agent, levers))
}

fn levers(config: &RollbackConfig, state_dir: &Path) -> Result<Vec<Lever>, RollbackError> {
    let mut levers: Vec<Lever> = Vec::new();
    for lever in &config.levers {
        if levers.iter().any(|known| known.name == lever.name) {
            return Err(RollbackError::Duplicate(lever.name.clone()));
        }
        let driver = driver(lever, state_dir)?;
        levers.push(Lever { service: config.service.clone(), name: lever.name.clone(), driver });
    }
    if levers.is_empty() { Err(RollbackError::NoLever) } else { Ok(levers) }
}

fn driver(lever: &LeverConfig, state_dir: &Path) -> Result<Arc<dyn Driver>, RollbackError> {
    let LeverConfig { name, exec, render, render_auto_deploy, task } = lever;
    let driver = match (exec, render, render_auto_deploy, task) {
        (Some(exec), None, None, None) => shared(Exec::new(exec)),
        (None, Some(render), None, None) => shared(Render::new(render)),
        (None, None, Some(render), None) => shared(AutoDeploy::new(render)),
        (None, None, None, Some(task)) => shared(Task::new(task, state_dir, name)),
        _ => return Err(RollbackError::Driver(name.clone())),
    };
    driver.map_err(|error| RollbackError::Lever(name.clone(), error))
}

type Flaw = Box<dyn std::error::Error + Send + Sync>;

fn shared<D: Driver + 'static>(driver: Result<D, impl Into<Flaw>>) -> Result<Arc<dyn Driver>, Flaw> {
    driver.map(|driver| Arc::new(driver) as _).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(levers_json: serde_json::Value, expected: &str) {
        let config = serde_json::json!({ "service": "shop", "levers": levers_json });
        let config: RollbackConfig = serde_json::from_value(config).expect("a configuration");
        let said = match levers(&config, Path::new("state")) {
            Ok(levers) => format!("{} levers", levers.len()),
            Err(e) => e.to_string(),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn levers_that_could_not_work_are_refused_at_start() {
        let exec = serde_json::json!({ "set": ["set", "{value}"], "read_back": ["read"] });
        check(serde_json::json!([{ "name": "traffic", "exec": exec }]), "1 levers");
        check(serde_json::json!([]), "`rollback.levers` is empty, so there would be nothing to do");
        check(
            serde_json::json!([{ "name": "traffic" }]),
            "lever `traffic` needs one driver: give it `exec`, `render`, `render_auto_deploy` or `task`",
        );
        let twice = serde_json::json!([{ "name": "a", "exec": exec }, { "name": "a", "exec": exec }]);
        check(twice, "lever `a` is configured twice");
        let shell = serde_json::json!({ "set": ["sh", "-c", "set {value}"], "read_back": ["read"] });
        check(serde_json::json!([{ "name": "a", "exec": shell }]), "lever `a` is not configured right");
    }
}
