//! Looks once, without a mesh: the same probes, dialled within the same limits, counted the same way.

use std::path::Path;
use std::sync::Arc;

use bellwether_protocol::assessment::{Glance, Round};
use bellwether_protocol::assignment::Look;
use bellwether_protocol::id::{Region, Revision, RolloutId};
use bellwether_runtime::web::{Allow, ControlLooks, ControlTarget, Dialer, Target};
use bellwether_runtime::{LOOKS_MAX, Watch};
use futures_util::future::{join, join_all};
use rustls::ClientConfig;

use crate::ProbeError;
use crate::aggregate::Aggregate;
use crate::config::Config;
use crate::reconcile::ready;

/// What looks, and within which limits.
pub struct Eyes {
    allow: Option<Allow>,
    control: Option<ControlTarget>,
    tls: Arc<ClientConfig>,
}

impl Eyes {
    /// Looks as the probe agent of that file does. Without one: only at the hosts that are asked for,
    /// and without a control target, so that no connection at all is never held against a service.
    ///
    /// # Errors
    /// When the file is not sound.
    pub fn open(config: Option<&Path>) -> Result<Self, ProbeError> {
        let Some(config) = config else {
            return Ok(Self { allow: None, control: None, tls: bellwether_runtime::tls() });
        };
        let Config { probe, .. } = bellwether_runtime::load_config(config)?;
        let tls = match &probe.ca {
            Some(ca) => bellwether_runtime::tls_with_ca(ca)?,
            None => bellwether_runtime::tls(),
        };
        Ok(Self { allow: Some(probe.allow), control: probe.control, tls })
    }

    /// Does each look once, all at the same time, and gives a sample for each, in their order.
    ///
    /// # Errors
    /// What this agent cannot or may not look at; then it looked at nothing.
    pub async fn see(&self, glance: Glance<'_>) -> Result<Round, String> {
        let Glance { service, looks, at, slot } = glance;
        if looks.len() > LOOKS_MAX {
            return Err(format!("more than {LOOKS_MAX} looks at once"));
        }
        let dialer = self.dialer(looks)?;
        let read = |(_, look): &(Region, Look)| ready(look, &dialer).map_err(|why| format!("{}: {why}", look.sli));
        let ready: Vec<_> = looks.iter().map(read).collect::<Result<_, _>>()?;
        let mut aggregate = Aggregate::new(self.control.is_some().then(ControlLooks::default));
        let watch = |look: &Look| Watch {
            rollout: RolloutId { service: service.clone(), number: 0 },
            revision: Revision(0),
            sli: look.sli.clone(),
            cohort: look.cohort,
            slot,
            timeout: look.timeout,
            edges_ms: look.edges_ms.clone(),
        };
        let watches: Vec<_> = looks.iter().map(|(_, look)| aggregate.add(watch(look), at)).collect();
        aggregate.control_begins(at);
        let tickets: Vec<_> = watches.into_iter().filter_map(|watch| aggregate.begin(watch, at)).collect();
        let seen = join_all(ready.iter().map(|(probe, target)| probe.look(target, &dialer)));
        let (seen, is_well) = join(seen, self.is_well()).await;
        aggregate.control_ends(is_well);
        tickets.into_iter().zip(seen).for_each(|(ticket, seen)| aggregate.end(ticket, seen, at));
        let regions = looks.iter().map(|(region, _)| region.clone());
        Ok(regions.zip(aggregate.close(at + slot)).collect())
    }

    fn dialer(&self, looks: &[(Region, Look)]) -> Result<Dialer, String> {
        let allow = match &self.allow {
            Some(allow) => allow.clone(),
            None => {
                let origins = looks.iter().map(|(_, look)| Ok(Target::read(look)?.origin));
                Allow::only(&origins.collect::<Result<Vec<_>, String>>()?)?
            }
        };
        Ok(Dialer::new(allow, Arc::clone(&self.tls)))
    }

    async fn is_well(&self) -> bool {
        match &self.control {
            Some(control) => control.is_well(Arc::clone(&self.tls)).await,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use bellwether_fakes::{Fake, Reply, Seen};
    use bellwether_protocol::sample::Control;
    use bellwether_protocol::time::{Span, Timestamp};
    use serde_json::json;

    use super::*;

    fn look(sli: &str, url: &str, settings: serde_json::Value) -> (Region, Look) {
        let look = json!({
            "sli": sli, "cohort": "canary", "url": url, "kind": "http", "settings": settings, "every": "5s",
            "timeout": "5s", "headers": {}, "fingerprint": { "header": "x-release" }, "edges_ms": [10, 100],
        });
        ("east".parse().unwrap(), serde_json::from_value(look).unwrap())
    }

    #[tokio::test]
    async fn each_look_gives_one_sample_of_one_slot() {
        let answer = |_: &Seen| Reply::json(200, &json!({})).with("x-release", "v1");
        let site = Fake::start(answer).await.unwrap();
        let url = &site.url;
        let looks = [
            look("good", url, json!({ "path": "/" })),
            look("bad", url, json!({ "path": "/", "expect": ["$.keys len >= 1"] })),
            look("gone", "http://127.0.0.1:1", json!({ "path": "/" })),
        ];
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("probe.yaml");
        let head = "agent: { region: east, name: p, state_dir: s, nats: { url: nats://127.0.0.1 } }\n";
        let (service, at, slot) = ("shop".parse().unwrap(), Timestamp::from_ms(12_345), Span::from_secs(5));
        let check = async |probe: Option<String>, expected: Control| {
            let path = probe.map(|probe| {
                std::fs::write(&config, format!("{head}probe: {probe}\n")).unwrap();
                config.as_path()
            });
            let eyes = Eyes::open(path).unwrap();
            let samples = eyes.see(Glance { service: &service, looks: &looks, at, slot }).await.unwrap();
            let shown: Vec<String> = samples
                .iter()
                .map(|(region, sample)| {
                    let portion = &sample.portions[0];
                    let release = portion.release.as_ref().map_or("?".to_owned(), ToString::to_string);
                    let classes: Vec<_> = portion.classes.keys().map(ToString::to_string).collect();
                    assert!(sample.is_sound() && sample.slot == Timestamp::from_ms(10_000));
                    format!("{region} {} {release} {}", sample.sli, classes.join(","))
                })
                .collect();
            assert_eq!(shown, ["east good v1 ok", "east bad v1 unexpected", "east gone ? connect"]);
            assert!(samples.iter().all(|(_, sample)| sample.control == expected));
        };
        check(None, Control::Absent).await;
        check(Some("{ allow: ['127.0.0.1'], control: 'http://127.0.0.1:1/' }".to_owned()), Control::Sick).await;
        check(Some(format!("{{ allow: ['127.0.0.1'], control: '{url}/' }}")), Control::Well).await;
        std::fs::write(&config, format!("{head}probe: {{ allow: ['10.0.0.0/8'] }}\n")).unwrap();
        let refused =
            Eyes::open(Some(&config)).unwrap().see(Glance { service: &service, looks: &looks, at, slot }).await;
        assert!(refused.unwrap_err().contains("good: 127.0.0.1 is not in this agent's `allow`"));
    }
}
