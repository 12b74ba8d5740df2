//! From the tree to a [`Plan`]: the shape alone, with every error in it collected.
//!
//! Whether names refer to something, and whether values make sense together, is for `check`.

use std::collections::BTreeMap;
use std::str::FromStr;

use schemars::JsonSchema;
use serde_json::json;

use super::node::Node;
use super::reader::{Reader, Section};
use super::report::{Finding, cut};
use super::short::{EXAMPLES, SENTENCE_MAX};
use super::waves::WAVES_MAX;
use super::{
    ALPHA, Activity, Criterion, ENTER_WITHIN, FailStep, Fingerprint, Freeze, GRACE, LeverUse, Objective, OnFail, Plan,
    Require, SLOT, SPEND, Set, SetTo, Sli, Stage, TIMEOUT, TIMES, TIMES_LATENCY, TakeBack, TakeBackLevel, Zone,
};
use crate::id::{IdError, LeverName, LeverValue, Region, SliName};
use crate::ratio::Ratio;
use crate::sample::Cohort;
use crate::time::Span;

/// Most stages, levels of take-back and the like; more is a mistake of whoever generated the file.
const STAGES_MAX: usize = 64;
/// Most SLIs and criteria.
pub(super) const CRITERIA_MAX: usize = 256;
/// Most headers of a cohort.
const HEADERS_MAX: usize = 16;

const PLAN: &[&str] = &[
    "extends",
    "service",
    "slot",
    "grace",
    "quorum",
    "alpha",
    "regions",
    "cohorts",
    "fingerprint",
    "levers",
    "slis",
    "criteria",
    "stages",
    "take_back",
    "freeze",
];
/// What the schema says of a base, which is gone from the tree before a plan is read.
const EXTENDS: &str = "The file that this one is laid over, by its path from here; in a base itself: `~`.";
/// What a Fail does, as a plan writes it.
const ON_FAIL: &[(&str, OnFail)] =
    &[("warn", OnFail::Warn), ("hold", OnFail::Hold), ("reapply", OnFail::Reapply), ("rollback", OnFail::Rollback)];
const COHORTS: &[&str] = &["canary", "baseline"];
const SLI: &[&str] = &["name", "every", "timeout"];
const CRITERION: &[&str] = &[
    "name",
    "sli",
    "must",
    "ratio",
    "zero",
    "quantile",
    "number",
    "consecutive",
    "compare",
    "compare_latency",
    "rising",
    "stable",
    "burn",
    "hard",
    "min_events",
    "require",
    "for",
    "on_fail",
];
/// Keys that a criterion had.
const CRITERION_GONE: &[(&str, &str)] = &[(
    "window",
    "leave it out: the evidence of the whole stage is judged at every moment, and a late regression is seen in it",
)];
/// The keys of a criterion of which exactly one says what must hold, unless a sentence does.
pub(super) const OBJECTIVES: [&str; 10] =
    ["ratio", "zero", "quantile", "number", "consecutive", "compare", "compare_latency", "rising", "stable", "burn"];
const STAGE: &[&str] = &[
    "name",
    "regions",
    "waves",
    "at_most",
    "cohorts",
    "enter",
    "enter_within",
    "settle",
    "soak",
    "criteria",
    "approval",
    "during",
    "irreversible",
];

/// Headers that address a cohort.
type Headers = BTreeMap<String, String>;

/// The name of a header. Narrower than HTTP's own alphabet, and wide enough for every header in use.
#[derive(PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema)]
#[schemars(extend("pattern" = "^[A-Za-z0-9_-]{1,64}$"))]
struct Header(String);

impl FromStr for Header {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let token: SliName = text.parse().map_err(|error: IdError| IdError { kind: "header", ..error })?;
        Ok(Self(token.as_str().to_owned()))
    }
}

impl Reader<'_> {
    /// The whole plan; `None` when anything in it could not be read.
    pub(super) fn plan(&mut self, root: &Node) -> Option<Plan> {
        let s = self.section("plan", root, PLAN)?;
        self.or(s, "extends", None, |r, k, n| {
            r.note(|| json!({ "description": EXTENDS }));
            r.text(k, n).map(Some)
        });
        let service = self.need(s, "service", Self::token);
        let slot = self.or(s, "slot", SLOT, Self::span);
        let grace = self.or(s, "grace", GRACE.min(slot.unwrap_or(GRACE)), Self::span);
        let quorum = self.or(s, "quorum", 1, Self::count);
        let alpha = self.or(s, "alpha", ALPHA, Self::ratio);
        let regions = self.need(s, "regions", Self::regions);
        let cohorts = self.or(s, "cohorts", (BTreeMap::new(), None), Self::cohorts);
        let fingerprint = self.or(s, "fingerprint", None, |r, k, n| r.fingerprint(k, n).map(Some));
        let levers = self.or(s, "levers", BTreeMap::new(), Self::levers);
        let every = slot.unwrap_or(SLOT);
        let timeout = TIMEOUT.min(grace.unwrap_or(TIMEOUT));
        let slis = self.need(s, "slis", |r, k, n| r.list(k, n, CRITERIA_MAX, |r, _, n| r.sli(n, every, timeout)));
        let criteria = self.need(s, "criteria", |r, k, n| r.list(k, n, CRITERIA_MAX, Self::criterion));
        let stages = self.need(s, "stages", |r, k, n| r.list(k, n, STAGES_MAX, |r, _, n| r.stage(n, root)));
        let freeze = self.or(s, "freeze", Vec::new(), |r, k, n| r.list(k, n, STAGES_MAX, Self::freeze));
        let take_back = self.or(s, "take_back", None, |r, _, n| r.take_back(n).map(Some));
        let (canary, baseline) = cohorts?;
        let stages = stages?;
        let take_back = take_back?.unwrap_or_else(|| TakeBack::to_previous(&stages));
        Some(Plan {
            service: service?,
            slot: slot?,
            grace: grace?,
            quorum: quorum?,
            alpha: alpha?,
            regions: regions?,
            canary,
            baseline,
            fingerprint: fingerprint?,
            levers: levers?,
            slis: slis?,
            criteria: criteria?,
            stages,
            take_back,
            freeze: freeze?,
        })
    }

    fn regions<T: FromStr<Err = IdError> + JsonSchema + Ord>(
        &mut self,
        key: &str,
        node: &Node,
    ) -> Option<BTreeMap<T, String>> {
        self.table(key, node, STAGES_MAX, |r, key, node| {
            let url = r.text(key, node);
            r.note(|| json!({ "pattern": "^https?://[!-~]+$" }));
            let url = url?;
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            if rest.is_some_and(|rest| !rest.is_empty()) && url.bytes().all(|b| b.is_ascii_graphic()) {
                return Some(url);
            }
            r.bad(key, node, "not an address of the service", "write for example `https://sjc.example.com`")
        })
    }

    fn cohorts(&mut self, _: &str, node: &Node) -> Option<(Headers, Option<Headers>)> {
        let s = self.section("cohorts", node, COHORTS)?;
        let canary = self.or(s, "canary", BTreeMap::new(), Self::cohort);
        let baseline = self.or(s, "baseline", None, |r, k, n| r.cohort(k, n).map(Some));
        Some((canary?, baseline?))
    }

    fn cohort(&mut self, _: &str, node: &Node) -> Option<Headers> {
        let s = self.section("cohort", node, &["headers"])?;
        self.or(s, "headers", BTreeMap::new(), |r, key, node| {
            let read: BTreeMap<Header, String> = r.table(key, node, HEADERS_MAX, |r, key, node| {
                let value = r.text(key, node);
                // A value such as `1` need not stand in quotes.
                r.note(|| json!({ "type": ["string", "number", "boolean"], "pattern": "^[ -~]*$" }));
                let value = value?;
                if value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
                    return Some(value);
                }
                r.bad(key, node, "not the value of a header", "use printable ASCII characters")
            })?;
            Some(read.into_iter().map(|(Header(name), value)| (name, value)).collect())
        })
    }

    fn fingerprint(&mut self, _: &str, node: &Node) -> Option<Fingerprint> {
        let s = self.section("fingerprint", node, &["header", "json"])?;
        self.one_of(s, &["header", "json"], |r, key, node| match key {
            "header" => r.token(key, node).map(|Header(name)| Fingerprint::Header(name)),
            _ => r.text(key, node).map(Fingerprint::Json),
        })
    }

    fn levers(&mut self, key: &str, node: &Node) -> Option<BTreeMap<LeverName, LeverUse>> {
        self.table(key, node, STAGES_MAX, |r, _, node| {
            // `traffic:` alone is as good as `traffic: {}`.
            if r.may_be_nothing(node) {
                return Some(LeverUse::default());
            }
            let s = r.section("lever", node, &["holds_release", "regions", "off", "on_drift", "targets", "runs"])?;
            let holds_release = r.or(s, "holds_release", false, Self::flag);
            let regions = r.or(s, "regions", Vec::new(), |r, k, n| r.list(k, n, STAGES_MAX, Self::token));
            let off = r.or(s, "off", None, |r, k, n| r.value(k, n).map(Some));
            let on_drift = r.or(s, "on_drift", OnFail::Hold.at_once(), Self::on_fail);
            let targets = r.or(s, "targets", None, |r, k, n| r.count(k, n).map(Some));
            let runs = r.or(s, "runs", false, Self::flag);
            let (holds_release, regions, off, on_drift) = (holds_release?, regions?, off?, on_drift?);
            Some(LeverUse { holds_release, regions, off, on_drift, targets: targets?, runs: runs? })
        })
    }

    fn sli(&mut self, node: &Node, slot: Span, timeout: Span) -> Option<Sli> {
        let kinds: Vec<&str> = self.validators.keys().copied().collect();
        // Without a table of probes any key may be a kind; with one, a key is known or wrong.
        let any = || node.entries().iter().map(|(key, _)| key.text.as_str()).filter(|key| !SLI.contains(key)).collect();
        let kinds = if kinds.is_empty() { any() } else { kinds };
        let known: Vec<&str> = SLI.iter().copied().chain(kinds.iter().copied()).collect();
        let s = self.section("sli", node, &known)?;
        if kinds.is_empty() {
            self.note(|| json!({ "additionalProperties": true }));
        }
        let name = self.need(s, "name", Self::token);
        let every = self.or(s, "every", slot, Self::span);
        let timeout = self.or(s, "timeout", timeout, Self::span);
        let probe = self.one_of(s, &kinds, |r, kind, settings| {
            r.validate(kind, settings);
            Some((kind, settings))
        });
        let (kind, settings) = probe?;
        Some(Sli { name: name?, every: every?, timeout: timeout?, kind: kind.to_owned(), settings: settings.to_json() })
    }

    fn validate(&mut self, kind: &str, settings: &Node) {
        let Some(validate) = self.validators.get(kind) else { return };
        for flaw in validate(&settings.to_json()) {
            let at = settings.pointer(&flaw.pointer);
            let key = flaw.pointer.rsplit('/').next().filter(|key| !key.is_empty()).unwrap_or(kind);
            self.push(Finding::new("P09", flaw.message).on(key, at).help(flaw.help));
        }
    }

    fn criterion(&mut self, _: &str, node: &Node) -> Option<Criterion> {
        let s = self.section_without(CRITERION_GONE, "criterion", node, CRITERION)?;
        let name = self.need(s, "name", Self::token);
        let hard = self.or(s, "hard", false, Self::flag);
        let require = self.or(s, "require", Require::NotFailed, |r, k, n| {
            r.word(k, n, &[("not_failed", Require::NotFailed), ("proven", Require::Proven)])
        });
        let hold_for = self.or(s, "for", Span::ZERO, Self::span);
        let min_events = self.or(s, "min_events", 1, Self::count);
        let act = if hard == Some(true) { OnFail::Rollback } else { OnFail::Hold };
        let on_fail = self.or(s, "on_fail", act.at_once(), Self::on_fail);
        let kinds: Vec<&str> = ["must"].into_iter().chain(OBJECTIVES).collect();
        let objective = self.one_of(s, &kinds, Self::objective);
        // `short` has read it, where the sentence beside it makes sense.
        self.or(s, "sli", None, |r, k, n| r.token::<SliName>(k, n).map(Some));
        self.note_beside("sli", "must");
        if let Some((key, _)) = node.entries().iter().find(|(key, _)| key.text == "sli" && node.get("must").is_none()) {
            let help = "it stands beside `must`; in the structured form, write it inside of the objective";
            self.push(Finding::new("P03", "`sli` without `must`").on_key(key).help(help));
        }
        let (sli, objective) = objective?;
        Some(Criterion {
            name: name?,
            sli,
            objective,
            hard: hard?,
            require: require?,
            hold_for: hold_for?,
            min_events: min_events?,
            on_fail: on_fail?,
        })
    }

    /// One word, or a list of steps.
    fn on_fail(&mut self, key: &str, node: &Node) -> Option<Vec<FailStep>> {
        let steps = |r: &mut Self, node: &Node| r.list(key, node, ON_FAIL.len(), Self::fail_step);
        self.single_or(node, |r, node| r.word(key, node, ON_FAIL).map(OnFail::at_once), steps)
    }

    fn fail_step(&mut self, _: &str, node: &Node) -> Option<FailStep> {
        let s = self.section("step", node, &["for", "do", "tell"])?;
        let after = self.or(s, "for", Span::ZERO, Self::span);
        let act = self.need(s, "do", |r, k, n| r.word(k, n, ON_FAIL));
        let tell = self.or(s, "tell", Vec::new(), |r, k, n| r.list(k, n, STAGES_MAX, Self::token));
        Some(FailStep { after: after?, act: act?, tell: tell? })
    }

    fn activity(&mut self, _: &str, node: &Node) -> Option<Activity> {
        let s = self.section("activity", node, &["every", "run", "within", "on_fail"])?;
        let every = self.need(s, "every", Self::span);
        let run = self.need(s, "run", Self::token);
        let within = self.or(s, "within", ENTER_WITHIN, Self::span);
        let on_fail = self.or(s, "on_fail", OnFail::Hold, |r, k, n| r.word(k, n, ON_FAIL));
        Some(Activity { every: every?, run: run?, within: within?, on_fail: on_fail? })
    }

    fn freeze(&mut self, _: &str, node: &Node) -> Option<Freeze> {
        let s = self.section("freeze", node, &["from", "to", "zone"])?;
        let from = self.need(s, "from", Self::token);
        let to = self.need(s, "to", Self::token);
        let zone = self.or(s, "zone", Zone::default(), Self::token);
        Some(Freeze { from: from?, to: to?, zone: zone? })
    }

    /// Nothing for a `must` that is still there: `short` has told what is wrong with it.
    fn objective(&mut self, kind: &str, node: &Node) -> Option<(SliName, Objective)> {
        let keys: &[&str] = match kind {
            "must" => {
                self.note(|| json!({ "type": "string", "maxLength": SENTENCE_MAX, "examples": EXAMPLES }));
                return None;
            }
            "ratio" => &["sli", "max", "target", "bad"],
            "zero" => &["sli", "bad"],
            "quantile" => &["sli", "q", "max", "target"],
            "number" => &["sli", "number", "min", "max", "target"],
            "compare" => &["sli", "times", "bad"],
            "compare_latency" => &["sli", "q", "times"],
            "rising" => &["sli", "number"],
            "stable" => &["sli", "number", "within", "uptime"],
            "burn" => &["sli", "slo", "period", "spend", "bad"],
            _ => &["sli", "slots"],
        };
        let s = self.section(kind, node, keys)?;
        let sli = self.need(s, "sli", Self::token);
        let bad = |r: &mut Self| r.or(s, "bad", Vec::new(), |r, k, n| r.list(k, n, STAGES_MAX, Self::token));
        let objective = match kind {
            "ratio" => {
                let max = self.need(s, "max", Self::ratio);
                let target = self.or(s, "target", None, |r, k, n| r.ratio(k, n).map(Some));
                Objective::Ratio { bad: bad(self)?, max: max?, target: target? }
            }
            "zero" => Objective::Zero { bad: bad(self)? },
            "quantile" => {
                let quantile = self.need(s, "q", Self::ratio);
                let max = self.need(s, "max", Self::span);
                let target = self.or(s, "target", None, |r, k, n| r.span(k, n).map(Some));
                Objective::Quantile { quantile: quantile?, max: max?, target: target? }
            }
            "number" => {
                let number = self.need(s, "number", Self::token);
                let mut limit = |key| self.or(s, key, None, |r, k, n| r.number(k, n).map(Some));
                let (min, max, target) = (limit("min"), limit("max"), limit("target"));
                Objective::Number { number: number?, min: min?, max: max?, target: target? }
            }
            "compare" => {
                let times = self.or(s, "times", TIMES, Self::times);
                Objective::Compare { bad: bad(self)?, times: times? }
            }
            "compare_latency" => {
                let quantile = self.or(s, "q", None, |r, k, n| r.ratio(k, n).map(Some));
                let times = self.or(s, "times", TIMES_LATENCY, Self::times);
                Objective::CompareLatency { quantile: quantile?, times: times? }
            }
            "rising" => Objective::Rising { number: self.need(s, "number", Self::token)? },
            "stable" => {
                let number = self.need(s, "number", Self::token);
                let within = self.need(s, "within", Self::ratio);
                let uptime = self.or(s, "uptime", None, |r, k, n| r.token(k, n).map(Some));
                Objective::Stable { number: number?, within: within?, uptime: uptime? }
            }
            "burn" => {
                let slo = self.need(s, "slo", Self::ratio);
                let period = self.need(s, "period", Self::span);
                let spend = self.or(s, "spend", SPEND, Self::ratio);
                Objective::Burn { bad: bad(self)?, slo: slo?, period: period?, spend: spend? }
            }
            _ => Objective::Consecutive { slots: self.need(s, "slots", Self::count)? },
        };
        Some((sli?, objective))
    }

    fn stage(&mut self, node: &Node, root: &Node) -> Option<Stage> {
        let s = self.section("stage", node, STAGE)?;
        let name = self.need(s, "name", Self::token);
        let names = |r: &mut Self, key, max| r.or(s, key, None, |r, k, n| r.list(k, n, max, Self::token).map(Some));
        let regions = names(self, "regions", STAGES_MAX);
        self.waves(s);
        let criteria = self.or(s, "criteria", None, |r, k, n| r.list(k, n, CRITERIA_MAX, Self::token).map(Some));
        let cohorts = self.or(s, "cohorts", None, |r, k, n| {
            let known = [("canary", Cohort::Canary), ("baseline", Cohort::Baseline)];
            r.list(k, n, COHORTS.len(), |r, k, n| r.word(k, n, &known)).map(Some)
        });
        let enter = self.or(s, "enter", Vec::new(), Self::sets);
        let enter_within = self.or(s, "enter_within", ENTER_WITHIN, Self::span);
        let settle = self.or(s, "settle", Span::ZERO, Self::span);
        let soak = self.need(s, "soak", Self::span);
        let approval = self.or(s, "approval", false, Self::flag);
        let during = self.or(s, "during", Vec::new(), |r, k, n| r.list(k, n, STAGES_MAX, Self::activity));
        let irreversible = self.or(s, "irreversible", false, Self::flag);
        Some(Stage {
            name: name?,
            regions: regions?.unwrap_or_else(|| keys_of(root.get("regions"))),
            cohorts: cohorts?.unwrap_or_else(|| default_cohorts(root)),
            enter: enter?,
            enter_within: enter_within?,
            settle: settle?,
            soak: soak?,
            criteria: criteria?.unwrap_or_else(|| names_of(root.get("criteria"))),
            approval: approval?,
            during: during?,
            irreversible: irreversible?,
        })
    }

    /// Only what `waves` could not write out is still there: its shape is checked, and no more.
    fn waves(&mut self, s: Section<'_>) {
        let regions = |r: &mut Self, k: &str, n: &Node| r.list(k, n, STAGES_MAX, Self::token::<Region>);
        let _: Option<Vec<_>> = self.or(s, "waves", Vec::new(), |r, k, n| r.list(k, n, WAVES_MAX, regions));
        let _ = self.or(s, "at_most", Ratio::ZERO, Self::ratio);
    }

    fn sets(&mut self, key: &str, node: &Node) -> Option<Vec<Set>> {
        self.list(key, node, STAGES_MAX, |r, _, node| {
            let s = r.section("entry", node, &["set", "to", "run"])?;
            let lever = r.one_of(s, &["set", "run"], Self::token);
            let to = r.need_beside(s, "set", "to", Self::set_to);
            let to = if node.get("run").is_some() { Some(SetTo::Run) } else { to };
            Some(Set { lever: lever?, to: to? })
        })
    }

    fn set_to(&mut self, key: &str, node: &Node) -> Option<SetTo> {
        // Unquoted, `{release}` is a YAML map with one empty entry.
        if let [(word, value)] = node.entries()
            && value.is_nothing()
        {
            let help = format!("write it in quotes: `\"{{{}}}\"`", cut(&word.text));
            return self.bad(key, node, "a map, not a value", help);
        }
        match node.text() {
            Some("{release}") => Some(SetTo::Release),
            Some("{previous}") => Some(SetTo::Previous),
            Some(text) if text.contains(['{', '}']) => {
                self.bad(key, node, "unknown placeholder", "write `{release}`, `{previous}` or a value")
            }
            _ => {
                let value = self.value(key, node);
                self.note(|| json!({ "pattern": r"^(\{release\}|\{previous\}|[!-z|~]{1,128})$" }));
                value.map(SetTo::Value)
            }
        }
    }

    /// What a lever is set to. A number need not stand in quotes.
    fn value(&mut self, key: &str, node: &Node) -> Option<LeverValue> {
        let value = self.token(key, node);
        self.note(|| json!({ "type": ["string", "number", "boolean"] }));
        value
    }

    fn take_back(&mut self, node: &Node) -> Option<TakeBack> {
        let s = self.section("take_back", node, &["levels", "green", "within"])?;
        let green = self.or(s, "green", 3, Self::count);
        let within = self.or(s, "within", 10, Self::count);
        let levels = self.need(s, "levels", |r, k, n| {
            r.list(k, n, STAGES_MAX, |r, _, node| {
                let s = r.section("level", node, &["set", "apply_within", "automatic", "refuses"])?;
                let set = r.need(s, "set", Self::sets);
                let apply_within = r.or(s, "apply_within", ENTER_WITHIN, Self::span);
                let automatic = r.or(s, "automatic", false, Self::flag);
                let refuses = r.or(s, "refuses", Vec::new(), |r, k, n| r.list(k, n, CRITERIA_MAX, Self::token));
                let (set, apply_within) = (set?, apply_within?);
                Some(TakeBackLevel { set, apply_within, automatic: automatic?, refuses: refuses? })
            })
        });
        Some(TakeBack { levels: levels?, green: green?, within: within? })
    }
}

impl TakeBack {
    /// What a plan without `take_back` means: whatever the stages move goes back, all at once.
    fn to_previous(stages: &[Stage]) -> Self {
        let mut set: Vec<Set> = Vec::new();
        for Set { lever, to } in stages.iter().flat_map(|stage| &stage.enter) {
            if *to != SetTo::Run && set.iter().all(|own| own.lever != *lever) {
                set.push(Set { lever: lever.clone(), to: SetTo::Previous });
            }
        }
        let level = TakeBackLevel { set, apply_within: ENTER_WITHIN, automatic: false, refuses: Vec::new() };
        Self { levels: vec![level], green: 3, within: 10 }
    }
}

/// The keys of a map that are names of the right kind. The others are reported where they stand.
fn keys_of<T: FromStr>(node: Option<&Node>) -> Vec<T> {
    node.map_or(&[][..], Node::entries).iter().filter_map(|(key, _)| key.text.parse().ok()).collect()
}

/// The `name` of every item of a list.
fn names_of<T: FromStr>(node: Option<&Node>) -> Vec<T> {
    let items = node.map_or(&[][..], Node::items);
    items.iter().filter_map(|item| item.get("name")?.text()?.parse().ok()).collect()
}

fn default_cohorts(root: &Node) -> Vec<Cohort> {
    match root.get("cohorts").and_then(|cohorts| cohorts.get("baseline")) {
        Some(_) => vec![Cohort::Canary, Cohort::Baseline],
        None => vec![Cohort::Canary],
    }
}
