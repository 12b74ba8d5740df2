//! Keeps the running looks in step with the assignments. An assignment is taken whole or refused whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use bellwether_protocol::assignment::{self, Assignment};
use bellwether_protocol::id::{RolloutId, Service, SliName};
use bellwether_protocol::presence::Watching;
use bellwether_protocol::sample::Cohort;
use bellwether_protocol::time::Span;
use tokio::task::{AbortHandle, JoinSet};

use crate::Probe;
use crate::aggregate::{Watch, WatchId};
use crate::dial::Dialer;
use crate::look::{Look, Post, phase};
use crate::target::Target;

/// Most looks of one agent. It bounds connections and bodies in memory.
const LOOKS_MAX: usize = 200;
/// Narrowest slot: narrower ones would be more messages than evidence.
const SLOT_MIN: Span = Span::from_ms(100);
/// Most latency buckets of one look.
const EDGES_MAX: usize = 64;

type Key = (Service, SliName, Cohort);

/// All running looks.
pub(crate) struct Looks {
    agent: String,
    dialer: Arc<Dialer>,
    every_min: Span,
    post: Arc<Post>,
    running: BTreeMap<Key, Running>,
    // Ends every look when this is dropped.
    tasks: JoinSet<()>,
}

/// One running look, and all that it was made from.
struct Running {
    rollout: RolloutId,
    slot: Span,
    look: assignment::Look,
    watch: WatchId,
    task: AbortHandle,
}

/// A look that this agent can do.
struct Ready {
    look: assignment::Look,
    probe: Probe,
    target: Target,
}

impl Looks {
    /// No looks yet.
    pub(crate) fn new(agent: String, dialer: Dialer, every_min: Span, post: Arc<Post>) -> Self {
        let dialer = Arc::new(dialer);
        Self { agent, dialer, every_min, post, running: BTreeMap::new(), tasks: JoinSet::new() }
    }

    /// Starts and stops looks until they are what `assignments` say; tells what was taken up.
    pub(crate) fn reconcile(&mut self, assignments: &BTreeMap<Service, Assignment>) -> BTreeMap<Service, Watching> {
        // Ended tasks are taken out, or they would pile up.
        while self.tasks.try_join_next().is_some() {}
        let mut watching = BTreeMap::new();
        let mut room = LOOKS_MAX;
        self.stop_unless(|(service, _, _), _| assignments.contains_key(service));
        for (service, assignment) in assignments {
            let read = self.read(assignment, room);
            let (wanted, refused) = match read {
                Ok(ready) => (ready, None),
                Err(why) => {
                    tracing::warn!(%service, revision = %assignment.revision, why, "assignment refused");
                    (Vec::new(), Some(why))
                }
            };
            room = room.saturating_sub(wanted.len());
            self.take_up(service, assignment, wanted);
            watching.insert(service.clone(), Watching { revision: assignment.revision, refused });
        }
        watching
    }

    fn read(&self, assignment: &Assignment, room: usize) -> Result<Vec<Ready>, String> {
        if assignment.looks.len() > room {
            return Err(format!("more than {LOOKS_MAX} looks for this agent"));
        }
        if assignment.slot < SLOT_MIN {
            return Err(format!("a slot of {} is narrower than {SLOT_MIN}", assignment.slot));
        }
        let mut ready: Vec<Ready> = Vec::new();
        for look in &assignment.looks {
            let wrong = |why: String| format!("look `{}` at {}: {why}", look.sli, look.cohort);
            if ready.iter().any(|other| (&other.look.sli, other.look.cohort) == (&look.sli, look.cohort)) {
                return Err(wrong("named twice".to_owned()));
            }
            ready.push(self.read_look(look).map_err(wrong)?);
        }
        Ok(ready)
    }

    fn read_look(&self, look: &assignment::Look) -> Result<Ready, String> {
        if look.every < self.every_min {
            return Err(format!(
                "every {} is more often than this agent's `probe.every_min` of {}",
                look.every, self.every_min
            ));
        }
        let is_ascending = look.edges_ms.iter().zip(look.edges_ms.iter().skip(1)).all(|(a, b)| a < b);
        if !is_ascending || look.edges_ms.len() > EDGES_MAX {
            return Err(format!("the edges of latency buckets must ascend, at most {EDGES_MAX} of them"));
        }
        let target = Target::read(look)?;
        self.dialer.check(&target.origin)?;
        let probe = Probe::read(&look.kind, &look.settings).map_err(|flaws| {
            let texts: Vec<String> =
                flaws.iter().take(3).map(|flaw| format!("{} {}", flaw.pointer, flaw.message)).collect();
            texts.join("; ").trim().to_owned()
        })?;
        Ok(Ready { look: look.clone(), probe, target })
    }

    fn take_up(&mut self, service: &Service, assignment: &Assignment, wanted: Vec<Ready>) {
        let is_same = |running: &Running, look: &assignment::Look| {
            running.rollout == assignment.rollout && running.slot == assignment.slot && running.look == *look
        };
        self.stop_unless(|(own, _, _), running| {
            own != service || wanted.iter().any(|ready| is_same(running, &ready.look))
        });
        for ready in wanted {
            let key = (service.clone(), ready.look.sli.clone(), ready.look.cohort);
            match self.running.get(&key) {
                Some(running) => self.post.with(|aggregate, _| aggregate.renew(running.watch, assignment.revision)),
                None => self.begin(key, assignment, ready),
            }
        }
    }

    fn begin(&mut self, key: Key, assignment: &Assignment, ready: Ready) {
        let Ready { look, probe, target } = ready;
        let watch = Watch {
            rollout: assignment.rollout.clone(),
            revision: assignment.revision,
            sli: look.sli.clone(),
            cohort: look.cohort,
            slot: assignment.slot,
            timeout: look.timeout,
            edges_ms: look.edges_ms.clone(),
        };
        let watch = self.post.with(|aggregate, now| aggregate.add(watch, now));
        let phase = phase((&self.agent, &key), look.every);
        let repeated = Look { watch, probe, target, every: look.every, phase };
        let task = self.tasks.spawn(repeated.repeat(Arc::clone(&self.dialer), Arc::clone(&self.post)));
        let running = Running { rollout: assignment.rollout.clone(), slot: assignment.slot, look, watch, task };
        self.running.insert(key, running);
    }

    fn stop_unless(&mut self, keep: impl Fn(&Key, &Running) -> bool) {
        let post = &self.post;
        self.running.retain(|key, running| {
            let is_kept = keep(key, running);
            if !is_kept {
                running.task.abort();
                post.with(|aggregate, _| aggregate.remove(running.watch));
            }
            is_kept
        });
    }
}
