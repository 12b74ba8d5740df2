//! One action on one lever, without a mesh: the same ledger, kept in a file of its own.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use bellwether_bus::Clock;
use bellwether_protocol::action::{Action, ActionResult};
use bellwether_protocol::id::{ActionId, AgentId, LeverValue, Ordinal, RolloutId};
use bellwether_protocol::time::Span;

use crate::driver::{DriverError, Lever};
use crate::ledger::{Effect, Event, Ledger};
use crate::levers::{READ_TIMEOUT, SET_TIMEOUT};
use crate::store;

/// Sets `lever` to `to`, and answers when every target was read back, or `within` is over.
///
/// Intent is written to `journal` before effect, so that whoever comes after a crash looks before
/// setting again. The journal must be no agent's own, and nobody else's meanwhile.
///
/// # Errors
/// When the journal cannot be read or written; then nothing was set that it does not tell of.
pub async fn act_alone(
    lever: &Lever,
    agent: &AgentId,
    journal: &Path,
    to: LeverValue,
    within: Span,
) -> std::io::Result<ActionResult> {
    let clock = Clock::new();
    let now = clock.now();
    // Later is newer, and no rollout has the number 0.
    let generation = Ordinal(u64::try_from(now.as_ms()).unwrap_or_default());
    let id = ActionId { rollout: RolloutId { service: lever.service.clone(), number: 0 }, generation, index: 0 };
    let (service, name) = (lever.service.clone(), lever.name.clone());
    let action = Action { id: id.clone(), service, lever: name, to, generation, deadline: now + within };
    let state = store::load(journal)?.unwrap_or_default();
    let mut ledger = Ledger::new(agent.clone(), lever.name.clone(), state);
    let mut effects: VecDeque<Effect> = ledger.handle(Event::Action(action), now).into();
    loop {
        let event = match effects.pop_front() {
            Some(Effect::Answer(result)) if result.action == id => return Ok(result),
            // What an earlier run left open, closed now.
            Some(Effect::Answer(_)) => continue,
            Some(Effect::Persist) => {
                store::save(journal, ledger.state())?;
                continue;
            }
            Some(Effect::WakeAt(at)) => {
                tokio::time::sleep(at.since(clock.now()).to_std()).await;
                Event::Wake
            }
            Some(Effect::ReadBack) => Event::Read(limited(READ_TIMEOUT, lever.driver.read_back()).await),
            Some(Effect::Set { to, action }) => Event::Set(limited(SET_TIMEOUT, lever.driver.set(&to, &action)).await),
            None => return Err(std::io::Error::other("the ledger gave no answer")),
        };
        effects.extend(ledger.handle(event, clock.now()));
    }
}

async fn limited<T>(limit: Duration, doing: impl Future<Output = Result<T, DriverError>>) -> Result<T, DriverError> {
    let done = tokio::time::timeout(limit, doing).await;
    done.unwrap_or_else(|_| Err(DriverError::Unknown(format!("no answer in {} s", limit.as_secs()))))
}
