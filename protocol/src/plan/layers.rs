//! A plan in layers: what near-equal services share, and what one of them says otherwise.
//!
//! One text holds all of it, as YAML documents: the bases first, and each document is laid over those
//! before it. So there is one text to publish, to hash and to replay. [`join`] writes it from files
//! that name their base by `extends`, with a line at the head of each that says which file it was;
//! whatever is found wrong later points into that file.
//!
//! Maps are merged key by key, and `key: ~` takes away what the base has there. Lists of items that all
//! have a `name` are merged by it: `remove: true` takes an item away, `before: NAME` says where it
//! stands, and what is new comes last. Any other value takes the place of the base's.

use std::collections::BTreeMap;

use super::named::{is_named, laid_by_name};
use super::node::{self, Key, Mark, Node, Part, Value};
use super::report::{FINDINGS_MAX, Finding, cut};

/// Most bases below one plan.
const BASES_MAX: usize = 8;
/// Begins a file in a joined text. At the start of a line, YAML knows it as the head of a document alone.
const HEAD: &str = "--- # file: ";
const EXTENDS: &str = "extends";

/// Why a plan cannot be laid over its base.
#[derive(Debug)]
pub struct Unjoined {
    /// Why not.
    pub finding: Finding,
    /// What was joined until then, for [`files`].
    pub text: String,
}

/// One text of the plan file called `file`, which holds `text`, and of all the bases below it. A plan
/// without a base stays as it is. `read` gives the text of a file by its path; the path of a base
/// counts from the file that names it, as a link in a page does.
///
/// # Errors
/// When a base cannot be read, the bases have no end, or what names one is not a path.
pub fn join(
    file: &str,
    text: String,
    mut read: impl FnMut(&str) -> Result<String, String>,
) -> Result<String, Box<Unjoined>> {
    // Named from the plan file, so that the text is the same wherever it is joined.
    let own = file.rsplit('/').next().unwrap_or(file).replace(char::is_control, "?");
    let mut chain = vec![(own, text)];
    loop {
        let (name, text) = &chain[chain.len() - 1];
        let base = base(text).and_then(|path| path.map(|path| below(file, &chain, path)).transpose());
        let base = base.and_then(|base| {
            let Some((base, path)) = base else { return Ok(None) };
            let text = read(&beside(file, &base));
            let unread = |why| Box::new(wrong(format!("the base `{}` cannot be read", cut(&base)), &path).help(why));
            text.map_err(unread).map(|text| Some((base, text)))
        });
        match base {
            Ok(Some(base)) => chain.push(base),
            Ok(None) if chain.len() == 1 => return Ok(chain.swap_remove(0).1),
            Ok(None) => return Ok(joined(&chain)),
            Err(finding) => {
                let (file, text) = (beside(file, name), joined(&chain));
                return Err(Box::new(Unjoined { finding: finding.within(file), text }));
            }
        }
    }
}

/// The files of a joined text, each with its path and its text; of any other text, the one `file`.
pub fn files<'a>(file: &str, text: &'a str) -> Vec<(String, &'a str)> {
    let path = |part: &Part<'_>| part.name.map_or_else(|| file.to_owned(), |name| beside(file, name));
    parts(text).iter().map(|part| (path(part), part.text)).collect()
}

/// The tree of a whole text: its documents, each laid over those before it.
pub(super) fn tree(text: &str) -> (Option<Node>, Vec<Finding>) {
    let (documents, broken) = node::documents(&parts(text));
    let mut findings: Vec<Finding> = broken.into_iter().map(Finding::from).collect();
    let mut tree: Option<Node> = None;
    for mut document in documents.into_iter().flatten() {
        let path = take_extends(&mut document);
        tree = match (tree.take(), path) {
            (Some(base), _) => Some(laid(base, document, &mut findings)),
            (None, None) => Some(document),
            (None, Some(path)) => {
                let base = cut(path.text().unwrap_or_default());
                let help = "start the file itself, which reads the base too: `bellwether rollout start FILE --release RELEASE`";
                findings.push(wrong(format!("`extends` without its base `{base}`"), &path).help(help));
                // Whatever else is missing may be in the base.
                break;
            }
        };
    }
    if tree.is_none() && findings.is_empty() {
        let help = "write at least `service:` and what a plan needs";
        findings.push(Finding::new("P01", "the file is empty").at(&Mark::default()).help(help));
    }
    findings.truncate(FINDINGS_MAX);
    (tree, findings)
}

/// Says in each finding which file it is in, and where in that: until then it points into `text`.
pub(super) fn place(findings: &mut Vec<Finding>, file: &str, text: &str) {
    let parts = parts(text);
    let of = |finding: &Finding| parts.iter().position(|part| part.name == Some(finding.file.as_str()));
    let last = parts.len() - 1;
    findings.sort_by_key(|finding| (finding.line.is_some(), of(finding).unwrap_or(last), finding.line, finding.column));
    for finding in findings {
        let part = &parts[of(finding).unwrap_or(last)];
        let file = part.name.map_or_else(|| file.to_owned(), |name| beside(file, name));
        *finding = finding.clone().within(file).counted_from(part.start);
    }
}

/// `base`, with `over` laid over it.
pub(super) fn laid(base: Node, over: Node, findings: &mut Vec<Finding>) -> Node {
    let value = match (base.value, over.value) {
        (Value::Map(own), Value::Map(laid)) => Value::Map(keys(own, laid, findings)),
        (Value::List(own), Value::List(laid)) if is_named(&own) && is_named(&laid) => {
            Value::List(laid_by_name(own, laid, findings))
        }
        (_, laid) => laid,
    };
    Node { value, ..over }
}

fn keys(own: Vec<(Key, Node)>, over: Vec<(Key, Node)>, findings: &mut Vec<Finding>) -> Vec<(Key, Node)> {
    let places: BTreeMap<String, usize> = own.iter().map(|(key, _)| key.text.clone()).zip(0..).collect();
    let mut all: Vec<Option<(Key, Node)>> = own.into_iter().map(Some).collect();
    for (key, node) in over {
        match places.get(&key.text).and_then(|at| all.get_mut(*at)) {
            // Half a line is no wish to lose an approval or a freeze.
            Some(_) if node.is_nothing() && node.mark.bytes.is_empty() => {
                let message = format!("nothing is written for `{}`, which a base has", cut(&key.text));
                let help = format!("write `{}: ~` to take it away, or leave the key out", cut(&key.text));
                findings.push(Finding::new("P14", message).on_key(&key).help(help));
            }
            Some(entry) if node.is_nothing() => *entry = None,
            Some(entry) => {
                let node = match entry.take() {
                    Some((_, base)) => laid(base, node, findings),
                    None => node,
                };
                *entry = Some((key, node));
            }
            None => all.push(Some((key, node))),
        }
    }
    all.into_iter().flatten().collect()
}

/// The files of a text.
fn parts(text: &str) -> Vec<Part<'_>> {
    let heads = text.match_indices(HEAD).map(|(at, _)| at);
    let heads: Vec<usize> = heads.filter(|at| *at == 0 || text[..*at].ends_with('\n')).collect();
    let ends = heads.iter().copied().skip(1).chain([text.len()]);
    let named = heads.iter().zip(ends).filter_map(|(head, end)| {
        let own = text.get(head + HEAD.len()..end)?;
        let (name, own) = own.split_once('\n').unwrap_or((own, ""));
        Some(Part { name: Some(name.trim_end()), start: end - own.len(), text: own })
    });
    let before = text.get(..heads.first().copied().unwrap_or(text.len())).unwrap_or_default();
    let before =
        Some(Part { name: None, start: 0, text: before }).filter(|own| heads.is_empty() || !own.text.is_empty());
    before.into_iter().chain(named).collect()
}

/// The files of a chain as one text, the last base first.
fn joined(chain: &[(String, String)]) -> String {
    let with_break = |text: &str| if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let files = chain.iter().rev().map(|(name, text)| format!("{HEAD}{name}\n{text}{}", with_break(text)));
    files.collect()
}

/// What a file names as its base.
fn base(text: &str) -> Result<Option<Node>, Box<Finding>> {
    let parts = parts(text);
    // A joined text has its bases, and what is not YAML is told of by whoever reads it all.
    if parts.len() > 1 {
        return Ok(None);
    }
    let mut documents = node::documents(&parts).0.into_iter().flatten();
    let first = documents.next().and_then(|mut document| take_extends(&mut document));
    match documents.find_map(|mut document| take_extends(&mut document)) {
        Some(later) => {
            let finding = wrong("`extends` in a later document".to_owned(), &later);
            Err(Box::new(finding.help("write it in the first one")))
        }
        None => Ok(first),
    }
}

/// The base that `path` in the last file of a chain means, by its name in the text.
fn below(file: &str, chain: &[(String, String)], path: Node) -> Result<(String, Node), Box<Finding>> {
    let is_path = |text: &&str| !text.starts_with('/') && !text.contains(char::is_control);
    let (Some(text), Some((name, _))) = (path.text().filter(is_path), chain.last()) else {
        let finding = wrong("not a path from this file".to_owned(), &path);
        return Err(Box::new(finding.help("write for example `extends: ../common.yaml`")));
    };
    let base = beside(name, text);
    let is_in_it = chain.iter().any(|(name, _)| beside(file, name) == beside(file, &base));
    if is_in_it || chain.len() > BASES_MAX {
        let names = chain.iter().map(|(name, _)| name.as_str()).chain([base.as_str()]);
        let names = names.collect::<Vec<_>>().join(" -> ");
        let help = "a plan stands on at most 8 bases, and on none of them twice";
        return Err(Box::new(wrong("bases without an end".to_owned(), &path).help(help).note(names)));
    }
    Ok((base, path))
}

/// Takes `extends` out of a document, and gives what it says.
fn take_extends(document: &mut Node) -> Option<Node> {
    let Value::Map(entries) = &mut document.value else { return None };
    let at = entries.iter().position(|(key, _)| key.text == EXTENDS)?;
    Some(entries.remove(at).1).filter(|path| !path.is_nothing())
}

/// `path` as seen from the file `of`. By its letters alone, so that it can be done without a disk.
fn beside(of: &str, path: &str) -> String {
    let folder = of.rsplit_once('/').map(|(folder, _)| folder);
    let mut steps: Vec<&str> = folder.into_iter().flat_map(|folder| folder.split('/')).collect();
    for step in path.split('/') {
        match (step, steps.last()) {
            (".", _) => {}
            ("..", Some(last)) if !["", ".", ".."].contains(last) => drop(steps.pop()),
            _ => steps.push(step),
        }
    }
    steps.join("/")
}

fn wrong(message: String, path: &Node) -> Finding {
    Finding::new("P14", message).on(EXTENDS, path)
}
