//! Keeps running looks in step with the assignments. An assignment is taken whole or refused whole.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bellwether_protocol::assignment::{Assignment, Look};
use bellwether_protocol::id::{Revision, RolloutId, Service, SliName};
use bellwether_protocol::presence::Watching;
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::Span;

use crate::gather::Watch;

/// Most looks of one agent. It bounds connections and bodies in memory.
pub const LOOKS_MAX: usize = 200;
/// Narrowest slot: narrower ones would be more messages than evidence.
const SLOT_MIN: Span = Span::from_ms(200);
/// Most latency buckets of one look.
const EDGES_MAX: usize = 64;

/// What an agent that looks does itself.
pub trait Looker {
    /// A look that this agent can do.
    type Ready;
    /// A look that goes on until this is dropped.
    type Running;

    /// Whether looks of this kind are for this agent; others are left to other agents.
    fn knows(&self, kind: &str) -> bool;

    /// Checks a look at a service; the error says why it cannot be done.
    ///
    /// # Errors
    /// When it cannot.
    fn read(&self, service: &Service, look: &Look) -> Result<Self::Ready, String>;

    /// Checks looks that would be done together, beside those that `running` goes on with.
    ///
    /// # Errors
    /// When together they are more than this agent does.
    fn fit<'a>(
        &'a self,
        _wanted: impl Iterator<Item = &'a Self::Ready>,
        _running: impl Iterator<Item = &'a Self::Running>,
    ) -> Result<(), String> {
        Ok(())
    }

    /// Begins to look. `phase` is where in its interval a look lies: the same after each restart, and
    /// different for each agent and look.
    fn begin(&mut self, watch: Watch, look: &Look, ready: Self::Ready, phase: Span) -> Self::Running;

    /// The same look, under a later assignment.
    fn renew(&mut self, running: &Self::Running, revision: Revision);
}

type Key = (Service, SliName, Cohort);

/// All running looks of one agent.
#[derive(Debug)]
pub struct Looks<L: Looker> {
    agent: String,
    looker: L,
    running: BTreeMap<Key, Running<L::Running>>,
}

/// One running look, and all that it was made from.
#[derive(Debug)]
struct Running<R> {
    rollout: RolloutId,
    slot: Span,
    look: Look,
    handle: R,
}

impl<L: Looker> Looks<L> {
    /// No looks yet. `agent` is the agent's own name, by which looks are spread.
    pub fn new(agent: String, looker: L) -> Self {
        Self { agent, looker, running: BTreeMap::new() }
    }

    /// What runs, in order.
    pub fn running(&self) -> impl Iterator<Item = &L::Running> {
        self.running.values().map(|running| &running.handle)
    }

    /// Ends every look.
    pub fn end(self) -> L {
        self.looker
    }

    /// Starts and stops looks until they are what `assignments` say; tells what was taken up.
    pub fn reconcile(&mut self, assignments: &BTreeMap<Service, Assignment>) -> BTreeMap<Service, Watching> {
        let mut watching = BTreeMap::new();
        let mut room = LOOKS_MAX;
        self.running.retain(|(service, _, _), _| assignments.contains_key(service));
        for (service, assignment) in assignments {
            let (wanted, refused) = match self.read(assignment, room) {
                Ok(ready) => (ready, None),
                Err(why) => {
                    tracing::warn!(%service, revision = %assignment.revision, why, "assignment refused");
                    (Vec::new(), Some(why))
                }
            };
            room = room.saturating_sub(wanted.len());
            self.take_up(service, assignment, wanted);
            watching.insert(service.clone(), Watching { revision: assignment.revision, refused, gaps: Vec::new() });
        }
        watching
    }

    fn read<'a>(&self, assignment: &'a Assignment, room: usize) -> Result<Vec<(&'a Look, L::Ready)>, String> {
        let looks: Vec<&Look> = assignment.looks.iter().filter(|look| self.looker.knows(&look.kind)).collect();
        if looks.len() > room {
            return Err(format!("more than {LOOKS_MAX} looks for this agent"));
        }
        if assignment.slot < SLOT_MIN {
            return Err(format!("a slot of {} is narrower than {SLOT_MIN}", assignment.slot));
        }
        let mut ready: Vec<(&Look, L::Ready)> = Vec::new();
        for look in looks {
            let wrong = |why: String| format!("look `{}` at {}: {why}", look.sli, look.cohort);
            if ready.iter().any(|(other, _)| (&other.sli, other.cohort) == (&look.sli, look.cohort)) {
                return Err(wrong("named twice".to_owned()));
            }
            let is_ascending = look.edges_ms.iter().zip(look.edges_ms.iter().skip(1)).all(|(a, b)| a < b);
            if !is_ascending || look.edges_ms.len() > EDGES_MAX {
                return Err(wrong(format!("the edges of latency buckets must ascend, at most {EDGES_MAX} of them")));
            }
            ready.push((look, self.looker.read(&assignment.rollout.service, look).map_err(wrong)?));
        }
        let service = &assignment.rollout.service;
        let others = self.running.iter().filter(|((own, ..), _)| own != service).map(|(_, running)| &running.handle);
        self.looker.fit(ready.iter().map(|(_, ready)| ready), others)?;
        Ok(ready)
    }

    fn take_up(&mut self, service: &Service, assignment: &Assignment, wanted: Vec<(&Look, L::Ready)>) {
        let is_same = |running: &Running<L::Running>, look: &Look| {
            running.rollout == assignment.rollout && running.slot == assignment.slot && running.look == *look
        };
        self.running
            .retain(|(own, _, _), running| own != service || wanted.iter().any(|(look, _)| is_same(running, look)));
        for (look, ready) in wanted {
            let key = (service.clone(), look.sli.clone(), look.cohort);
            if let Some(running) = self.running.get(&key) {
                self.looker.renew(&running.handle, assignment.revision);
                continue;
            }
            let watch = Watch {
                rollout: assignment.rollout.clone(),
                revision: assignment.revision,
                sli: look.sli.clone(),
                cohort: look.cohort,
                slot: assignment.slot,
                timeout: look.timeout,
                edges_ms: look.edges_ms.clone(),
            };
            let phase = phase((&self.agent, &key), look.every);
            let handle = self.looker.begin(watch, look, ready, phase);
            let (rollout, slot) = (assignment.rollout.clone(), assignment.slot);
            self.running.insert(key, Running { rollout, slot, look: look.clone(), handle });
        }
    }
}

fn phase(name: impl Hash, every: Span) -> Span {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    Span::from_ms(hasher.finish() % every.as_ms().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_spread_and_stable() {
        let every = Span::from_secs(30);
        let phases: std::collections::BTreeSet<Span> = (0..100).map(|n| phase(("agent", n), every)).collect();
        assert!(phases.len() > 90 && phases.iter().all(|p| *p < every));
        assert_eq!(phase("a", every), phase("a", every));
    }
}
