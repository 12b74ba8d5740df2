//! What a plan means: names that refer to nothing, values that contradict each other, criteria that
//! can never fail, and proofs that the looks cannot give.
//!
//! Works on the tree and passes over in silence what `read` has already reported, so that one run
//! shows a typo in a duration and a lever that does not exist.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::node::{Key, Node};
use super::read::OBJECTIVES;
use super::report::{FINDINGS_MAX, Finding, cut, suggest};
use super::{GRACE, SLOT};
use crate::ratio::Ratio;
use crate::sample::class;
use crate::time::Span;

/// Shortest slot. A coordinator folds every slot of every series.
const SLOT_MIN: Span = Span::from_ms(500);
/// Shortest pause between two looks of one agent.
const EVERY_MIN: Span = Span::from_ms(10);
/// Most agents of a region that can be asked to agree.
const QUORUM_MAX: u64 = 64;
/// Longest window, in slots: the judge keeps that many per series. Two days of 30 s slots are 5,760.
const WINDOW_SLOTS_MAX: u64 = 10_000;
/// Most items of a list, and entries of a map, that are looked at: every criterion meets every stage.
/// `read` refuses what is longer.
const ITEMS_MAX: usize = 256;

/// Everything that can be said without knowing the mesh.
pub(super) fn check(root: &Node) -> Vec<Finding> {
    let mut check = Check {
        root,
        slot: value(root, "slot").unwrap_or(SLOT),
        levers: keys(root.get("levers")),
        slis: names(root.get("slis")),
        criteria: names(root.get("criteria")),
        regions: keys(root.get("regions")),
        findings: Vec::new(),
    };
    check.grid();
    check.levers();
    check.slis();
    check.criteria();
    check.stages();
    check.take_back();
    check.findings
}

struct Check<'a> {
    root: &'a Node,
    slot: Span,
    levers: Vec<&'a str>,
    slis: Vec<&'a str>,
    criteria: Vec<&'a str>,
    regions: Vec<&'a str>,
    findings: Vec<Finding>,
}

impl<'a> Check<'a> {
    fn push(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// Reports the value under `key` when `wrong`, with what would be right.
    fn refuse(&mut self, wrong: bool, code: &'static str, (node, key): (&Node, &str), message: &str, help: String) {
        if wrong {
            let finding = Finding::new(code, message).help(help);
            let finding = match node.get(key) {
                Some(value) => finding.on(key, value),
                None => finding.at(&node.mark),
            };
            self.push(finding);
        }
    }

    fn grid(&mut self) {
        let (root, slot) = (self.root, self.slot);
        let grace = value(root, "grace").unwrap_or(GRACE.min(slot));
        self.refuse(slot < SLOT_MIN, "P12", (root, "slot"), "a slot too short", format!("at least {SLOT_MIN}"));
        let help = format!("at most one slot, {slot}");
        self.refuse(grace > slot, "P12", (root, "grace"), "a grace longer than a slot", help);
        let quorum = value(root, "quorum").unwrap_or(1_u64);
        let outside = !(1..=QUORUM_MAX).contains(&quorum);
        self.refuse(outside, "P12", (root, "quorum"), "a quorum that cannot be", format!("from 1 to {QUORUM_MAX}"));
    }

    fn levers(&mut self) {
        let holds = |node: &&(Key, Node)| value(&node.1, "holds_release") == Some(true);
        let entries = self.root.get("levers").map_or(&[][..], Node::entries);
        if let Some((key, _)) = entries.iter().filter(holds).nth(1) {
            let help = "keep `holds_release` on the lever whose value at start is the previous release";
            self.push(Finding::new("P12", "a second lever that holds the release").on_key(key).help(help));
        }
    }

    fn slis(&mut self) {
        self.unique("sli", self.root.get("slis"));
        for sli in items(self.root.get("slis")) {
            let short = |key| value::<Span>(sli, key).is_some_and(|span| span < EVERY_MIN);
            for key in ["every", "timeout"] {
                self.refuse(short(key), "P12", (sli, key), "too short", format!("at least {EVERY_MIN}"));
            }
            let grace = value(self.root, "grace").unwrap_or(GRACE.min(self.slot));
            let late = value(sli, "timeout").is_some_and(|timeout: Span| timeout > grace);
            let help = format!(
                "at most the grace of {grace}: a slot closes that long after its end, and a look that hangs must be in it"
            );
            self.refuse(late, "P12", (sli, "timeout"), "a timeout longer than the grace", help);
        }
    }

    fn criteria(&mut self) {
        self.unique("criterion", self.root.get("criteria"));
        for criterion in items(self.root.get("criteria")) {
            for kind in OBJECTIVES {
                if let Some(objective) = criterion.get(kind) {
                    self.refer("sli", "sli", objective.get("sli"), &self.slis.clone());
                    self.objective(criterion, kind, objective);
                    self.classes(objective);
                }
            }
            let longest = self.slot.times(WINDOW_SLOTS_MAX);
            let long = value::<Span>(criterion, "window").is_some_and(|window| window > longest);
            let help = format!("at most 10,000 slots, {longest}; without it, the whole stage counts");
            self.refuse(long, "P10", (criterion, "window"), "a window of too many slots", help);
            let used = items(self.root.get("stages")).any(|stage| criteria_of(stage, &self.criteria, criterion));
            if let Some(name) = criterion.get("name").filter(|_| !used && self.root.get("stages").is_some()) {
                let help = "name it in the `criteria` of a stage, or leave it out";
                self.push(Finding::new("W02", "no stage uses this criterion").on("name", name).help(help));
            }
        }
    }

    fn objective(&mut self, criterion: &Node, kind: &str, node: &Node) {
        let never = "this criterion can never fail";
        let ratio = |key| value::<Ratio>(node, key);
        let (whole, none) = (Ratio::ZERO.complement(), Ratio::ZERO);
        match kind {
            "ratio" => {
                let all = ratio("max") == Some(whole);
                self.refuse(all, "P11", (node, "max"), never, "write less than 100%".into());
                let beyond = ratio("target").zip(ratio("max")).is_some_and(|(target, max)| target > max);
                self.target_beyond(beyond, node);
            }
            "quantile" => {
                let edge = ratio("q").is_some_and(|q| q == whole || q == none);
                let help = "write for example `99%`; for no slow answer at all, take a `ratio`".to_owned();
                self.refuse(edge, "P12", (node, "q"), "not a quantile", help);
                let span = |key| value::<Span>(node, key);
                self.target_beyond(span("target").zip(span("max")).is_some_and(|(target, max)| target > max), node);
            }
            "number" => {
                let number = |key| node.get(key).and_then(Node::text).and_then(super::reader::number);
                let (min, max) = (number("min"), number("max"));
                let no_limit = node.get("min").is_none() && node.get("max").is_none();
                self.refuse(no_limit, "P11", (node, ""), never, "add `max: ...` or `min: ...`".into());
                let crossed = min.zip(max).is_some_and(|(min, max)| min > max);
                self.refuse(crossed, "P12", (node, "min"), "`min` above `max`", "swap the two".into());
                let target = number("target");
                let outside = target.is_some_and(|t| max.is_some_and(|max| t > max) || min.is_some_and(|min| t < min));
                self.target_beyond(outside, node);
            }
            "consecutive" => {
                let none = value::<u32>(node, "slots") == Some(0);
                self.refuse(none, "P12", (node, "slots"), "no slots", "write 1 or more".into());
            }
            _ => {}
        }
        let none = value::<u64>(criterion, "min_events") == Some(0);
        self.refuse(none, "P12", (criterion, "min_events"), "no events prove nothing", "write 1 or more".into());
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

    fn stages(&mut self) {
        self.unique("stage", self.root.get("stages"));
        let root = self.root;
        for stage in items(root.get("stages")) {
            for (key, what, known) in [
                ("regions", "region", self.regions.clone()),
                ("criteria", "criterion", self.criteria.clone()),
                ("cohorts", "", Vec::new()),
            ] {
                self.once(key, stage.get(key));
                for node in items(stage.get(key)).filter(|_| !what.is_empty()) {
                    self.refer(what, key, Some(node), &known);
                }
            }
            let baseline = root.get("cohorts").and_then(|cohorts| cohorts.get("baseline"));
            for node in items(stage.get("cohorts")).filter(|node| node.text() == Some("baseline")) {
                if baseline.is_none() {
                    let help = "add `baseline` to the plan's `cohorts`";
                    self.push(Finding::new("P04", "this plan has no baseline").on("cohorts", node).help(help));
                }
            }
            self.sets(stage.get("enter"), "{previous}", "write a value or `{release}`: a stage moves forwards");
            self.soak(stage);
        }
    }

    /// What cannot happen within the soak of a stage.
    fn soak(&mut self, stage: &Node) {
        let Some(soak) = value::<Span>(stage, "soak") else { return };
        let slot = self.slot;
        let short = soak < slot;
        self.refuse(short, "P12", (stage, "soak"), "a soak shorter than one slot", format!("at least {slot}"));
        let lasts = Lasts { soak, stage };
        for criterion in items(self.root.get("criteria")) {
            if short || !criteria_of(stage, &self.criteria, criterion) {
                continue;
            }
            for key in ["for", "window"] {
                let long = value::<Span>(criterion, key).is_some_and(|span| span > soak);
                self.refuse(long, "P11", (criterion, key), "this criterion can never fail", lasts.at_most(soak));
            }
            let rows = criterion.get("consecutive").and_then(|node| Some((node, value::<u64>(node, "slots")?)));
            if let Some((node, slots)) = rows {
                let help = lasts.at_most_number(soak.as_ms() / slot.as_ms().max(1));
                let long = slot.times(slots) > soak;
                self.refuse(long, "P11", (node, "slots"), "this criterion can never fail", help);
            }
            self.evidence(criterion, &lasts);
        }
    }

    /// What the looks of one stage can show of one criterion, with one agent in every region.
    fn evidence(&mut self, criterion: &Node, lasts: &Lasts<'_>) {
        let objective = OBJECTIVES.iter().find_map(|kind| criterion.get(kind));
        let name = objective.and_then(|node| node.get("sli")?.text());
        let sli = items(self.root.get("slis")).find(|sli| name.is_some() && text(sli, "name") == name);
        let Some(sli) = sli else { return };
        let every: Span = value(sli, "every").unwrap_or(self.slot);
        if every > lasts.soak {
            let help = lasts.at_most(lasts.soak);
            return self.refuse(true, "P11", (sli, "every"), "not one look in a whole stage", help);
        }
        let looked = value::<Span>(criterion, "window").map_or(lasts.soak, |window| window.min(lasts.soak));
        let regions = lasts.stage.get("regions").map_or(self.regions.len(), |node| node.items().len());
        let looks = (looked.as_ms() / every.as_ms().max(1)).saturating_mul(regions.max(1) as u64);
        let where_ = format!("in stage `{}`: {looked} at one look per {every}", lasts.name());
        let needed: u64 = value(criterion, "min_events").unwrap_or(1);
        if needed > looks {
            let message = format!("{looks} looks cannot be {needed} events");
            let help = format!("{where_}; without enough events it stays at no data");
            return self.refuse(true, "W03", (criterion, "min_events"), &message, help);
        }
        let max = criterion.get("ratio").and_then(|node| Some((node, value::<Ratio>(node, "max")?)));
        if let Some((node, max)) = max.filter(|(_, max)| *max > Ratio::ZERO && shown(looks) > *max) {
            let message = format!("{looks} looks cannot show {max}");
            let help = format!("without one failure they show {} (95 % bound)", shown(looks));
            let finding = Finding::new("W03", message).help(help).note(where_);
            let finding = finding.note("a failure is seen all the same; a pass stays unproven");
            self.push(node.get("max").map_or(finding.clone(), |value| finding.on("max", value)));
        }
    }

    fn take_back(&mut self) {
        let Some(take_back) = self.root.get("take_back") else { return };
        let green: u64 = value(take_back, "green").unwrap_or(3);
        let within: u64 = value(take_back, "within").unwrap_or(10);
        self.refuse(green == 0, "P12", (take_back, "green"), "no green slots", "write 1 or more".into());
        let never = within < green;
        let help = format!("write {green} or more");
        self.refuse(never, "P11", (take_back, "within"), "recovery can never be seen", help);
        let mut covered = BTreeSet::new();
        for level in items(take_back.get("levels")) {
            self.sets(level.get("set"), "{release}", "write a value or `{previous}`: taking back moves backwards");
            let mut here = BTreeSet::new();
            for lever in items(level.get("set")).filter_map(|set| set.get("set")) {
                if !here.insert(lever.text()) {
                    let help = "a level sets all its levers at once: keep one";
                    self.push(Finding::new("P07", "a lever that is set twice").on("set", lever).help(help));
                }
            }
            covered.extend(here);
        }
        let moved = items(self.root.get("stages")).flat_map(|stage| items(stage.get("enter")));
        let moved: BTreeSet<_> = moved.filter_map(|set| set.get("set")?.text()).collect();
        let left: Vec<&str> = moved.into_iter().filter(|lever| !covered.contains(&Some(*lever))).collect();
        let message = format!("no level takes back `{}`", cut(&left.join("`, `")));
        let help = "the stages move it: set it to `{previous}` in a level".to_owned();
        self.refuse(!left.is_empty(), "P12", (take_back, "levels"), &message, help);
    }

    /// Levers of `node`, and a placeholder that is wrong there.
    fn sets(&mut self, node: Option<&Node>, wrong: &str, help: &str) {
        for set in items(node) {
            self.refer("lever", "set", set.get("set"), &self.levers.clone());
            let here = text(set, "to") == Some(wrong);
            self.refuse(here, "P12", (set, "to"), "a placeholder in the wrong place", help.to_owned());
        }
    }

    /// The name under `key` must be one of `known`.
    fn refer(&mut self, what: &str, key: &str, node: Option<&Node>, known: &[&str]) {
        let Some((node, text)) = node.and_then(|node| Some((node, node.text()?))) else { return };
        if !node.is_nothing() && !known.contains(&text) && self.findings.len() < FINDINGS_MAX {
            let message = format!("unknown {what} `{}`", cut(text));
            self.push(Finding::new("P04", message).on(key, node).help(suggest(text, known.iter().copied())));
        }
    }

    /// Items whose `name` another one has.
    fn unique(&mut self, what: &str, list: Option<&Node>) {
        let mut seen = BTreeSet::new();
        for name in items(list).filter_map(|item| item.get("name")) {
            if name.text().is_some_and(|text| !seen.insert(text)) {
                let message = format!("a second {what} `{}`", cut(name.text().unwrap_or_default()));
                self.push(Finding::new("P07", message).on("name", name).help("give it another name"));
            }
        }
    }

    /// Items that are there twice.
    fn once(&mut self, key: &str, list: Option<&Node>) {
        let mut seen = BTreeSet::new();
        for node in items(list).filter(|node| node.text().is_some()) {
            if !seen.insert(node.text()) {
                self.push(Finding::new("P07", "the same one twice").on(key, node).help("keep one of the two"));
            }
        }
    }
}

/// A stage, and how long it soaks.
struct Lasts<'a> {
    soak: Span,
    stage: &'a Node,
}

impl Lasts<'_> {
    fn name(&self) -> String {
        cut(text(self.stage, "name").unwrap_or("?"))
    }

    fn at_most(&self, span: Span) -> String {
        self.at_most_number(span)
    }

    fn at_most_number(&self, most: impl std::fmt::Display) -> String {
        let line = self.stage.get("soak").map_or(0, |node| node.mark.line);
        format!("stage `{}` lasts {} (line {line}); write at most `{most}`", self.name(), self.soak)
    }
}

/// The share of bad answers that `looks` without one bad answer still allow: the exact 95 % bound.
fn shown(looks: u64) -> Ratio {
    // Only printed and compared with a limit in a warning, so the last digit of `powf` is no matter.
    let bound = 1.0 - 0.05_f64.powf(1.0 / looks.max(1) as f64);
    Ratio::from_ppb((bound * 1e5).round() as u32 * 10_000)
}

fn items(list: Option<&Node>) -> impl Iterator<Item = &Node> {
    list.map_or(&[][..], Node::items).iter().take(ITEMS_MAX)
}

fn keys(map: Option<&Node>) -> Vec<&str> {
    map.map_or(&[][..], Node::entries).iter().take(ITEMS_MAX).map(|(key, _)| key.text.as_str()).collect()
}

fn names(list: Option<&Node>) -> Vec<&str> {
    items(list).filter_map(|item| text(item, "name")).collect()
}

fn text<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.get(key)?.text()
}

fn value<T: FromStr>(node: &Node, key: &str) -> Option<T> {
    text(node, key)?.parse().ok()
}

/// Whether `stage` uses `criterion`; without `criteria` it uses all.
fn criteria_of(stage: &Node, all: &[&str], criterion: &Node) -> bool {
    let Some(name) = text(criterion, "name") else { return false };
    stage.get("criteria").map_or(all.contains(&name), |list| items(Some(list)).any(|own| own.text() == Some(name)))
}
