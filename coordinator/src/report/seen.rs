//! What was seen of each series in the stage that is judged: counts, latencies, numbers, and in
//! which records they are. Bounded, whatever samples hold.

use std::collections::BTreeMap;

use bellwether_decide::evidence::Counted;
use bellwether_protocol::id::{Class, CriterionName, NumberName, Ordinal, Region};
use bellwether_protocol::record::{ClosedSlot, Series};
use bellwether_protocol::report::{Percentile, SlotRange};
use bellwether_protocol::sample::{Cohort, Evidence, Histogram, Level, class};
use bellwether_protocol::time::{Span, Timestamp};

/// Most edges, classes or numbers that are remembered of one series.
const KINDS_MAX: usize = 256;

/// Every series.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) series: BTreeMap<Series, Sight>,
    /// The last value of each criterion that judges a number of the new release.
    pub(super) values: BTreeMap<(CriterionName, Region), f64>,
}

/// One series.
pub(super) struct Sight {
    pub(super) records: (Ordinal, Ordinal),
    pub(super) range: SlotRange,
    pub(super) n: u64,
    pub(super) not_ok: u64,
    pub(super) last: Option<(Timestamp, BTreeMap<Class, u64>)>,
    pub(super) numbers: BTreeMap<NumberName, Level>,
    pub(super) first_bad: Option<Evidence>,
    pub(super) unwell: u64,
    latency: Histogram,
}

impl Seen {
    /// Takes one slot.
    pub(super) fn take(&mut self, record: Ordinal, slot: &ClosedSlot, counted: &Counted<'_>, width: Span) {
        let (from, upto) = (slot.slot, slot.slot + width);
        let fresh = || Sight {
            records: (record, record),
            range: SlotRange { from, upto, covered: 0, slots: 0 },
            n: 0,
            not_ok: 0,
            last: None,
            numbers: BTreeMap::new(),
            first_bad: None,
            unwell: 0,
            latency: Histogram::default(),
        };
        let sight = self.series.entry(slot.series.clone()).or_insert_with(fresh);
        sight.records.1 = record;
        sight.range.upto = upto;
        sight.range.slots += 1;
        sight.range.covered += u64::from(counted.mark != '?');
        sight.unwell = sight.unwell.saturating_add(slot.unwell.into());
        if sight.first_bad.is_none() {
            sight.first_bad = slot.evidence.first().cloned();
        }
        sight.add(slot.slot, counted);
        if slot.series.cohort == Cohort::Canary {
            for (criterion, tally) in &counted.tallies {
                let key = || (criterion.name.clone(), slot.series.region.clone());
                if let Some(value) = tally.value {
                    self.values.insert(key(), value);
                }
            }
        }
    }
}

impl Sight {
    fn add(&mut self, slot: Timestamp, counted: &Counted<'_>) {
        let mut classes: BTreeMap<Class, u64> = BTreeMap::new();
        let mut numbers: BTreeMap<NumberName, Level> = BTreeMap::new();
        for seen in &counted.seen {
            // What named no release is evidence only where it is bad.
            let its = seen.portion.classes.iter().filter(|(name, n)| **n > 0 && !(seen.only_bad && class::is_ok(name)));
            for (name, n) in its.take(KINDS_MAX) {
                *classes.entry(name.clone()).or_default() += n;
            }
            if seen.only_bad {
                continue;
            }
            for (edge, n) in &seen.portion.latency.0 {
                let is_known = self.latency.0.contains_key(edge) || self.latency.0.len() < KINDS_MAX;
                // An edge too many counts as slower than all: rounded against the release.
                let own = self.latency.0.entry(if is_known { *edge } else { u64::MAX }).or_default();
                *own = own.saturating_add(*n);
            }
            for (name, level) in seen.portion.numbers.iter().take(KINDS_MAX) {
                numbers.entry(name.clone()).and_modify(|own| own.merge(level)).or_insert(*level);
            }
        }
        if classes.is_empty() {
            return;
        }
        for (name, n) in &classes {
            self.n = self.n.saturating_add(*n);
            self.not_ok = self.not_ok.saturating_add(if class::is_ok(name) { 0 } else { *n });
        }
        self.last = Some((slot, classes));
        if !numbers.is_empty() {
            self.numbers = numbers;
        }
    }

    /// The 95th percentile, at most: the upper edge of the bucket that holds it.
    pub(super) fn p95(&self) -> Option<Percentile> {
        let n = self.latency.n();
        let rank = n - n / 20;
        let mut below = 0_u64;
        let mut last = 0;
        for (edge, count) in &self.latency.0 {
            below = below.saturating_add(*count);
            if below >= rank && n > 0 {
                let is_open = *edge == u64::MAX;
                return Some(if is_open {
                    Percentile::Over(Span::from_ms(last))
                } else {
                    Percentile::AtMost(Span::from_ms(*edge))
                });
            }
            last = *edge;
        }
        None
    }
}
