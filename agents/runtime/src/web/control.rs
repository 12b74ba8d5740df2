//! The control target: what answers whenever an agent's own network is well, and the slots in which it did.
//! What failed before any response byte counts against a service only in those.

use std::collections::BTreeMap;
use std::sync::Arc;

use bellwether_protocol::sample::{Control, class};
use bellwether_protocol::time::{Span, Timestamp};
use bytes::Bytes;
use hyper::{HeaderMap, Method};
use rustls::ClientConfig;
use serde::{Deserialize, Deserializer, de};
use tokio::time::{Instant, sleep};

use super::dial::Dialer;
use super::exchange::ask;
use super::target::{Origin, Target};

/// Longest look at it.
const TIMEOUT: Span = Span::from_secs(2);
/// How long after its timeout a look may still report, for a machine that is busy.
const REPORT_LAG_MAX: Span = Span::from_ms(500);
/// Longest time between two looks.
const EVERY_MAX: Span = Span::from_secs(5);
/// Shortest time between two looks.
const EVERY_MIN: Span = Span::from_ms(100);
/// Most looks that are remembered. Slots that began before them are not shown to be well.
const LOOKS_MAX: usize = 65_536;
/// Longest body that is read, in bytes.
const BODY_LEN_MAX: usize = 1024 * 1024;

/// Where it is; in a file, a URL.
#[derive(Debug, Clone)]
pub struct ControlTarget(Target);

impl<'de> Deserialize<'de> for ControlTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (origin, base) = Origin::parse(&String::deserialize(deserializer)?).map_err(de::Error::custom)?;
        Ok(Self(Target { origin, base, headers: HeaderMap::new(), fingerprint: None, timeout: TIMEOUT }))
    }
}

impl ControlTarget {
    /// Looks once: whether it answered at all, however badly.
    pub async fn is_well(&self, tls: Arc<ClientConfig>) -> bool {
        let Self(target) = self;
        let request = target.request(Method::GET, &target.path(""), &HeaderMap::new(), Bytes::new());
        let deadline = Instant::now() + target.timeout.to_std();
        let received = ask(&Dialer::unguarded(tls), &target.origin, request, deadline, BODY_LEN_MAX).await;
        let silent = [class::RESOLVE, class::CONNECT, class::TLS, class::TIMEOUT, class::RESET];
        received.body.map_or_else(|failure| !silent.contains(&failure.class), |_| true)
    }

    /// Looks for ever. `ends` is told how each look went, and says how long to wait for the next.
    pub async fn watch(self, tls: Arc<ClientConfig>, mut begins: impl FnMut(), mut ends: impl FnMut(bool) -> Span) {
        let host = &self.0.origin.host;
        let mut was_well = true;
        loop {
            begins();
            let is_well = self.is_well(Arc::clone(&tls)).await;
            match (was_well, is_well) {
                (true, false) => tracing::warn!(host, "no answer from the control target"),
                (false, true) => tracing::info!(host, "the control target answers again"),
                (true, true) | (false, false) => {}
            }
            was_well = is_well;
            sleep(ends(is_well).to_std()).await;
        }
    }
}

/// What the looks at it came to. Never reads a clock; every instant is an argument.
#[derive(Debug, Default)]
pub struct ControlLooks {
    over: BTreeMap<Timestamp, bool>,
    running: Option<Timestamp>,
    forgotten: Option<Timestamp>,
}

impl ControlLooks {
    /// A look begins.
    pub fn begins(&mut self, now: Timestamp) {
        self.running = Some(now);
    }

    /// The look that began last is over.
    pub fn ends(&mut self, is_well: bool) {
        let Some(since) = self.running.take() else { return };
        *self.over.entry(since).or_insert(true) &= is_well;
        if self.over.len() > LOOKS_MAX {
            self.forgotten = self.over.pop_first().map(|(at, _)| at);
        }
    }

    /// What was seen of it in the slot from `start` on, which one failure makes sick. `None` while a look
    /// that began in it may still report.
    pub fn during(&self, start: Timestamp, width: Span, now: Timestamp) -> Option<Control> {
        let running = self.running.filter(|since| (start..start + width).contains(since));
        if running.is_some_and(|since| now < since + TIMEOUT + REPORT_LAG_MAX) {
            return None;
        }
        let mut looks = self.over.range(start..start + width).map(|(_, is_well)| *is_well).peekable();
        let is_whole = running.is_none() && self.forgotten.is_none_or(|last| last < start);
        // Not shown to be well is not well.
        let is_well = is_whole && looks.peek().is_some() && looks.all(|is_well| is_well);
        Some(if is_well { Control::Well } else { Control::Sick })
    }

    /// How long to wait between looks, so that each of these slots holds at least one.
    pub fn every(slots: impl Iterator<Item = Span>) -> Span {
        let shortest = slots.map(|slot| Span::from_ms(slot.as_ms() / 2)).min().unwrap_or(EVERY_MAX);
        shortest.clamp(EVERY_MIN, EVERY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    #[test]
    fn it_was_well_only_when_every_look_of_the_slot_was() {
        let slot = Span::from_secs(30);
        for (seen, expected) in [
            (vec![], Control::Sick),
            (vec![(1, true), (5_000, true)], Control::Well),
            (vec![(1, true), (5_000, false), (10_000, true)], Control::Sick),
            (vec![(1, true), (30_000, false)], Control::Well),
            (vec![(30_000, true)], Control::Sick),
            ((0..70_000).map(|n| (n, true)).collect(), Control::Sick),
        ] {
            let mut looks = ControlLooks::default();
            for (ms, is_well) in &seen {
                looks.begins(at(*ms));
                looks.ends(*is_well);
            }
            assert_eq!(looks.during(at(0), slot, at(30_000)), Some(expected), "{:?}", seen.get(..3));
        }
    }

    #[test]
    fn a_slot_waits_for_the_look_that_began_in_it_and_not_for_ever() {
        let (slot, mut looks) = (Span::from_secs(30), ControlLooks::default());
        looks.begins(at(29_999));
        assert_eq!(looks.during(at(30_000), slot, at(60_000)), Some(Control::Sick), "it is of another slot");
        for (now, expected) in [(30_000, None), (32_498, None), (32_499, Some(Control::Sick))] {
            assert_eq!(looks.during(at(0), slot, at(now)), expected, "{now}");
        }
        looks.ends(true);
        assert_eq!(looks.during(at(0), slot, at(30_001)), Some(Control::Well));
    }

    #[test]
    fn each_slot_holds_two_looks_where_that_is_not_too_often() {
        let every = |slots: &[u64]| ControlLooks::every(slots.iter().map(|ms| Span::from_ms(*ms))).as_ms();
        assert_eq!([every(&[]), every(&[2_000, 9_000]), every(&[10])], [5_000, 1_000, 100]);
    }
}
