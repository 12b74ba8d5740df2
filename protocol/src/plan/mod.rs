//! The operator's file, typed. Reading it from YAML is behind the feature `plan-file`.
//!
//! The judge gets a [`Plan`] that has been checked; it never sees YAML. A plan names levers and
//! says what they are set to; what that executes is in the agents' own configuration alone.
//!
//! Every key that there is, with its default where it has one:
//!
//! ```yaml
//! service: shop
//! slot: 30s                     # default 30s: one cell of the grid on which everything is measured
//! grace: 10s                    # default 10s: how long a slot waits for late reporters
//! quorum: 1                     # default 1: agents of a region that must report a slot
//! alpha: 1%                     # default 1%: chance that a release within every limit is taken back
//! regions:                      # where the service is, seen from each place with agents
//!   east: http://127.0.0.1:8001
//!   west: http://127.0.0.1:8002
//! cohorts:                      # default: a canary that the fingerprint alone tells
//!   canary: { headers: { x-cohort: canary } }
//!   baseline: { headers: { x-cohort: baseline } }
//! fingerprint: { header: x-release }    # or { json: $.version }; default: none
//! levers:                       # names from the agents' own configuration
//!   traffic: {}
//!   release: { holds_release: true }    # `{previous}` is the release that it held at start
//!   staging_release: { holds_release: true, regions: [west] }   # default: every region
//!   machines: { targets: 2 }            # default any: how many stand behind it; fewer or more are a drift
//!   new_checkout: { off: "off" }        # a flag, and what `flag-off` sets
//!   auto_deploy: { on_drift: rollback } # when it is read elsewhere: warn, hold (default), reapply, rollback;
//!                                       # or steps, as in a criterion's `on_fail`
//!   backup: { runs: true }              # a command that is run, not a state that is kept
//!   golden_paths: { runs: true }
//! slis:
//!   - name: checkout
//!     every: 500ms              # default: the slot
//!     timeout: 2s               # default 10s
//!     http:                     # exactly one kind of probe, with its own settings
//!       path: /checkout
//!       refusal: ["status == 503", "body contains FEATURE_DISABLED"]
//! criteria:                     # each judges one SLI by a sentence, or by one of ten objectives
//!   - name: error_rate
//!     sli: checkout             # default: the plan's only one
//!     must: "error_ratio < 0.1%, alert 0.5%"
//!     hard: true                # default false
//!     min_events: 20            # default 1
//!     require: proven           # default not_failed
//!     for: 30s                  # default 0s: how long it fails before that counts
//!     on_fail: rollback         # or warn, hold, reapply; default: rollback when hard, else hold
//!     # on_fail:                # or one after the other, each from so long after it began to fail
//!     #   - { do: warn, tell: [ops] }
//!     #   - { for: 2m, do: reapply }             # set the stage's levers again, once
//!     #   - { for: 10m, do: rollback, tell: [oncall] }
//!   - name: card_errors         # what a sentence is short for
//!     ratio: { sli: checkout, max: 0.5%, target: 0.1%, bad: [http_5xx] }  # bad: default all but ok
//!   - { name: no_5xx, zero: { sli: checkout, bad: [http_5xx] }, hard: true }
//!   - { name: p99, quantile: { sli: checkout, q: 99%, max: 500ms, target: 300ms } }
//!   - { name: memory, number: { sli: checkout, number: memory_used, max: 1.8GB, target: 1.5GB } }
//!   - { name: handlers, number: { sli: checkout, number: handlers, min: 4 } }
//!   - { name: down, consecutive: { sli: checkout, slots: 3 }, hard: true }
//!   - { name: worse, compare: { sli: checkout, times: 1.5x, bad: [http_5xx] } }     # default 1.5x
//!   - { name: slower, compare_latency: { sli: checkout, q: 99%, times: 1.2x } }     # default anywhere, 1.2x
//!   - { name: restarts, rising: { sli: checkout, number: uptime } }
//!   - { name: leak, stable: { sli: checkout, number: memory_used, within: 5%, uptime: uptime } }
//!   - { name: budget, burn: { sli: checkout, slo: 99.9%, period: 30d, spend: 10%, bad: [http_5xx] } }  # default 10%
//! stages:
//!   - name: canary
//!     regions: [east, west]     # default: all
//!     # waves: [[east], [west]] # or one after the other, as stages `canary-1` and `canary-2`: each looks
//!     #                         # at every region so far, and sets the levers whose `regions` it reaches
//!     # at_most: 50%            # default 100%: the share of its regions that the first wave may reach
//!     cohorts: [canary, baseline]       # default: both where there is a baseline
//!     enter:                    # default: nothing; one after the other
//!       - { set: traffic, to: 10% }
//!       - { set: release, to: "{release}" }
//!       - { set: new_checkout, to: "on" }
//!       - run: backup           # a lever that `runs`
//!     enter_within: 2m          # default 2m, for each of them
//!     settle: 10s               # default 0s: nothing is judged
//!     soak: 4h                  # counted in covered slots
//!     criteria: [error_rate]    # default: all
//!     approval: true            # default false
//!     irreversible: true        # default false: once entered, only `automatic` levels begin by themselves
//!     during:                   # while it soaks; the first one begins at once
//!       - { every: 6h, run: golden_paths, within: 10m, on_fail: hold }   # default 2m, hold
//! take_back:                    # default: one level, everything moved to `{previous}`
//!   green: 3                    # default 3: green slots that mean recovered
//!   within: 10                  # default 10: slots in which they must be seen
//!   levels:                     # the next one begins when one is not confirmed in time. For a lever that is
//!                               # elsewhere, or could not be set, the first one that sets it begins, and
//!                               # sets along what the levels before it set
//!     - set:
//!         - { set: traffic, to: 0% }
//!         - { set: release, to: "{previous}" }
//!         - { set: new_checkout, to: "off" }
//!       apply_within: 2m        # default 2m
//!       automatic: false        # default false: may go beyond the previous release by itself
//!       refuses: [checkout]     # default none: SLIs that must be answered by their `refusal` afterwards
//! freeze:                       # no stage is entered in these; taking back always works
//!   - { from: Fri 16:00, to: Mon 08:00, zone: Europe/Berlin }             # default zone UTC
//!   - { from: 2026-12-23T18:00, to: 2027-01-04T08:00 }
//! ```
//!
//! What `must` can say, and the objective that it stands for:
//!
//! | sentence | objective |
//! |---|---|
//! | `error_ratio < 0.1%` | ratio: fails above, and is proven below |
//! | `error_ratio < 0.1%, alert 0.5%` | ratio: warns above the one, fails above the other |
//! | `5xx_ratio < 1%`, `timeout_ratio < 1%` | ratio of one class |
//! | `error_ratio (5xx, timeout) < 1%` | ratio of several classes |
//! | `no errors`, `no 5xx`, `no http_5xx, timeout` | zero |
//! | `p99 < 10s`, `p99.9 < 500ms, alert 2s` | quantile |
//! | `memory_used < 1.5GB, alert 1.8GB` | number: warns above the one, fails above the other |
//! | `handlers >= 4` | number: fails below |
//! | `never 3 slots down` | consecutive |
//! | `uptime never falls` | rising: a restart of a single process |
//! | `canary error_ratio <= 1.5x baseline` | compare; also `5xx_ratio`, `error_ratio (5xx, timeout)` |
//! | `canary p99 <= 1.5x baseline` | compare_latency at one quantile |
//! | `canary latency <= 1.2x baseline` | compare_latency anywhere |
//! | `memory stable within 5% a day` | stable; `, uptime NUMBER` tells restarts |
//! | `burn 30d slo 99.9%, spend 5%` | burn; `burn (5xx, timeout) 30d ...` names what is bad |
//!
//! `4xx` and `5xx` are short for `http_4xx` and `http_5xx`. Of two limits the larger fails and the
//! smaller warns, whichever comes first: `database < 1GB, alert 900MB` warns from 900MB on and fails
//! from 1GB on. At a limit itself nothing fails, so `<` and `<=` mean the same. A number that is
//! called like a word of these sentences, such as `p99`, needs the structured form.

#[cfg(feature = "plan-file")]
mod check;
mod freeze;
#[cfg(feature = "plan-file")]
mod layers;
#[cfg(feature = "plan-file")]
mod named;
#[cfg(feature = "plan-file")]
mod node;
pub mod number;
#[cfg(feature = "plan-file")]
mod overrides;
#[cfg(feature = "plan-file")]
mod read;
#[cfg(feature = "plan-file")]
mod reader;
#[cfg(feature = "plan-file")]
mod report;
mod sentence;
#[cfg(feature = "plan-file")]
mod short;
#[cfg(feature = "plan-file")]
mod sketch;
mod timeline;
#[cfg(feature = "plan-file")]
mod waves;
#[cfg(feature = "plan-file")]
mod written;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{
    Audience, Class, CriterionName, LeverName, LeverValue, NumberName, Region, Service, SliName, StageName,
};
use crate::ratio::{Ratio, Times};
use crate::sample::Cohort;
use crate::time::{Span, Timestamp, per_second};

pub use freeze::{Edge, Freeze, Zone};
#[cfg(feature = "plan-file")]
pub use layers::{Unjoined, files, join};
#[cfg(feature = "plan-file")]
pub use report::{Finding, FindingSeverity, render};
#[cfg(feature = "plan-file")]
pub use sketch::plan_schema;
pub use timeline::{RollbackPoint, StageTime, Timeline};
#[cfg(feature = "plan-file")]
pub use written::written;

/// Width of a slot, when the plan does not say.
pub const SLOT: Span = Span::from_secs(30);
/// How long a slot waits for late reporters, when the plan does not say; at most one slot.
pub const GRACE: Span = Span::from_secs(10);
/// The chance of a false alarm of one rollout, when the plan does not say.
pub const ALPHA: Ratio = Ratio::from_ppb(10_000_000);
/// How many times the baseline's share of bad answers is tolerated, when the plan does not say. Two
/// machines on one release differ by some tens of per cent from minute to minute, and that is not
/// the release.
pub const TIMES: Times = Times::from_milli(1_500);
/// How many times the baseline's latency is tolerated, when the plan does not say. With enough
/// traffic a canary that is a twentieth slower is found within minutes; a cold cache does as much,
/// and nobody takes a release back for it.
pub const TIMES_LATENCY: Times = Times::from_milli(1_200);
/// The share of an SLO's error budget that one stage may spend, when the plan does not say.
pub const SPEND: Ratio = Ratio::from_ppb(100_000_000);
/// For how long a probe looks at most, when the plan does not say.
pub const TIMEOUT: Span = Span::from_secs(5);
/// Deadline of an action, when the plan does not say.
pub const ENTER_WITHIN: Span = Span::from_secs(120);

/// Reads a plan file and checks it, without I/O. `file` is its path, for messages only. A file that
/// stands on a base is read as the text that [`join`] makes of the two.
///
/// `overrides` such as `stages.canary.soak=60s` are applied before anything is checked.
///
/// # Errors
/// Everything that is wrong, in the order of the file, warnings included. Otherwise the plan comes
/// with its warnings.
#[cfg(feature = "plan-file")]
pub fn read_plan(
    file: &str,
    text: &str,
    overrides: &[String],
    validators: &Validators,
) -> Result<(Plan, Vec<Finding>), Vec<Finding>> {
    let (root, mut findings) = layers::tree(text);
    let mut plan = None;
    if let Some(mut root) = root {
        findings.extend(overrides::apply(&mut root, overrides));
        findings.extend(short::write_out(&mut root, text));
        findings.extend(waves::write_out(&mut root));
        let mut reader = reader::Reader::new(validators);
        plan = reader.plan(&root);
        findings.append(&mut reader.findings);
        findings.extend(check::check(&root));
    }
    layers::place(&mut findings, file, text);
    // What stands in a stage with waves is read once for each of them.
    let place = |own: &Finding| (own.file.clone(), own.line, own.column, own.code, own.message.clone());
    let mut said = BTreeSet::new();
    findings.retain(|finding| said.insert(place(finding)));
    findings.truncate(report::FINDINGS_MAX);
    let wrong = findings.iter().any(|finding| finding.severity == FindingSeverity::Error);
    match plan {
        Some(plan) if !wrong => Ok((plan, findings)),
        _ => Err(findings),
    }
}

/// Everything one service's rollouts need.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Plan {
    /// The service.
    pub service: Service,
    /// Width of a slot. Default 30 s.
    pub slot: Span,
    /// How long after its end a slot waits for late reporters. Default 10 s, at most one slot.
    pub grace: Span,
    /// How many agents of a region must report a slot for it to be covered. Default 1.
    pub quorum: u32,
    /// The chance, at most, that a rollout of a release that is within every limit is taken back by
    /// a statistical criterion. Default 1 %.
    pub alpha: Ratio,
    /// Regions, and where the service is in each, such as `https://sjc.example.com`.
    pub regions: BTreeMap<Region, String>,
    /// Headers that address the canary cohort; empty when the cohort is told by fingerprint alone.
    pub canary: BTreeMap<String, String>,
    /// Headers that address the baseline cohort; absent when there is no baseline.
    pub baseline: Option<BTreeMap<String, String>>,
    /// How the release is read out of an answer.
    pub fingerprint: Option<Fingerprint>,
    /// The levers this plan may move, by the names that the agents' own configuration gives them.
    pub levers: BTreeMap<LeverName, LeverUse>,
    /// What is measured.
    pub slis: Vec<Sli>,
    /// What is judged.
    pub criteria: Vec<Criterion>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// How a release is taken back.
    pub take_back: TakeBack,
    /// When no stage is entered. Taking back always works.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<Freeze>,
}

/// How the release is read out of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fingerprint {
    /// The value of a header.
    Header(String),
    /// A string at a JSON path in the body.
    Json(String),
}

/// What a plan knows of a lever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LeverUse {
    /// Whether its value is the service's release; `{previous}` is what it held at start. Of several, the
    /// one that was set last holds what answers in a stage.
    pub holds_release: bool,
    /// The regions whose release it holds. Default, and when empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<Region>,
    /// The value that `flag-off` sets, when this lever is a flag.
    pub off: Option<LeverValue>,
    /// What follows when it is read elsewhere than where the rollout put it, or found it. Default: hold.
    #[serde(default = "FailStep::hold")]
    pub on_drift: Vec<FailStep>,
    /// How many targets stand behind it, such as machines. Fewer or more are a drift. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<u32>,
    /// Whether setting it runs a command, so that it has no state to keep or to restore. Default false.
    #[serde(default)]
    pub runs: bool,
}

/// What is measured: one kind of look, repeated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Sli {
    /// Its name.
    pub name: SliName,
    /// How often each agent looks. Default: the slot.
    pub every: Span,
    /// For how long at most; at most the grace. Default 5 s, or the grace if that is shorter.
    pub timeout: Span,
    /// Which kind of probe, such as `http`.
    pub kind: String,
    /// That probe's own settings, checked by the probe.
    pub settings: serde_json::Value,
}

impl Sli {
    /// How many events of one cohort in one region come in a minute at least, by the plan alone: a look is one,
    /// unless it is load, and each of the `quorum` agents makes as many. `None` when its users decide that.
    pub fn per_minute(&self, quorum: u32) -> Option<f64> {
        let one = if self.kind == "load" {
            self.settings.get("rate").and_then(serde_json::Value::as_str).and_then(per_second)? * 60.0
        } else {
            60_000.0 / self.every.as_ms().max(1) as f64
        };
        Some(one * f64::from(quorum))
    }

    /// Whether its samples can name the release: looks at the service itself read the plan's fingerprint,
    /// sources elsewhere only where their settings have a label for it.
    pub fn names_release(&self) -> bool {
        matches!(self.kind.as_str(), "http" | "json" | "load") || self.settings.get("release_label").is_some()
    }
}

/// What is judged of an SLI.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Criterion {
    /// Its name.
    pub name: CriterionName,
    /// The SLI it judges.
    pub sli: SliName,
    /// What must hold.
    pub objective: Objective,
    /// Whether a Fail takes the release back (hard) or stops the soak's count (soft).
    pub hard: bool,
    /// What must be seen of it before its stage may be left. Default: that it did not fail.
    pub require: Require,
    /// How long it must fail without a break before that counts. Default 0.
    pub hold_for: Span,
    /// Fewer events than this prove nothing. Default 1.
    pub min_events: u64,
    /// What a Fail does, one after the other; ascending, never empty in a checked plan. Default:
    /// `rollback` when hard, `hold` when soft.
    pub on_fail: Vec<FailStep>,
}

/// What must be seen of a criterion before its stage may be left.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Require {
    /// No Fail, every slot covered, enough events. What the data prove is told.
    #[default]
    NotFailed,
    /// The Pass test: the data prove that it holds.
    Proven,
}

/// What must hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The error budget of an SLO is not burnt too fast, in two windows at once.
    Burn {
        /// Which classes are bad. Empty: all but `ok`.
        bad: Vec<Class>,
        /// The share of answers that must be good over the period, such as 99.9 %.
        slo: Ratio,
        /// Over how long the SLO is kept, such as 30 days.
        period: Span,
        /// The share of the period's error budget that one stage may spend. Default 10 %.
        spend: Ratio,
    },
    /// The canary gives not many more bad answers per request than the baseline beside it.
    Compare {
        /// Which classes are bad. Empty: all but `ok`.
        bad: Vec<Class>,
        /// Tolerated: so many times the baseline's share. Default 1.5.
        times: Times,
    },
    /// The canary is not much slower than the baseline beside it.
    CompareLatency {
        /// At which quantile. Absent: anywhere in the distribution.
        quantile: Option<Ratio>,
        /// Tolerated: so many times the baseline's latency. Default 1.2.
        times: Times,
    },
    /// Not so many slots in a row without one good answer.
    Consecutive {
        /// This many in a row fail.
        slots: u32,
    },
    /// A number stays within limits.
    Number {
        /// Which number.
        number: NumberName,
        /// Fails below.
        min: Option<f64>,
        /// Fails above.
        max: Option<f64>,
        /// Warned of above, though within `max`.
        target: Option<f64>,
    },
    /// A quantile of latency stays under a limit, judged as the share of answers over it.
    Quantile {
        /// Which quantile, such as 99%.
        quantile: Ratio,
        /// Fails when more than `1 - quantile` take longer.
        max: Span,
        /// Warned of when more than `1 - quantile` take longer than this.
        target: Option<Span>,
    },
    /// The share of bad answers stays under a limit.
    Ratio {
        /// Which classes are bad. Empty: all but `ok`.
        bad: Vec<Class>,
        /// Fails above.
        max: Ratio,
        /// Warned of above, though within `max`; what the Pass test proves. Default: `max`.
        target: Option<Ratio>,
    },
    /// A number of one process, such as its uptime, never falls: when it does, the process was restarted.
    Rising {
        /// Which number.
        number: NumberName,
    },
    /// A level such as memory neither climbs nor scatters.
    Stable {
        /// Which number.
        number: NumberName,
        /// By how much of its median it may climb in a day, and how widely it may scatter.
        within: Ratio,
        /// The number that tells how long the process has run: when it falls, the process was
        /// restarted, and what came before says nothing of what comes after.
        uptime: Option<NumberName>,
    },
    /// Not one answer of these classes in the whole stage.
    Zero {
        /// Which classes. Empty: all but `ok`.
        bad: Vec<Class>,
    },
}

impl Objective {
    /// Whether what it counts as bad are requests that failed; a number over its limit, or a slow answer,
    /// is none.
    pub fn counts_failures(&self) -> bool {
        matches!(
            self,
            Self::Burn { .. }
                | Self::Compare { .. }
                | Self::Consecutive { .. }
                | Self::Ratio { .. }
                | Self::Zero { .. }
        )
    }
}

/// What a Fail does. The later, the graver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFail {
    /// People are told; the stage goes on.
    Warn,
    /// Nothing is promoted until it passes again.
    Hold,
    /// The levers of the stage are set again, once; while that does not help, nothing is promoted.
    Reapply,
    /// The release is taken back.
    Rollback,
}

/// One step of what a Fail, or a drift, does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FailStep {
    /// From how long after it began. Until the first step, nothing is promoted.
    pub after: Span,
    /// What is done.
    pub act: OnFail,
    /// Who is told, by the names that alert agents route by. Default: nobody in particular.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tell: Vec<Audience>,
}

/// Something that is run again and again while a stage soaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Activity {
    /// How often; the first one begins with the soak.
    pub every: Span,
    /// The lever that runs it.
    pub run: LeverName,
    /// Deadline of each run. Default 2 min.
    pub within: Span,
    /// What a run that is not done in time does. Default: hold, until a later run is done.
    pub on_fail: OnFail,
}

/// A named step of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Stage {
    /// Its name.
    pub name: StageName,
    /// Where it is looked at. Default: every region. As `waves`, one list after the other becomes a stage of
    /// its own; the first may reach the share `at_most` of these regions. Default 100 %.
    pub regions: Vec<Region>,
    /// Which cohorts are looked at. Default: canary, and baseline where the plan has one.
    pub cohorts: Vec<Cohort>,
    /// What is set on entry, one after the other.
    pub enter: Vec<Set>,
    /// Deadline of each entry action. Default 2 min.
    pub enter_within: Span,
    /// How long after entry nothing is judged. Default 0.
    pub settle: Span,
    /// How long it must stay green, in covered slots.
    pub soak: Span,
    /// Which criteria hold here. Default: all.
    pub criteria: Vec<CriterionName>,
    /// Whether a human must approve before it is left. Default false.
    pub approval: bool,
    /// What is run while it soaks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub during: Vec<Activity>,
    /// Whether it cannot be undone: once it was entered, only levels of take-back that are
    /// `automatic` begin by themselves. Default false.
    #[serde(default)]
    pub irreversible: bool,
}

/// Set one lever to one value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Set {
    /// Which lever.
    pub lever: LeverName,
    /// To what.
    pub to: SetTo,
}

/// The value a plan sets a lever to. In YAML: `{release}`, `{previous}`, or the value itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SetTo {
    /// What the lever held when the rollout started.
    Previous,
    /// The release that is being brought out.
    Release,
    /// A value of its own each time: the lever runs a command. In YAML: `run: LEVER` in place of `set`.
    Run,
    /// This value.
    Value(LeverValue),
}

/// How a release is taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TakeBack {
    /// Levels, tried in order. Never empty in a checked plan.
    pub levels: Vec<TakeBackLevel>,
    /// How many green slots mean recovered. Default 3.
    pub green: u32,
    /// Within how many slots after applied they must be seen. Default 10.
    pub within: u32,
}

/// One set of lever values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct TakeBackLevel {
    /// What is set, all at once.
    pub set: Vec<Set>,
    /// By when every lever must be read back and the old release seen. Default 2 min.
    pub apply_within: Span,
    /// Whether it may be entered without a human, though it goes beyond the previous release.
    pub automatic: bool,
    /// SLIs that must be answered by their `refusal` once the level is applied: the fail-closed proof.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refuses: Vec<SliName>,
}

/// One thing wrong in a probe's own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Where, as a JSON pointer into the settings, such as `/expect/1`; empty for the whole.
    pub pointer: String,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: String,
}

/// Who checks which settings: by kind of probe, as its agent exports it.
///
/// An empty table means that settings are not checked here: an agent that cannot use them refuses
/// its assignment instead, and that blocks the start.
pub type Validators = BTreeMap<&'static str, fn(&serde_json::Value) -> Vec<Flaw>>;

impl Default for LeverUse {
    fn default() -> Self {
        let on_drift = FailStep::hold();
        Self { holds_release: false, regions: Vec::new(), off: None, on_drift, targets: None, runs: false }
    }
}

impl OnFail {
    /// This alone, as soon as it fails, and nobody in particular is told.
    pub fn at_once(self) -> Vec<FailStep> {
        vec![FailStep { after: Span::ZERO, act: self, tell: Vec::new() }]
    }
}

impl FailStep {
    fn hold() -> Vec<Self> {
        OnFail::Hold.at_once()
    }

    /// What follows now, so long after it began: nothing is promoted before the first step.
    pub fn act(steps: &[Self], lasted: Span) -> OnFail {
        steps.iter().rev().find(|step| step.after <= lasted).map_or(OnFail::Hold, |step| step.act)
    }
}

impl Criterion {
    /// What follows now, when it has failed for so long.
    pub fn act(&self, failing: Span) -> OnFail {
        FailStep::act(&self.on_fail, failing)
    }

    /// Whether it may take the release back.
    pub fn takes_back(&self) -> bool {
        self.on_fail.iter().any(|step| step.act == OnFail::Rollback)
    }
}

impl Plan {
    /// Until when no stage is entered; nothing when one may be.
    pub fn frozen_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.freeze.iter().filter_map(|freeze| freeze.until(now)).max()
    }

    /// The SLI of that name.
    pub fn sli(&self, name: &SliName) -> Option<&Sli> {
        self.slis.iter().find(|sli| sli.name == *name)
    }

    /// The kinds of look that it needs.
    pub fn kinds(&self) -> BTreeSet<&str> {
        self.slis.iter().map(|sli| sli.kind.as_str()).collect()
    }

    /// The criterion of that name.
    pub fn criterion(&self, name: &CriterionName) -> Option<&Criterion> {
        self.criteria.iter().find(|criterion| criterion.name == *name)
    }

    /// The lever that holds the service's release in the end, if the plan names one: the last that is set.
    pub fn release_lever(&self) -> Option<&LeverName> {
        let held = |lever: &LeverName| self.levers.get(lever).is_some_and(|own| own.holds_release);
        let last = set_by(&self.stages).filter(|lever| held(lever)).last();
        last.or_else(|| self.levers.keys().find(|lever| held(lever)))
    }

    /// The lever that holds what answers in a region during a stage, by its index: the last that the
    /// stages so far set, or else the first that is set later.
    pub fn release_lever_in(&self, stage: usize, region: &Region) -> Option<&LeverName> {
        let is_its = |lever: &LeverUse| lever.regions.is_empty() || lever.regions.contains(region);
        let held = |lever: &LeverName| self.levers.get(lever).is_some_and(|own| own.holds_release && is_its(own));
        let (so_far, later) = self.stages.split_at(stage.saturating_add(1).min(self.stages.len()));
        let last = set_by(so_far).filter(|lever| held(lever)).last();
        let next = || set_by(later).find(|lever| held(lever));
        last.or_else(next).or_else(|| self.levers.keys().find(|lever| held(lever)))
    }
}

/// The levers that stages set on entry, in order.
fn set_by(stages: &[Stage]) -> impl Iterator<Item = &LeverName> {
    stages.iter().flat_map(|stage| &stage.enter).map(|set| &set.lever)
}
