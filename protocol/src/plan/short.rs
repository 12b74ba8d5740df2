//! `must: "error_ratio < 0.1%, alert 0.5%"`: a criterion as a person says it, written out.
//!
//! Applied to the tree before anything is read, so that there is one reader and one check for both
//! forms. Every value that is written out points into the sentence, so whatever is found wrong
//! with it later is shown at its own column. The grammar stands in the page of `plan`.
//!
//! A sentence that makes no sense is reported here and left where it is; whoever reads a criterion
//! that still has a `must` knows that it has been told of.

mod grammar;

use std::ops::Range;

pub(super) use grammar::{EXAMPLES, SENTENCE_MAX};
use grammar::{Said, Slip, Word};

use super::node::{Key, Mark, Node, Value};
use super::read::{CRITERIA_MAX, OBJECTIVES};
use super::report::{FINDINGS_MAX, Finding, cut};

/// Writes every sentence in `root` out, and says which make no sense. `source` is the file's text.
pub(super) fn write_out(root: &mut Node, source: &str) -> Vec<Finding> {
    let slis = root.get("slis").map_or(&[][..], Node::items).to_vec();
    let Value::Map(entries) = &mut root.value else { return Vec::new() };
    let criteria = entries.iter_mut().find(|(key, _)| key.text == "criteria");
    let Some((_, Node { value: Value::List(criteria), .. })) = criteria else { return Vec::new() };
    let said = criteria.iter_mut().take(CRITERIA_MAX).filter_map(|criterion| one(criterion, &slis, source));
    said.take(FINDINGS_MAX).collect()
}

/// Writes one criterion out, or says what is wrong with its sentence. What somebody else tells of,
/// such as a plan without SLIs, is left as it is.
fn one(criterion: &mut Node, slis: &[Node], source: &str) -> Option<Finding> {
    let must = criterion.get("must")?;
    if OBJECTIVES.iter().any(|kind| criterion.get(kind).is_some()) {
        return None;
    }
    let place = Place::new(must, source);
    let form = grammar::form(must).and_then(|form| Ok((form, sli(criterion, slis)?)));
    let (form, sli) = match form {
        Ok((form, sli)) => (form, sli?),
        Err(slip) => {
            let finding = Finding::new(slip.code, slip.message).on("must", must).at(&place.mark(&slip.range));
            return Some(finding.help(slip.help));
        }
    };
    let mark = must.mark.clone();
    let sli = (Key { text: "sli".into(), mark: sli.mark.clone() }, sli);
    let written = [sli].into_iter().chain(form.values.iter().map(|(key, said)| place.entry(key, said))).collect();
    let objective = Node { mark: mark.clone(), value: Value::Map(written), overridden: false };
    if let Value::Map(entries) = &mut criterion.value {
        entries.retain(|(key, _)| key.text != "must" && key.text != "sli");
        entries.push((Key { text: form.kind.to_owned(), mark }, objective));
    }
    None
}

/// The SLI that is named beside the sentence, or the only one that there is.
fn sli(criterion: &Node, slis: &[Node]) -> Result<Option<Node>, Slip> {
    let names: Vec<&Node> = slis.iter().filter_map(|sli| sli.get("name")).collect();
    match (criterion.get("sli"), names.as_slice()) {
        (Some(sli), _) => Ok(Some(sli.clone())),
        (None, [] | [_]) => Ok(names.first().map(|name| (*name).clone())),
        (None, _) => {
            let known = names.iter().filter_map(|name| name.text()).collect::<Vec<_>>().join(", ");
            Err(Slip {
                code: "P05",
                message: "`must` without `sli`, in a plan with several".to_owned(),
                help: format!("add `sli: ...`: one of {}", cut(&known)),
                range: 0..criterion.get("must").and_then(Node::text).map_or(0, str::len),
            })
        }
    }
}

/// Where a sentence stands.
struct Place<'a> {
    whole: &'a Mark,
    text: &'a str,
    /// How many bytes the file has before the sentence's first one, such as a quote. Unknown where
    /// the file spells it otherwise, with escapes or over several lines.
    lead: Option<usize>,
}

impl<'a> Place<'a> {
    fn new(node: &'a Node, source: &str) -> Self {
        let text = node.text().unwrap_or_default();
        let spelled = source.get(node.mark.bytes.clone()).unwrap_or_default();
        let inner = spelled.get(1..spelled.len().saturating_sub(1));
        let lead = match text {
            text if text == spelled => Some(0),
            text if inner == Some(text) => Some(1),
            _ => None,
        };
        Self { whole: &node.mark, text, lead: lead.filter(|_| !text.contains('\n')) }
    }

    /// Where a part of the sentence stands; the whole of it where that is not known.
    fn mark(&self, range: &Range<usize>) -> Mark {
        let Some(lead) = self.lead else { return self.whole.clone() };
        let before = self.text.get(..range.start).unwrap_or_default().chars().count();
        let start = self.whole.bytes.start + lead;
        Mark {
            part: self.whole.part.clone(),
            line: self.whole.line,
            column: self.whole.column.saturating_add(u32::try_from(lead + before).unwrap_or(u32::MAX)),
            bytes: start + range.start..start + range.end,
        }
    }

    fn entry(&self, key: &str, said: &Said) -> (Key, Node) {
        let scalar = |said: &Word| {
            let value = Value::Scalar { text: said.text.clone(), plain: true };
            Node { mark: self.mark(&said.range), value, overridden: false }
        };
        let node = match said {
            Said::One(word) => scalar(word),
            Said::Several(words) => {
                let value = Value::List(words.iter().map(scalar).collect());
                Node { mark: self.whole.clone(), value, overridden: false }
            }
        };
        (Key { text: key.to_owned(), mark: node.mark.clone() }, node)
    }
}
