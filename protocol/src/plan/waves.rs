//! A stage with `waves`, written out: one stage for each wave, which looks at every region so far.
//!
//! Applied to the tree before anything is read, so that the judge knows only stages, and every value
//! keeps the place at which it stands. What makes no sense is reported here and left where it is; what
//! has not even the right shape is left to `read`.

use std::collections::BTreeSet;

use super::node::{Key, Node, Value};
use super::report::{FINDINGS_MAX, Finding, cut};
use crate::ratio::{ONE_PPB, Ratio};

/// Most waves of one stage; a region needs days, so more is a mistake of whoever generated the file.
pub(super) const WAVES_MAX: usize = 16;

/// Writes every stage with `waves` in `root` out, and says which make no sense.
pub(super) fn write_out(root: &mut Node) -> Vec<Finding> {
    let levers = root.get("levers").cloned();
    let Value::Map(entries) = &mut root.value else { return Vec::new() };
    let stages = entries.iter_mut().find(|(key, _)| key.text == "stages");
    let Some((_, Node { value: Value::List(stages), .. })) = stages else { return Vec::new() };
    let (mut all, mut findings) = (Vec::new(), Vec::new());
    for stage in std::mem::take(stages) {
        match written_out(&stage, levers.as_ref()) {
            Ok(waves) if waves.is_empty() => all.push(stage),
            Ok(waves) => all.extend(waves),
            Err(finding) => {
                all.push(stage);
                findings.extend(Some(*finding).filter(|_| findings.len() < FINDINGS_MAX));
            }
        }
    }
    *stages = all;
    findings
}

/// One stage for each wave; none for a stage without.
fn written_out(stage: &Node, levers: Option<&Node>) -> Result<Vec<Node>, Box<Finding>> {
    let Some(node) = stage.get("waves") else {
        let alone = stage.get("at_most").map(|cap| {
            let help = "it caps the first of several waves: add for example `waves: [[sjc], [iad, fra]]`";
            wrong("P12", "`at_most` without `waves`", "at_most", cap, help)
        });
        return alone.map_or(Ok(Vec::new()), Err);
    };
    let Some(waves) = waves(node) else { return Ok(Vec::new()) };
    apart(stage, node, &waves)?;
    capped(stage, &waves)?;
    let entered = entered(stage, levers, &waves)?;
    Ok((0..waves.len()).map(|index| wave(stage, &waves, index, &entered)).collect())
}

/// The regions of each wave; nothing where `read` has something to say.
fn waves(node: &Node) -> Option<Vec<&[Node]>> {
    let waves: Vec<&[Node]> = node.items().iter().map(Node::items).collect();
    let is_named = |wave: &&[Node]| !wave.is_empty() && wave.iter().all(|region| region.text().is_some());
    let fits = (1..=WAVES_MAX).contains(&waves.len()) && waves.iter().all(is_named);
    fits.then_some(waves)
}

/// Every region is named once.
fn apart(stage: &Node, node: &Node, waves: &[&[Node]]) -> Result<(), Box<Finding>> {
    if stage.get("regions").is_some() {
        let help = "leave `regions` out: the waves name them";
        return Err(wrong("P08", "both `regions` and `waves` in one stage", "waves", node, help));
    }
    let mut seen = BTreeSet::new();
    match waves.iter().copied().flatten().find(|region| !seen.insert(region.text())) {
        Some(twice) => Err(wrong("P07", "the same one twice", "waves", twice, "a region is in one wave")),
        None => Ok(()),
    }
}

/// The first wave reaches no larger share of the regions than the plan bears.
fn capped(stage: &Node, waves: &[&[Node]]) -> Result<(), Box<Finding>> {
    let Some(cap) = stage.get("at_most") else { return Ok(()) };
    let Some(most) = cap.text().and_then(|text| text.parse::<Ratio>().ok()) else { return Ok(()) };
    let (first, all) = (waves.first().map_or(0, |wave| wave.len()), waves.iter().map(|wave| wave.len()).sum::<usize>());
    let is_more = first as u64 * u64::from(ONE_PPB) > all as u64 * u64::from(most.ppb());
    let Some(place) = waves.first().and_then(|wave| wave.last()).filter(|_| is_more) else { return Ok(()) };
    let help = format!("`at_most: {most}` ({}): begin with fewer", cap.mark.place());
    Err(wrong("P12", &format!("the first wave reaches {first} of {all} regions"), "waves", place, &help))
}

/// The wave in which each entry of a stage is set: that of the first region of its lever, and the
/// first one for a lever of all regions.
fn entered(stage: &Node, levers: Option<&Node>, waves: &[&[Node]]) -> Result<Vec<usize>, Box<Finding>> {
    let enter = stage.get("enter").map_or(&[][..], Node::items);
    let wave_of = |set: &Node| {
        let lever = set.get("set").or_else(|| set.get("run"));
        let regions = lever.and_then(|lever| levers?.get(lever.text()?)?.get("regions"));
        let Some((lever, regions)) = lever.zip(regions) else { return Ok(0) };
        let is_its = |region: &Node| regions.items().iter().any(|own| own.text() == region.text());
        waves.iter().position(|wave| wave.iter().any(is_its)).ok_or_else(|| {
            let help = format!("its `regions` ({}) are in none of the waves", regions.mark.place());
            wrong("P11", "this lever can never be set", "set", lever, &help)
        })
    };
    enter.iter().map(wave_of).collect()
}

/// The stage of one wave. Approval is asked for once: when the last one has soaked.
fn wave(stage: &Node, waves: &[&[Node]], index: usize, entered: &[usize]) -> Node {
    let is_last = index + 1 == waves.len();
    let mut entries: Vec<(Key, Node)> = Vec::new();
    for (key, node) in stage.entries() {
        let value = match key.text.as_str() {
            "at_most" => continue,
            "approval" if !is_last => continue,
            "name" => {
                let text = format!("{}-{}", node.text().unwrap_or_default(), index + 1);
                Value::Scalar { text, plain: true }
            }
            "waves" => {
                let so_far = waves.iter().take(index + 1).copied().flatten().cloned();
                entries.push((
                    Key { text: "regions".to_owned(), ..key.clone() },
                    Node { value: Value::List(so_far.collect()), ..node.clone() },
                ));
                continue;
            }
            "enter" => {
                let own = node.items().iter().zip(entered).filter(|(_, wave)| **wave == index);
                let own: Vec<Node> = own.map(|(set, _)| set.clone()).collect();
                if own.is_empty() && !node.items().is_empty() {
                    continue;
                }
                Value::List(own)
            }
            _ => node.value.clone(),
        };
        entries.push((key.clone(), Node { value, mark: node.mark.clone(), overridden: node.overridden }));
    }
    Node { value: Value::Map(entries), mark: stage.mark.clone(), overridden: stage.overridden }
}

fn wrong(code: &'static str, message: &str, key: &str, node: &Node, help: &str) -> Box<Finding> {
    Box::new(Finding::new(code, cut(message)).on(key, node).help(help))
}
