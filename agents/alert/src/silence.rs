//! Notices that no coordinator is there. Pure: it is told what was heard, and the time.
//!
//! Agents keep looking and levers stay as they are meanwhile; but nobody decides, so nobody would
//! take a bad release back. That is worth waking somebody.

use bellwether_protocol::alert::{Alert, IncidentKind, NextStep, Proof, Severity};
use bellwether_protocol::id::{IdError, IncidentId, Ordinal, Region, Release, RolloutId, Service};
use bellwether_protocol::time::{Span, Timestamp};

/// No coordinator for this long is silence.
pub(crate) const SILENT_AFTER: Span = Span::from_secs(30);

/// Watches for silence, from one region.
#[derive(Debug)]
pub(crate) struct Silence {
    region: Region,
    names: Names,
    heard: Timestamp,
    open: Option<Alert>,
}

/// What incidents of ours are called: they belong to no rollout.
#[derive(Debug)]
struct Names {
    service: Service,
    release: Release,
}

impl Silence {
    /// Counts from `now`: nothing is silent before it could be heard.
    pub(crate) fn new(region: Region, now: Timestamp) -> Result<Self, IdError> {
        let names = Names { service: "bellwether".parse()?, release: env!("CARGO_PKG_VERSION").parse()? };
        Ok(Self { region, names, heard: now, open: None })
    }

    /// A coordinator was there at `at`.
    pub(crate) fn heard(&mut self, at: Timestamp) {
        self.heard = self.heard.max(at);
    }

    /// What people must be told at `now`, if anything changed. `connected`: whether the mesh answers us.
    pub(crate) fn check(&mut self, now: Timestamp, connected: bool) -> Option<Alert> {
        let silent = now.since(self.heard) > SILENT_AFTER;
        match (silent, self.open.take()) {
            (true, None) => {
                let alert = self.opened(now, connected)?;
                self.open = Some(alert.clone());
                Some(alert)
            }
            // It asks as much as the page did, so that it reaches whoever was woken.
            (false, Some(open)) => Some(Alert {
                kind: IncidentKind::Resolved,
                seq: 2,
                state: "heard".to_owned(),
                headline: format!("a coordinator is there again, heard from {}", self.region),
                next: Vec::new(),
                at: now,
                ..open
            }),
            (_, open) => {
                self.open = open;
                None
            }
        }
    }

    fn opened(&self, now: Timestamp, connected: bool) -> Option<Alert> {
        let since = self.heard.clock();
        let headline = if connected {
            format!("no coordinator since {since}: nothing is decided, nothing would be taken back")
        } else {
            format!("{} is cut off from NATS since {since}: nothing is heard from here", self.region)
        };
        // Every region's agent heard the same last heartbeat, so they give the incident one name
        // and claim it from each other. A region that is cut off is an incident of its own.
        let number = u64::try_from(self.heard.as_ms() / 1_000).unwrap_or(0);
        let rollout = RolloutId { service: self.names.service.clone(), number };
        let cause = if connected { "no_coordinator".to_owned() } else { format!("cut_off_{}", self.region) };
        let cause = cause.chars().take(64).collect::<String>().parse().ok()?;
        let run = "bellwether agents list".to_owned();
        Some(Alert {
            kind: IncidentKind::Opened,
            incident: IncidentId { rollout, cause },
            seq: 1,
            severity: Severity::Page,
            state: "silent".to_owned(),
            service: self.names.service.clone(),
            release: self.names.release.clone(),
            stage: None,
            regions: vec![self.region.clone()],
            headline,
            numbers: None,
            record: Ordinal(0),
            proof: Proof::default(),
            next: vec![NextStep { why: "see who is there".to_owned(), run }],
            tell: Vec::new(),
            at: now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_ms(secs * 1_000)
    }

    fn silence() -> Silence {
        Silence::new("sjc".parse().unwrap(), at(100)).unwrap()
    }

    #[test]
    fn silence_pages_once_and_is_resolved_once() {
        let mut silence = silence();
        assert_eq!(silence.check(at(130), true), None);
        let opened = silence.check(at(131), true).unwrap();
        assert_eq!((opened.severity, opened.kind, opened.seq), (Severity::Page, IncidentKind::Opened, 1));
        assert_eq!(opened.incident.to_string(), "bellwether/100-no_coordinator");
        assert_eq!(silence.check(at(200), true), None);
        silence.heard(at(205));
        let resolved = silence.check(at(206), true).unwrap();
        assert_eq!((resolved.incident, resolved.kind), (opened.incident, IncidentKind::Resolved));
        assert_eq!(silence.check(at(207), true), None);
    }

    #[test]
    fn a_coordinator_that_is_heard_is_not_silent() {
        let mut silence = silence();
        for secs in (100..1_000).step_by(5) {
            silence.heard(at(secs));
            assert_eq!(silence.check(at(secs), true), None);
        }
        // A heartbeat that comes late does not set the time back.
        silence.heard(at(400));
        assert_eq!(silence.check(at(1_020), true), None);
    }

    #[test]
    fn a_region_that_is_cut_off_says_so_of_itself() {
        let alert = silence().check(at(131), false).unwrap();
        assert_eq!(alert.incident.cause.as_str(), "cut_off_sjc");
        assert!(alert.headline.contains("cut off from NATS"));
    }
}
