//! How looks of probes are checked, begun and ended; the runtime keeps them in step with the assignments.

use std::sync::Arc;

use bellwether_protocol::assignment;
use bellwether_protocol::id::{Revision, Service};
use bellwether_protocol::time::Span;
use bellwether_runtime::web::{Dialer, Target};
use bellwether_runtime::{Looker, Watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::Probe;
use crate::aggregate::WatchId;
use crate::look::{Look, Post};

/// What this agent does itself about looks.
pub(crate) struct Prober {
    dialer: Arc<Dialer>,
    every_min: Span,
    post: Arc<Post>,
    // Ends every look when this is dropped.
    tasks: JoinSet<()>,
}

/// One running look; dropping it ends it.
pub(crate) struct Running {
    watch: WatchId,
    post: Arc<Post>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.post.with(|aggregate, _| aggregate.remove(self.watch));
    }
}

impl Prober {
    /// Looks through `dialer`, at most once each `every_min`, and reports to `post`.
    pub(crate) fn new(dialer: Dialer, every_min: Span, post: Arc<Post>) -> Self {
        Self { dialer: Arc::new(dialer), every_min, post, tasks: JoinSet::new() }
    }
}

impl Looker for Prober {
    type Ready = (Probe, Target);
    type Running = Running;

    fn knows(&self, kind: &str) -> bool {
        crate::validators().iter().any(|(known, _)| *known == kind)
    }

    fn read(&self, _: &Service, look: &assignment::Look) -> Result<Self::Ready, String> {
        if look.every < self.every_min {
            return Err(format!(
                "every {} is more often than this agent's `probe.every_min` of {}",
                look.every, self.every_min
            ));
        }
        ready(look, &self.dialer)
    }

    fn begin(&mut self, watch: Watch, look: &assignment::Look, (probe, target): Self::Ready, phase: Span) -> Running {
        // Ended tasks are taken out, or they would pile up.
        while self.tasks.try_join_next().is_some() {}
        let watch = self.post.with(|aggregate, now| aggregate.add(watch, now));
        let repeated = Look { watch, probe, target, every: look.every, phase };
        let task = self.tasks.spawn(repeated.repeat(Arc::clone(&self.dialer), Arc::clone(&self.post)));
        Running { watch, post: Arc::clone(&self.post), task }
    }

    fn renew(&mut self, running: &Running, revision: Revision) {
        self.post.with(|aggregate, _| aggregate.renew(running.watch, revision));
    }
}

/// Reads a look; the error says what in it cannot, or must not, be done.
pub(crate) fn ready(look: &assignment::Look, dialer: &Dialer) -> Result<(Probe, Target), String> {
    let target = Target::read(look)?;
    dialer.check(&target.origin)?;
    let probe = Probe::read(&look.kind, &look.settings).map_err(|flaws| {
        let texts: Vec<String> =
            flaws.iter().take(3).map(|flaw| format!("{} {}", flaw.pointer, flaw.message)).collect();
        texts.join("; ").trim().to_owned()
    })?;
    Ok((probe, target))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

    use bellwether_fakes::{Fake, Reply, Seen};
    use bellwether_protocol::assignment::Assignment;
    use bellwether_protocol::sample::{Cohort, Portion, Sample};
    use bellwether_protocol::time::Timestamp;
    use bellwether_runtime::{LOOKS_MAX, Looks};
    use serde_json::json;

    use super::*;
    use crate::aggregate::Aggregate;

    fn system_now() -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        Timestamp::from_ms(i64::try_from(since.as_millis()).expect("this millennium"))
    }

    fn looks() -> (Looks<Prober>, Arc<Post>) {
        let post = Arc::new(Post::new(Aggregate::new(None), Arc::new(system_now)));
        let allow = serde_json::from_value(json!(["127.0.0.1"])).expect("a list");
        let dialer = Dialer::new(allow, bellwether_runtime::tls());
        let prober = Prober::new(dialer, Span::from_ms(20), Arc::clone(&post));
        (Looks::new("sjc.probe.probe-1".to_owned(), prober), post)
    }

    fn look(url: &str) -> assignment::Look {
        let look = json!({
            "sli": "errors", "cohort": "canary", "url": url, "kind": "http", "settings": { "path": "/" },
            "every": "50ms", "timeout": "2s", "headers": {}, "fingerprint": null, "edges_ms": [10, 100],
        });
        serde_json::from_value(look).unwrap()
    }

    fn assigned(revision: u64, looks: Vec<assignment::Look>) -> BTreeMap<Service, Assignment> {
        let (rollout, region) = ("shop/1".parse().unwrap(), "sjc".parse().unwrap());
        let (revision, slot) = (Revision(revision), Span::from_ms(200));
        [("shop".parse().unwrap(), Assignment { rollout, revision, region, slot, looks })].into()
    }

    fn ids(looks: &Looks<Prober>) -> Vec<WatchId> {
        looks.running().map(|running| running.watch).collect()
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
        let site = Fake::start(|_: &Seen| Reply::text(200, "")).await.unwrap();
        let url = &site.url;
        let watching = looks.reconcile(&assigned(1, vec![look(url)]));
        assert!(watching.values().all(|w| w.revision == Revision(1) && w.refused.is_none()));
        let sample = sample_that(&post, |sample| sample.portions.iter().map(Portion::n).sum::<u64>() >= 2).await;
        assert_eq!((sample.sli.as_str(), sample.revision), ("errors", Revision(1)));
        assert!(sample.portions[0].classes.keys().all(|class| class.as_str() == "ok"), "{sample:?}");

        let first = ids(&looks);
        let other = assignment::Look { cohort: Cohort::Baseline, ..look(url) };
        looks.reconcile(&assigned(2, vec![look(url), other]));
        assert!(ids(&looks).ends_with(&first), "an unchanged look goes on");
        sample_that(&post, |sample| sample.revision == Revision(2) && sample.cohort == Cohort::Canary).await;
        sample_that(&post, |sample| sample.revision == Revision(2) && sample.cohort == Cohort::Baseline).await;

        let foreign = assignment::Look { kind: "prometheus".to_owned(), sli: "other".parse().unwrap(), ..look(url) };
        let watching = looks.reconcile(&assigned(2, vec![look(url), foreign]));
        assert!(watching.values().all(|w| w.refused.is_none()), "looks of other kinds are for other agents");
        assert_eq!(ids(&looks).len(), 1);
        let first = ids(&looks);

        looks.reconcile(&assigned(3, vec![assignment::Look { every: Span::from_ms(60), ..look(url) }]));
        assert!(ids(&looks).len() == 1 && ids(&looks) != first, "a changed look begins anew");

        assert!(looks.reconcile(&BTreeMap::new()).is_empty());
        assert!(ids(&looks).is_empty() && post.close().is_empty());
    }

    #[tokio::test]
    async fn an_assignment_is_refused_whole_with_the_reason() {
        let (mut looks, _) = looks();
        let good = look("http://127.0.0.1:1");
        let check = |looks: &mut Looks<Prober>, bad: assignment::Look, reason: &str| {
            let other = assignment::Look { sli: "other".parse().unwrap(), ..good.clone() };
            let watching = looks.reconcile(&assigned(5, vec![other, bad]));
            let refused = watching.values().next().and_then(|w| w.refused.clone()).expect(reason);
            assert!(refused.contains(reason), "`{reason}` is not in `{refused}`");
            assert!(ids(looks).is_empty());
        };
        looks.reconcile(&assigned(4, vec![good.clone()]));
        let settings = json!({"path": "/", "expect": ["status is 200"]});
        check(&mut looks, assignment::Look { settings, ..good.clone() }, "/expect/0 column 8: `is` is not a test");
        check(&mut looks, look("http://10.0.0.1"), "10.0.0.1 is not in this agent's `allow`");
        check(&mut looks, look("http://example.com"), "`example.com` is not in this agent's `allow`");
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
