//! What a plan's criteria mean: limits that contradict each other, criteria that can never fail in a
//! stage that uses them, and proofs that its looks cannot give.

use super::{Check, EVERY_MIN, Lasts, QUORUM_MAX, items, keys, text, value};
use crate::plan::node::Node;
use crate::plan::read::OBJECTIVES;
use crate::plan::report::{FINDINGS_MAX, Finding, cut, suggest};
use crate::plan::{SPEND, number};
use crate::power::{clean_needed, proven_by};
use crate::ratio::{ONE_PPB, Ratio, Times};
use crate::sample::class;
use crate::time::{SPAN_MAX, Span};

const NEVER: &str = "this criterion can never fail";
/// A level is looked at in so many buckets at the earliest, of one slot at the shortest.
const BUCKETS_MIN: u64 = 24;
/// Before that an eighth of the soak does not count, at most half an hour: caches fill.
const WARM_UP_PART: u64 = 8;
const WARM_UP_MAX: Span = Span::from_secs(1_800);
/// All of it.
const WHOLE: Ratio = Ratio::ZERO.complement();

impl<'a> Check<'a> {
    pub(super) fn criteria(&mut self) {
        self.unique("criterion", self.root.get("criteria"));
        for criterion in items(self.root.get("criteria")) {
            // A sentence that could not be written out still names its SLI.
            self.refer("sli", "sli", criterion.get("sli"), &self.slis.clone());
            for kind in OBJECTIVES {
                if let Some(objective) = criterion.get(kind) {
                    self.refer("sli", "sli", objective.get("sli"), &self.slis.clone());
                    self.numbers(objective);
                    self.objective(kind, objective);
                    self.classes(objective);
                    self.require(criterion, kind);
                }
            }
            self.steps(criterion, "on_fail");
            let none = value::<u64>(criterion, "min_events") == Some(0);
            self.refuse(none, "P12", (criterion, "min_events"), "no events prove nothing", "write 1 or more".into());
            let used = items(self.root.get("stages")).any(|stage| is_used(stage, &self.criteria, criterion));
            if let Some(name) = criterion.get("name").filter(|_| !used && self.root.get("stages").is_some()) {
                let help = "name it in the `criteria` of a stage, or leave it out";
                self.push(Finding::new("W02", "no stage uses this criterion").on("name", name).help(help));
            }
        }
    }

    fn objective(&mut self, kind: &str, node: &Node) {
        match kind {
            "ratio" => self.ratio(node),
            "quantile" => {
                self.quantile(node);
                let span = |key| value::<Span>(node, key);
                self.target_beyond(span("target").zip(span("max")).is_some_and(|(target, max)| target > max), node);
            }
            "number" => self.number(node),
            "consecutive" => {
                let none = value::<u32>(node, "slots") == Some(0);
                self.refuse(none, "P12", (node, "slots"), "no slots", "write 1 or more".into());
            }
            "compare" | "compare_latency" => {
                self.quantile(node);
                let below = value::<Times>(node, "times").is_some_and(|times| times < Times::ONE);
                let help = "a release as good as the one before would fail: write `1x` or more".to_owned();
                self.refuse(below, "P12", (node, "times"), "a factor below 1", help);
                let alone = self.root.get("cohorts").and_then(|cohorts| cohorts.get("baseline")).is_none();
                let help = "it compares with a baseline: add `baseline` to the plan's `cohorts`".to_owned();
                self.refuse(alone, "P11", (node, ""), NEVER, help);
            }
            "stable" => {
                let none = value(node, "within") == Some(Ratio::ZERO);
                let help = "no level stands still: write for example `5%`".to_owned();
                self.refuse(none, "P12", (node, "within"), "no room to move", help);
            }
            "burn" => self.burn(node),
            _ => {}
        }
    }

    fn ratio(&mut self, node: &Node) {
        let ratio = |key| value::<Ratio>(node, key);
        self.refuse(ratio("max") == Some(WHOLE), "P11", (node, "max"), NEVER, "write less than 100%".into());
        for key in ["max", "target"] {
            let help = "for not one bad answer write `must: no errors`, or the objective `zero`".to_owned();
            self.refuse(ratio(key) == Some(Ratio::ZERO), "P12", (node, key), "a share of nothing", help);
        }
        self.target_beyond(ratio("target").zip(ratio("max")).is_some_and(|(target, max)| target > max), node);
    }

    fn quantile(&mut self, node: &Node) {
        let edge = value(node, "q").is_some_and(|q: Ratio| q == WHOLE || q == Ratio::ZERO);
        let help = "write for example `99%`; for no slow answer at all, take a `ratio`".to_owned();
        self.refuse(edge, "P12", (node, "q"), "not a quantile", help);
    }

    fn number(&mut self, node: &Node) {
        let limit = |key| node.get(key).and_then(Node::text).and_then(number::read);
        let (min, max, target) = (limit("min"), limit("max"), limit("target"));
        let no_limit = node.get("min").is_none() && node.get("max").is_none();
        self.refuse(no_limit, "P11", (node, ""), NEVER, "add `max: ...` or `min: ...`".into());
        let crossed = min.zip(max).is_some_and(|(min, max)| min > max);
        self.refuse(crossed, "P12", (node, "min"), "`min` above `max`", "swap the two".into());
        let outside = target.is_some_and(|t| max.is_some_and(|max| t > max) || min.is_some_and(|min| t < min));
        self.target_beyond(outside, node);
    }

    fn burn(&mut self, node: &Node) {
        let slo = value::<Ratio>(node, "slo");
        let help = "write less than 100%; for not one bad answer, `must: no errors`".to_owned();
        self.refuse(slo == Some(WHOLE), "P12", (node, "slo"), "an SLO without an error budget", help);
        let none = value(node, "spend") == Some(Ratio::ZERO);
        self.refuse(none, "P12", (node, "spend"), "nothing to spend", "write for example `10%`".into());
        let none = value(node, "period") == Some(Span::ZERO);
        self.refuse(none, "P12", (node, "period"), "a period of no time", "write for example `30d`".into());
    }

    fn target_beyond(&mut self, beyond: bool, node: &Node) {
        let help = "a target warns before the limit is reached: write a stricter one".to_owned();
        self.refuse(beyond, "P12", (node, "target"), "a target beyond the limit", help);
    }

    fn classes(&mut self, objective: &Node) {
        for node in items(objective.get("bad")) {
            let Some(text) = node.text() else { continue };
            if text == class::OK {
                let help = "name the classes that count as bad";
                self.push(Finding::new("P12", "good answers counted as bad").on("bad", node).help(help));
            } else if !class::ALL.contains(&text) {
                let help = suggest(text, class::ALL);
                let message = format!("no probe is known to report `{}`", cut(text));
                self.push(Finding::new("W01", message).on("bad", node).help(help));
            }
        }
    }

    /// A probe whose settings list `numbers` reports these and no others.
    fn numbers(&mut self, objective: &Node) {
        let Some(sli) = self.sli_of(objective) else { return };
        let Some(known) = sli.entries().iter().find_map(|(_, settings)| settings.get("numbers")) else { return };
        for key in ["number", "uptime"] {
            self.refer("number", key, objective.get(key), &keys(Some(known)));
        }
    }

    fn require(&mut self, criterion: &Node, kind: &str) {
        let has_proof = ["ratio", "quantile", "compare", "compare_latency"].contains(&kind);
        let wrong = !has_proof && text(criterion, "require") == Some("proven");
        let help = "leave it out: all that can be asked of this one is that it did not fail".to_owned();
        let message = format!("nothing that `{kind}` could prove");
        self.refuse(wrong, "P12", (criterion, "require"), &message, help);
    }

    /// Steps follow each other in time.
    pub(super) fn steps(&mut self, node: &Node, key: &str) {
        let mut last = None;
        for step in items(node.get(key)) {
            let after = value::<Span>(step, "for").unwrap_or_default();
            let early = last.is_some_and(|last| after <= last);
            let help = "each step begins later than the one before it".to_owned();
            self.refuse(early, "P12", (step, "for"), "steps out of order", help);
            last = last.max(Some(after));
        }
    }

    /// What cannot happen within the soak of a stage.
    pub(super) fn criteria_within(&mut self, lasts: &Lasts<'_>) {
        let Lasts { soak, stage } = *lasts;
        for criterion in items(self.root.get("criteria")) {
            if !is_used(stage, &self.criteria, criterion) {
                continue;
            }
            let long = value::<Span>(criterion, "for").is_some_and(|span| span > soak);
            self.refuse(long, "P11", (criterion, "for"), NEVER, lasts.at_most(soak));
            for step in items(criterion.get("on_fail")) {
                let long = value::<Span>(step, "for").is_some_and(|span| span > soak);
                self.refuse(long, "P11", (step, "for"), "this step can never begin", lasts.at_most(soak));
            }
            if let Some((node, slots)) = both(criterion, "consecutive", "slots") {
                let most = soak.as_ms() / self.slot.as_ms().max(1);
                let long = self.slot.times(slots) > soak;
                self.refuse(long, "P11", (node, "slots"), NEVER, lasts.at_most(most));
            }
            self.pair(criterion, lasts);
            self.budget(criterion, lasts);
            self.buckets(criterion, lasts);
            self.evidence(criterion, lasts);
        }
    }

    /// A comparison needs both cohorts.
    fn pair(&mut self, criterion: &Node, lasts: &Lasts<'_>) {
        let node = criterion.get("compare").or_else(|| criterion.get("compare_latency"));
        let (Some(node), Some(cohorts)) = (node, lasts.stage.get("cohorts")) else { return };
        let alone = ["canary", "baseline"].iter().any(|own| items(Some(cohorts)).all(|node| node.text() != Some(*own)));
        let help = format!(
            "stage `{}` looks at one cohort alone ({}); look at both there, or leave this out of its `criteria`",
            lasts.name(),
            cohorts.mark.place()
        );
        self.refuse(alone, "P11", (node, ""), NEVER, help);
    }

    /// An outage of the whole soak must be able to spend what may be spent.
    fn budget(&mut self, criterion: &Node, lasts: &Lasts<'_>) {
        let burn = both(criterion, "burn", "slo").and_then(|(node, slo)| Some((node, slo, value(node, "period")?)));
        let Some((node, slo, period)): Option<(_, Ratio, Span)> = burn else { return };
        let whole = u128::from(period.as_ms()) * u128::from(slo.complement().ppb());
        let outage = u128::from(lasts.soak.as_ms()) * u128::from(ONE_PPB) * u128::from(ONE_PPB);
        let spend: Ratio = value(node, "spend").unwrap_or(SPEND);
        if whole > 0 && whole * u128::from(spend.ppb()) >= outage {
            let share = u32::try_from(outage / whole).unwrap_or(ONE_PPB);
            let share = Ratio::from_ppb(share / 10_000 * 10_000);
            let lasts = format!("stage `{}` lasts {} ({})", lasts.name(), lasts.soak, lasts.place());
            let help = format!("{lasts}; an outage of all of it spends {share} of the budget: write less");
            self.refuse(true, "P11", (node, "spend"), "so much can never be spent", help);
        }
    }

    /// A level is looked at in buckets of at least a slot, after a warm-up.
    fn buckets(&mut self, criterion: &Node, lasts: &Lasts<'_>) {
        let Some(node) = criterion.get("stable") else { return };
        let slot = self.slot.as_ms().max(1);
        let buckets = |planned: u64| planned - (planned * slot / WARM_UP_PART).min(WARM_UP_MAX.as_ms()) / slot;
        let shown = buckets(lasts.soak.as_ms() / slot);
        let least = (BUCKETS_MIN..).find(|planned| buckets(*planned) >= BUCKETS_MIN).unwrap_or(BUCKETS_MIN);
        if shown < BUCKETS_MIN {
            let least = self.slot.times(least);
            let help =
                format!("the first look needs {BUCKETS_MIN} buckets after the warm-up: soak for {least} or more");
            let message = format!("{shown} slots cannot show whether a level is stable");
            let where_ = format!("in stage `{}` ({})", lasts.name(), lasts.place());
            self.push(Finding::new("W03", message).at(&node.mark).help(help).note(where_));
        }
    }

    /// What the looks of one stage can show of one criterion, with one agent in every region.
    fn evidence(&mut self, criterion: &Node, lasts: &Lasts<'_>) {
        let objective = OBJECTIVES.iter().find_map(|kind| criterion.get(kind));
        let Some(sli) = objective.and_then(|node| self.sli_of(node)) else { return };
        let soak = lasts.soak;
        let every: Span = value(sli, "every").unwrap_or(self.slot);
        if every > soak {
            return self.refuse(true, "P11", (sli, "every"), "not one look in a whole stage", lasts.at_most(soak));
        }
        // Only a probe's look is one event; a source that counts elsewhere may find any number in one.
        if sli.get("http").is_none() {
            return;
        }
        let regions = lasts.stage.get("regions").map_or(self.regions.len(), |node| node.items().len());
        let quorum = value(self.root, "quorum").unwrap_or(1_u64).clamp(1, QUORUM_MAX);
        let at_once = (regions.max(1) as u64).saturating_mul(quorum);
        let looks = (soak.as_ms() / every.as_ms().max(1)).saturating_mul(at_once);
        let name = cut(text(criterion, "name").unwrap_or("?"));
        let where_ = format!("`{name}` in stage `{}`: {soak} at one look per {every}", lasts.name());
        let needed: u64 = value(criterion, "min_events").unwrap_or(1);
        if needed > looks {
            let message = format!("{} looks cannot be {} events", number::thousands(looks), number::thousands(needed));
            let help = format!("{where_}; without enough events it stays at no data");
            return self.refuse(true, "W03", (criterion, "min_events"), &message, help);
        }
        // What is to be proven: the target where there is one.
        let proof = ["target", "max"].into_iter().find_map(|key| both::<Ratio>(criterion, "ratio", key).zip(Some(key)));
        let Some(((node, limit), key)) = proof else { return };
        let needed = clean_needed(limit);
        if limit > Ratio::ZERO && looks < needed && self.findings.len() < FINDINGS_MAX {
            let unproven = match text(criterion, "require") {
                Some("proven") => "`require: proven` keeps the stage from being left: look more often, or for longer",
                _ => "a failure is seen all the same; a pass stays unproven",
            };
            let finding = Finding::new("W03", format!("{} looks cannot show {limit}", number::thousands(looks)));
            let shown = proven_by(looks);
            let finding = finding.help(format!("{soak} without one failure shows {shown} (95 % bound)"));
            let finding = finding.note(where_).note(to_prove(lasts.soak, every, needed, at_once)).note(unproven);
            let place = sli.get("every").map(|value| ("every", value)).or(node.get(key).map(|value| (key, value)));
            self.push(place.map_or(finding.clone(), |(key, value)| finding.on(key, value)));
        }
    }

    /// The SLI that an objective judges.
    fn sli_of(&self, objective: &Node) -> Option<&'a Node> {
        let name = text(objective, "sli")?;
        items(self.root.get("slis")).find(|sli| text(sli, "name") == Some(name))
    }
}

impl Lasts<'_> {
    fn name(&self) -> String {
        cut(text(self.stage, "name").unwrap_or("?"))
    }

    /// Where it says how long it soaks.
    fn place(&self) -> String {
        self.stage.get("soak").unwrap_or(self.stage).mark.place()
    }

    fn at_most(&self, most: impl std::fmt::Display) -> String {
        format!("stage `{}` lasts {} ({}); write at most `{most}`", self.name(), self.soak, self.place())
    }
}

/// What would give `needed` looks, of which so many are `at_once`: looking more often, or for longer.
fn to_prove(soak: Span, every: Span, needed: u64, at_once: u64) -> String {
    let rounds = needed.div_ceil(at_once.max(1)).max(1);
    // In two units at most: a little more often, a little longer.
    let often = soak.as_ms() / rounds;
    let often = Span::from_ms(often - often % if often < 1_000 { 10 } else { 1_000 });
    let long = every.as_ms().saturating_mul(rounds);
    let unit = [(86_400_000, 3_600_000), (3_600_000, 60_000)].into_iter().find(|(least, _)| long >= *least);
    let long = long.checked_next_multiple_of(unit.map_or(1_000, |(_, unit)| unit)).unwrap_or(u64::MAX);
    let looks = format!("{} clean looks", number::thousands(needed));
    let often = if often < EVERY_MIN { looks } else { format!("`every: {often}` ({looks})") };
    let long = (long <= SPAN_MAX.as_ms()).then(|| format!(", or {} at {every}", Span::from_ms(long)));
    format!("to prove it: {often}{}", long.unwrap_or_default())
}

/// An objective of that kind, and one of its values.
fn both<'a, T: std::str::FromStr>(criterion: &'a Node, kind: &str, key: &str) -> Option<(&'a Node, T)> {
    let node = criterion.get(kind)?;
    Some((node, value(node, key)?))
}

/// Whether `stage` uses `criterion`; without `criteria` it uses all.
fn is_used(stage: &Node, all: &[&str], criterion: &Node) -> bool {
    let Some(name) = text(criterion, "name") else { return false };
    stage.get("criteria").map_or(all.contains(&name), |list| items(Some(list)).any(|own| own.text() == Some(name)))
}
