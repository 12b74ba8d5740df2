//! What a plan means: names that refer to nothing, and values that contradict each other. What its
//! criteria mean is in `criteria`.
//!
//! Works on the tree and passes over in silence what `read` has already reported, so that one run
//! shows a typo in a duration and a lever that does not exist.

mod criteria;

use std::collections::BTreeSet;
use std::str::FromStr;

use super::node::Node;
use super::report::{FINDINGS_MAX, Finding, cut, suggest};
use super::{ENTER_WITHIN, Edge, Freeze, GRACE, SLOT, Zone};
use crate::ratio::Ratio;
use crate::time::Span;

/// Shortest slot. A coordinator folds every slot of every series.
const SLOT_MIN: Span = Span::from_ms(500);
/// Shortest pause between two looks of one agent.
const EVERY_MIN: Span = Span::from_ms(10);
/// Most agents of a region that can be asked to agree.
const QUORUM_MAX: u64 = 64;
/// Largest chance of a false alarm that makes sense to ask for.
const ALPHA_MAX: Ratio = Ratio::from_ppb(500_000_000);
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
    check.unjudged();
    check.stages();
    check.take_back();
    check.freezes();
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
        let outside = value(root, "alpha").is_some_and(|alpha: Ratio| alpha == Ratio::ZERO || alpha > ALPHA_MAX);
        let help =
            format!("more than 0% and at most {ALPHA_MAX}: how often a release within every limit is taken back");
        self.refuse(outside, "P12", (root, "alpha"), "a chance of false alarms that cannot be", help);
    }

    fn levers(&mut self) {
        for (_, lever) in self.root.get("levers").map_or(&[][..], Node::entries).iter().take(ITEMS_MAX) {
            self.steps(lever, "on_drift");
            self.once("regions", lever.get("regions"));
            for region in items(lever.get("regions")) {
                self.refer("region", "regions", Some(region), &self.regions.clone());
            }
        }
    }

    /// While a share of the traffic gets the old release, that can be looked at beside the new one.
    fn split(&mut self, stage: &'a Node, share: &mut Option<&'a Node>) {
        let shares = items(stage.get("enter")).filter_map(|set| set.get("to"));
        *share = shares.filter(|to| to.text().is_some_and(|text| text.parse::<Ratio>().is_ok())).last().or(*share);
        let part = share.and_then(|to| Some((to, to.text()?.parse::<Ratio>().ok()?)));
        let part = part.filter(|(_, part)| *part > Ratio::ZERO && *part < Ratio::ZERO.complement());
        let has_baseline = self.root.get("cohorts").is_some_and(|cohorts| cohorts.get("baseline").is_some());
        let (Some((to, part)), Some(cohorts)) = (part.filter(|_| has_baseline), stage.get("cohorts")) else { return };
        let look = |cohort: &str| items(Some(cohorts)).find(|node| node.text() == Some(cohort));
        if let Some(canary) = look("canary").filter(|_| look("baseline").is_none()) {
            let help = format!("the old release still answers (`{part}`, {}); look at it too", to.mark.place());
            let finding = Finding::new("W05", "canary-only: a bad day would be blamed on the release");
            self.push(finding.on("cohorts", canary).help(help).note("leave `cohorts` out to look at both"));
        }
    }

    /// In one stage, one lever holds the release of a region.
    fn releases(&mut self, stage: &Node) {
        let mut held: Vec<(&Node, Vec<&str>)> = Vec::new();
        for set in items(stage.get("enter")).filter_map(|set| set.get("set")) {
            let lever = set.text().and_then(|name| self.root.get("levers")?.get(name));
            let Some(lever) = lever.filter(|lever| value(lever, "holds_release") == Some(true)) else { continue };
            let own: Vec<&str> = match lever.get("regions") {
                Some(own) => items(Some(own)).filter_map(Node::text).collect(),
                None => self.regions.clone(),
            };
            let is_other = |(other, regions): &&(&Node, Vec<&str>)| {
                other.text() != set.text() && regions.iter().any(|region| own.contains(region))
            };
            if let Some((other, _)) = held.iter().find(is_other) {
                let message = format!("it holds the release, and so does `{}`", cut(other.text().unwrap_or_default()));
                let help = "write the `regions` of each at these levers, so that it is known which one answers";
                self.push(Finding::new("P12", message).on("set", set).help(help));
            }
            held.push((set, own));
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

    /// What is looked at, and counts for nothing.
    fn unjudged(&mut self) {
        let root = self.root;
        let known = |sli: &&str| self.slis.contains(sli);
        let own = |criterion: &'a Node| criterion.entries().iter().map(|(_, objective)| objective).chain([criterion]);
        let sli = |criterion| own(criterion).find_map(|node| text(node, "sli")).filter(known);
        // A criterion that is not understood may mean any of them.
        let judged: Option<BTreeSet<_>> = items(root.get("criteria")).map(sli).collect();
        let Some(mut used) = judged.filter(|judged| !judged.is_empty()) else { return };
        let levels = items(root.get("take_back").and_then(|take_back| take_back.get("levels")));
        used.extend(levels.flat_map(|level| items(level.get("refuses"))).filter_map(Node::text));
        for name in items(root.get("slis")).filter_map(|sli| sli.get("name")) {
            if name.text().is_some_and(|text| !used.contains(text)) {
                let help = "add a criterion such as `must: \"error_ratio < 1%\"` with this `sli`, or leave it out";
                self.push(Finding::new("W06", "no criterion judges this SLI").on("name", name).help(help));
            }
        }
    }

    fn stages(&mut self) {
        self.unique("stage", self.root.get("stages"));
        let root = self.root;
        let mut share = None;
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
            self.releases(stage);
            self.split(stage, &mut share);
            self.during(stage);
            self.soak(stage);
        }
    }

    fn soak(&mut self, stage: &Node) {
        let Some(soak) = value::<Span>(stage, "soak") else { return };
        let slot = self.slot;
        let short = soak < slot;
        self.refuse(short, "P12", (stage, "soak"), "a soak shorter than one slot", format!("at least {slot}"));
        if !short {
            self.criteria_within(&Lasts { soak, stage });
        }
    }

    fn during(&mut self, stage: &Node) {
        for activity in items(stage.get("during")) {
            self.runs(activity);
            let every = value::<Span>(activity, "every");
            let help = format!("at least one slot, {}", self.slot);
            self.refuse(every.is_some_and(|every| every < self.slot), "P12", (activity, "every"), "too often", help);
            let within = value(activity, "within").unwrap_or(ENTER_WITHIN);
            let late = every.is_some_and(|every| within > every);
            let help = "a run must be over before the next one begins".to_owned();
            self.refuse(late, "P12", (activity, "within"), "longer than `every`", help);
        }
    }

    /// What is run must be a lever that runs something.
    fn runs(&mut self, node: &Node) {
        self.refer("lever", "run", node.get("run"), &self.levers.clone());
        let lever = text(node, "run").and_then(|name| self.root.get("levers")?.get(name));
        let wrong = lever.is_some_and(|lever| value(lever, "runs") != Some(true));
        let help = "write `runs: true` at that lever, or `set: ...` and `to: ...` here".to_owned();
        self.refuse(wrong, "P12", (node, "run"), "a lever that does not run anything", help);
    }

    fn freezes(&mut self) {
        for freeze in items(self.root.get("freeze")) {
            let edges = value::<Edge>(freeze, "from").zip(value::<Edge>(freeze, "to"));
            let never = edges.is_some_and(|(from, to)| !Freeze { from, to, zone: Zone::default() }.is_sound());
            let help = "write two times of the week, or two dates, the earlier one first".to_owned();
            self.refuse(never, "P11", (freeze, "to"), "a freeze that never is", help);
        }
    }

    /// An SLI that is to be refused needs to know a refusal when it sees one.
    fn refuses(&mut self, level: &Node) {
        self.once("refuses", level.get("refuses"));
        for node in items(level.get("refuses")) {
            self.refer("sli", "refuses", Some(node), &self.slis.clone());
            let sli = items(self.root.get("slis")).find(|sli| text(sli, "name") == node.text());
            let knows = |sli: &Node| sli.entries().iter().any(|(_, settings)| settings.get("refusal").is_some());
            if sli.is_some_and(|sli| !knows(sli)) {
                let help = "add for example `refusal: [\"status == 503\"]` to its probe";
                self.push(Finding::new("P11", "this refusal can never be seen").on("refuses", node).help(help));
            }
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
            self.refuses(level);
            let mut here = BTreeSet::new();
            for lever in items(level.get("set")).filter_map(|set| set.get("set")) {
                if !here.insert(lever.text()) {
                    let help = "a level sets all its levers at once: keep one";
                    self.push(Finding::new("P07", "a lever that is set twice").on("set", lever).help(help));
                }
            }
            covered.extend(here);
        }
        self.unproven(take_back);
        let moved = items(self.root.get("stages")).flat_map(|stage| items(stage.get("enter")));
        let moved: BTreeSet<_> = moved.filter_map(|set| set.get("set")?.text()).collect();
        let left: Vec<&str> = moved.into_iter().filter(|lever| !covered.contains(&Some(*lever))).collect();
        let message = format!("no level takes back `{}`", cut(&left.join("`, `")));
        let help = "the stages move it: set it to `{previous}` in a level".to_owned();
        self.refuse(!left.is_empty(), "P12", (take_back, "levels"), &message, help);
    }

    /// A refusal that the first level must see, and a later one need not.
    fn unproven(&mut self, take_back: &Node) {
        let off = |set: &Node| {
            let lever = text(set, "set").filter(|lever| {
                let own = self.root.get("levers").and_then(|levers| levers.get(lever));
                own.and_then(|own| text(own, "off")).is_some_and(|off| text(set, "to") == Some(off))
            });
            lever.map(str::to_owned)
        };
        let mut levels = items(take_back.get("levels"));
        let Some(first) = levels.next() else { return };
        let Some(proof) = first.get("refuses") else { return };
        let flags: BTreeSet<String> = items(first.get("set")).filter_map(off).collect();
        let mut findings = Vec::new();
        for (level, number) in levels.zip(2..).filter(|(level, _)| level.get("refuses").is_none()) {
            let Some(set) = items(level.get("set")).find(|set| off(set).is_some_and(|lever| flags.contains(&lever)))
            else {
                continue;
            };
            let lever = cut(text(set, "set").unwrap_or_default());
            let message = format!("level {number} switches `{lever}` off, and need not see the refusal");
            let slis: Vec<&str> = items(Some(proof)).filter_map(Node::text).collect();
            let help = format!("as in level 1 ({}): `refuses: [{}]`", proof.mark.place(), cut(&slis.join(", ")));
            let finding = Finding::new("W04", message).help(help);
            findings.extend(set.get("set").map(|place| finding.on("set", place)));
        }
        findings.into_iter().for_each(|finding| self.push(finding));
    }

    /// Levers of `node`, and a placeholder that is wrong there.
    fn sets(&mut self, node: Option<&Node>, wrong: &str, help: &str) {
        for set in items(node) {
            self.runs(set);
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
