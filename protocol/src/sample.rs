//! What a probe saw in one slot: counts by class, a latency histogram, numbers, the release that answered.
//!
//! Samples are sums over one slot, never cumulative, so that merging is associative and commutative.
//! `n = 0` is data ("I looked at nothing"); a sample that never comes is a gap.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, Class, IdError, NumberName, Release, Revision, RolloutId, SliName};
use crate::time::{Span, Timestamp};

/// Which users, and so which release, a look was addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cohort {
    /// On the old release.
    Baseline,
    /// On the new release.
    Canary,
}

impl std::fmt::Display for Cohort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.serialize(f)
    }
}

impl std::str::FromStr for Cohort {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "baseline" => Ok(Self::Baseline),
            "canary" => Ok(Self::Canary),
            _ => Err(IdError::new("cohort", text, "use baseline or canary")),
        }
    }
}

/// The classes of answers that probes know, and what they mean for attribution.
pub mod class {
    use crate::id::Class;

    /// Answered, and as expected.
    pub const OK: &str = "ok";
    /// Answered with a status of 300 to 399 that was not expected, or a redirect to another host.
    pub const REDIRECT: &str = "redirect";
    /// Answered with an unexpected status of 400 to 499.
    pub const HTTP_4XX: &str = "http_4xx";
    /// Answered with an unexpected status of 500 to 599.
    pub const HTTP_5XX: &str = "http_5xx";
    /// Answered with an expected status, but an expectation on headers or body did not hold.
    pub const UNEXPECTED: &str = "unexpected";
    /// The name was not resolved.
    pub const RESOLVE: &str = "resolve";
    /// No connection.
    pub const CONNECT: &str = "connect";
    /// No TLS session.
    pub const TLS: &str = "tls";
    /// Connected, but no whole answer in time.
    pub const TIMEOUT: &str = "timeout";
    /// Connected, then broken off.
    pub const RESET: &str = "reset";
    /// Refused in the way that the plan calls a refusal, such as by a feature that is switched off.
    pub const REFUSED: &str = "refused";
    /// The body was longer than the cap.
    pub const TOO_LARGE: &str = "too_large";
    /// Planned, and never sent: no connection was free in time.
    pub const SHED: &str = "shed";
    /// Counted as bad by whoever measured, without saying how: it is bad to every criterion.
    pub const BAD: &str = "bad";
    /// Every class that agents report which ask themselves.
    pub const ALL: [&str; 13] =
        [OK, REDIRECT, HTTP_4XX, HTTP_5XX, UNEXPECTED, RESOLVE, CONNECT, TLS, TIMEOUT, RESET, REFUSED, TOO_LARGE, SHED];

    /// One of the words here as a class.
    ///
    /// # Panics
    /// For what is no token; each of the words here is one.
    #[expect(clippy::expect_used, reason = "the words are constants, and a test of the probe reads all of them")]
    pub fn known(word: &'static str) -> Class {
        word.parse().expect("a known class")
    }

    /// The one good class.
    pub fn ok() -> Class {
        known(OK)
    }

    /// Whether this is the one good class.
    pub fn is_ok(class: &Class) -> bool {
        class.as_str() == OK
    }

    /// Whether it is bad to every criterion, whichever classes that counts.
    pub fn is_unclassed(class: &Class) -> bool {
        class.as_str() == BAD
    }

    /// Whether the failure came before any response byte: then it may be the prober's own fault.
    pub fn is_before_response(class: &Class) -> bool {
        matches!(class.as_str(), RESOLVE | CONNECT | TLS)
    }
}

/// Upper edges of the fixed latency buckets, in milliseconds: two to each doubling, so that a tail
/// that grows by a fifth moves between them. A plan's thresholds are added.
pub const LATENCY_EDGES_MS: [u64; 30] = [
    1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1_024, 1_448, 2_048, 2_896, 4_096,
    5_793, 8_192, 11_585, 16_384, 23_170, 32_768,
];

/// Latencies of one slot: non-cumulative counts by upper edge in milliseconds; `u64::MAX` is the rest.
///
/// A bucket reaches down to the key before it, so an empty bucket below a full one is kept.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Histogram(pub BTreeMap<u64, u64>);

impl Histogram {
    /// Counts one latency under the first of `edges` (ascending, in ms) that is not below it.
    pub fn record(&mut self, edges: &[u64], latency: Span) {
        let index = edges.iter().position(|edge| latency.as_ms() <= *edge).unwrap_or(edges.len());
        let count = self.0.entry(edges.get(index).copied().unwrap_or(u64::MAX)).or_default();
        *count = count.saturating_add(1);
        if let Some(below) = index.checked_sub(1).and_then(|below| edges.get(below)) {
            self.0.entry(*below).or_default();
        }
    }

    /// How many were recorded.
    pub fn n(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How many took longer than `limit`, at most: a bucket that reaches over it counts whole.
    pub fn over(&self, limit: Span) -> u64 {
        self.0.iter().filter(|(edge, _)| **edge > limit.as_ms()).fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// How many took longer than `limit` for certain: a bucket that reaches over it does not count.
    /// The same as [`over`](Self::over) when `limit` is one of the edges.
    pub fn surely_over(&self, limit: Span) -> u64 {
        let mut below = None;
        let mut sum = 0_u64;
        for (edge, count) in &self.0 {
            if below.is_some_and(|below| below >= limit.as_ms()) {
                sum = sum.saturating_add(*count);
            }
            below = Some(*edge);
        }
        sum
    }

    /// Adds another slot's or agent's counts.
    pub fn merge(&mut self, other: &Self) {
        merge_counts(&mut self.0, &other.0);
    }
}

/// A number read out of answers: how often, its extremes, and the last one. Finite by decoding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Level {
    /// How many answers held it.
    pub n: u64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The last.
    pub last: f64,
}

impl Level {
    /// One value.
    pub fn one(value: f64) -> Self {
        Self { n: 1, min: value, max: value, last: value }
    }

    /// Adds a later value, or another agent's.
    pub fn merge(&mut self, other: &Self) {
        self.n = self.n.saturating_add(other.n);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.last = other.last;
    }

    fn is_sound(&self) -> bool {
        // What is not a number is in no range.
        let in_order = self.min <= self.last && self.last <= self.max;
        in_order && self.min.is_finite() && self.max.is_finite()
    }
}

/// The part of a slot that one release answered (`None`: the answer named no release, or there was none).
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Portion {
    /// The release that was observed.
    pub release: Option<Release>,
    /// How many answers of each class.
    pub classes: BTreeMap<Class, u64>,
    /// How long the answers took. Failures before a response byte are not in it.
    pub latency: Histogram,
    /// Numbers extracted from the answers.
    pub numbers: BTreeMap<NumberName, Level>,
}

impl Portion {
    /// How many looks.
    pub fn n(&self) -> u64 {
        self.classes.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Whether any of them was bad.
    pub fn has_bad(&self) -> bool {
        self.classes.iter().any(|(name, count)| *count > 0 && !class::is_ok(name))
    }

    /// Adds another portion of the same release.
    pub fn merge(&mut self, other: &Self) {
        merge_counts(&mut self.classes, &other.classes);
        self.latency.merge(&other.latency);
        for (name, level) in &other.numbers {
            self.numbers.entry(name.clone()).and_modify(|own| own.merge(level)).or_insert(*level);
        }
    }

    /// Nothing is counted more often than there were looks.
    fn is_sound(&self) -> bool {
        let n = self.n();
        self.latency.n() <= n && self.numbers.values().all(|level| level.n <= n && level.is_sound())
    }
}

/// Whether the agent itself was well in this slot, by its own control target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// No control target is configured.
    Absent,
    /// The control target did not answer: what failed before a response byte says nothing.
    Sick,
    /// The control target answered.
    Well,
}

/// The first failures of a slot, redacted, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Evidence {
    /// When the answer, or the failure, came.
    pub at: Timestamp,
    /// Its class.
    pub class: Class,
    /// What was asked and what came back, redacted, at most [`EVIDENCE_LEN_MAX`] characters.
    pub text: String,
}

/// Longest text of one piece of evidence, in characters.
pub const EVIDENCE_LEN_MAX: usize = 300;
/// Most pieces of evidence in one sample: the first ones tell the story.
pub const EVIDENCE_MAX: usize = 3;

/// One slot of one SLI, for one cohort, seen by one agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Sample {
    /// The rollout it was asked for.
    pub rollout: RolloutId,
    /// The assignment it was made under.
    pub revision: Revision,
    /// What was measured.
    pub sli: SliName,
    /// Which cohort was addressed.
    pub cohort: Cohort,
    /// Start of the slot.
    pub slot: Timestamp,
    /// One portion per observed release.
    pub portions: Vec<Portion>,
    /// Whether the agent itself was well.
    pub control: Control,
    /// The first failures.
    pub evidence: Vec<Evidence>,
    /// Where it was counted, when somebody else did, such as `prometheus main`: two agents that read
    /// one source saw the same events, and those count once. Absent: these looks are the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// What one agent saw in one tick. One message on the bus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Tick {
    /// Who looked.
    pub agent: AgentId,
    /// Number of this message since the agent's ledger began; a repeat has the same number.
    pub seq: u64,
    /// Set when the agent's clock has not been anchored for 15 s: its slots cannot be trusted.
    pub clock_adrift: bool,
    /// The samples, of one or more slots.
    pub samples: Vec<Sample>,
}

/// Most samples in one tick.
pub const SAMPLES_MAX: usize = 1_000;
/// Most portions in one sample: a service on more releases than this at once is not one rollout.
pub const PORTIONS_MAX: usize = 8;

impl Tick {
    /// Whether all that decoding cannot see is in order, in every sample.
    pub fn is_sound(&self) -> bool {
        self.samples.len() <= SAMPLES_MAX && self.samples.iter().all(Sample::is_sound)
    }
}

impl Sample {
    /// Whether all that decoding cannot see is in order: bounds, finite numbers, sums that can be.
    pub fn is_sound(&self) -> bool {
        self.portions.len() <= PORTIONS_MAX
            && self.portions.iter().all(Portion::is_sound)
            && self.evidence.len() <= EVIDENCE_MAX
            && self.evidence.iter().all(|e| e.text.chars().count() <= EVIDENCE_LEN_MAX)
    }
}

fn merge_counts<K: Ord + Clone>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        let own = into.entry(key.clone()).or_default();
        *own = own.saturating_add(*count);
    }
}
