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
const SLOT_MIN: Span = Span::from_ms(200);
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
        // Looks of other kinds are for other agents.
        let own = |look: &&assignment::Look| crate::validators().iter().any(|(kind, _)| *kind == look.kind);
        for look in assignment.looks.iter().filter(own) {
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

    use bellwether_protocol::id::Revision;
    use bellwether_protocol::sample::{Portion, Sample};
    use bellwether_protocol::time::Timestamp;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::aggregate::Aggregate;

    fn system_now() -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        Timestamp::from_ms(i64::try_from(since.as_millis()).expect("this millennium"))
    }

    fn looks() -> (Looks, Arc<Post>) {
        let post = Arc::new(Post::new(Aggregate::new(None), Arc::new(system_now)));
        let allow = serde_json::from_value(json!(["127.0.0.1"])).expect("a list");
        let dialer = Dialer::new(allow, bellwether_runtime::tls());
        (Looks::new("sjc.probe.probe-1".to_owned(), dialer, Span::from_ms(20), Arc::clone(&post)), post)
    }

    async fn site() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
        format!("http://{address}")
    }

    fn look(url: &str) -> assignment::Look {
        assignment::Look {
            sli: "errors".parse().unwrap(),
            cohort: Cohort::Canary,
            url: url.to_owned(),
            kind: "http".to_owned(),
            settings: json!({"path": "/"}),
            every: Span::from_ms(50),
            timeout: Span::from_secs(2),
            headers: BTreeMap::new(),
            fingerprint: None,
            edges_ms: vec![10, 100],
        }
    }

    fn assigned(revision: u64, looks: Vec<assignment::Look>) -> BTreeMap<Service, Assignment> {
        let assignment = Assignment {
            rollout: "shop/1".parse().unwrap(),
            revision: Revision(revision),
            region: "sjc".parse().unwrap(),
            slot: Span::from_ms(200),
            looks,
        };
        [("shop".parse().unwrap(), assignment)].into()
    }

    fn ids(looks: &Looks) -> Vec<WatchId> {
        looks.running.values().map(|running| running.watch).collect()
    }

    async fn sample_that(post: &Post, is_it: impl Fn(&Sample) -> bool) -> Sample {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < Duration::from_secs(8) {
            for sample in post.close() {
                if is_it(&sample) {
                    return sample;
                }
                last = Some(sample);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no such sample; the last one was {last:?}");
    }

    #[tokio::test]
    async fn looks_follow_their_assignment() {
        let (mut looks, post) = looks();
        let url = site().await;
        let watching = looks.reconcile(&assigned(1, vec![look(&url)]));
        assert!(watching.values().all(|w| w.revision == Revision(1) && w.refused.is_none()));
        let sample = sample_that(&post, |sample| sample.portions.iter().map(Portion::n).sum::<u64>() >= 2).await;
        assert_eq!((sample.sli.as_str(), sample.revision), ("errors", Revision(1)));
        assert!(sample.portions[0].classes.keys().all(|class| class.as_str() == "ok"), "{sample:?}");

        let first = ids(&looks);
        let other = assignment::Look { cohort: Cohort::Baseline, ..look(&url) };
        looks.reconcile(&assigned(2, vec![look(&url), other]));
        assert!(ids(&looks).ends_with(&first), "an unchanged look goes on");
        sample_that(&post, |sample| sample.revision == Revision(2) && sample.cohort == Cohort::Canary).await;
        sample_that(&post, |sample| sample.revision == Revision(2) && sample.cohort == Cohort::Baseline).await;

        let foreign = assignment::Look { kind: "prometheus".to_owned(), sli: "other".parse().unwrap(), ..look(&url) };
        let watching = looks.reconcile(&assigned(2, vec![look(&url), foreign]));
        assert!(watching.values().all(|w| w.refused.is_none()), "looks of other kinds are for other agents");
        assert_eq!(ids(&looks).len(), 1);
        let first = ids(&looks);

        looks.reconcile(&assigned(3, vec![assignment::Look { every: Span::from_ms(60), ..look(&url) }]));
        assert!(ids(&looks).len() == 1 && ids(&looks) != first, "a changed look begins anew");

        assert!(looks.reconcile(&BTreeMap::new()).is_empty());
        assert!(ids(&looks).is_empty() && post.close().is_empty());
    }

    #[tokio::test]
    async fn an_assignment_is_refused_whole_with_the_reason() {
        let (mut looks, _) = looks();
        let good = look("http://127.0.0.1:1");
        let check = |looks: &mut Looks, bad: assignment::Look, reason: &str| {
            let other = assignment::Look { sli: "other".parse().unwrap(), ..good.clone() };
            let watching = looks.reconcile(&assigned(5, vec![other, bad]));
            let refused = watching.values().next().and_then(|w| w.refused.clone()).expect(reason);
            assert!(refused.contains(reason), "`{reason}` is not in `{refused}`");
            assert!(ids(looks).is_empty());
        };
        looks.reconcile(&assigned(4, vec![good.clone()]));
        let settings = json!({"path": "/", "expect": ["status is 200"]});
        check(&mut looks, assignment::Look { settings, ..good.clone() }, "/expect/0 column 8: `is` is not a test");
        check(&mut looks, look("http://10.0.0.1"), "10.0.0.1 is not in this agent's `probe.allow`");
        check(&mut looks, look("http://example.com"), "`example.com` is not in this agent's `probe.allow`");
        check(&mut looks, look("http://169.254.169.254"), "never looked at");
        check(&mut looks, assignment::Look { every: Span::from_ms(5), ..good.clone() }, "more often than");
        check(&mut looks, assignment::Look { edges_ms: vec![5, 5], ..good.clone() }, "must ascend");
        check(&mut looks, assignment::Look { timeout: Span::from_secs(600), ..good.clone() }, "timeout 10m");
        check(&mut looks, assignment::Look { sli: "other".parse().unwrap(), ..good.clone() }, "named twice");
        let many: Vec<assignment::Look> = (0..=LOOKS_MAX)
            .map(|n| assignment::Look { sli: format!("s{n}").parse().unwrap(), ..good.clone() })
            .collect();
        let watching = looks.reconcile(&assigned(6, many));
        assert!(watching.values().all(|w| w.refused.as_deref().is_some_and(|why| why.contains("more than 200 looks"))));
    }
}
