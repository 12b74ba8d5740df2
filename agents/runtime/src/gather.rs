//! What one slot of one look came to, before it is a sample. Bounded, and without a clock.

use std::collections::BTreeMap;

use bellwether_protocol::id::{Class, Release, Revision, RolloutId, SliName};
use bellwether_protocol::sample::{Cohort, Control, EVIDENCE_MAX, Evidence, PORTIONS_MAX, Portion, Sample};
use bellwether_protocol::time::{Span, Timestamp};

/// What is looked at repeatedly: one SLI of one cohort under one assignment.
#[derive(Debug, Clone)]
pub struct Watch {
    /// For which rollout.
    pub rollout: RolloutId,
    /// Under which assignment.
    pub revision: Revision,
    /// The SLI.
    pub sli: SliName,
    /// The cohort.
    pub cohort: Cohort,
    /// Width of a slot.
    pub slot: Span,
    /// Longest look.
    pub timeout: Span,
    /// Upper edges of latency buckets, ascending, in milliseconds.
    pub edges_ms: Vec<u64>,
}

/// What a slot came to so far.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Gathered {
    portions: BTreeMap<Option<Release>, Portion>,
    evidence: Vec<Evidence>,
}

impl Gathered {
    /// The portion of that release. One release too many is counted among what named none.
    pub fn portion(&mut self, release: Option<Release>) -> &mut Portion {
        // The last portion is kept for answers without a release.
        let named = self.portions.keys().flatten().count();
        let is_room = self.portions.contains_key(&release) || named < PORTIONS_MAX - 1;
        let release = release.filter(|_| is_room);
        self.portions.entry(release.clone()).or_insert_with(|| Portion { release, ..Portion::default() })
    }

    /// Keeps a piece of evidence, while there is room: the first ones tell the story.
    pub fn note(&mut self, at: Timestamp, class: Class, text: String) {
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(Evidence { at, class, text });
        }
    }

    /// What was gathered, by release.
    pub fn portions(&self) -> impl Iterator<Item = &Portion> {
        self.portions.values()
    }

    /// The first pieces of evidence.
    pub fn evidence(&self) -> &[Evidence] {
        &self.evidence
    }

    /// Adds what was gathered elsewhere, or later.
    pub fn merge(&mut self, other: Self) {
        for portion in other.portions.values() {
            self.portion(portion.release.clone()).merge(portion);
        }
        self.evidence.extend(other.evidence);
        self.evidence.sort_by_key(|evidence| evidence.at);
        self.evidence.truncate(EVIDENCE_MAX);
    }

    /// The sample of that slot.
    pub fn sample(self, watch: &Watch, slot: Timestamp, control: Control) -> Sample {
        Sample {
            rollout: watch.rollout.clone(),
            revision: watch.revision,
            sli: watch.sli.clone(),
            cohort: watch.cohort,
            slot,
            portions: self.portions.into_values().collect(),
            control,
            evidence: self.evidence,
            source: None,
        }
    }
}
