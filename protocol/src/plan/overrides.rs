//! `stages.canary.soak=60s`: any schedule of a plan, shortened for a rehearsal.
//!
//! Applied to the tree before anything is read, so that every check sees what will run. Only how
//! long things last can be overridden. Limits cannot: a rehearsal must judge as the plan does.

use super::node::{Key, Node, Value};
use super::reader::span_error;
use super::report::{Finding, cut, nearest};
use crate::time::Span;

/// Most overrides of one start.
const OVERRIDES_MAX: usize = 256;

/// Named or numbered lists of a plan, `*` being any item of one, and the durations in their items.
const LISTS: [(&str, &[&str]); 6] = [
    ("stages", &["enter_within", "settle", "soak"]),
    ("slis", &["every", "timeout"]),
    ("criteria", &["for"]),
    ("take_back.levels", &["apply_within"]),
    ("stages.*.during", &["every", "within"]),
    ("criteria.*.on_fail", &["for"]),
];
/// Durations of the plan itself.
const TOP: [&str; 2] = ["slot", "grace"];

/// Replaces durations in `root`, and says which overrides make no sense.
pub(super) fn apply(root: &mut Node, overrides: &[String]) -> Vec<Finding> {
    if overrides.len() > OVERRIDES_MAX {
        return vec![Finding::new("P10", format!("{} overrides", overrides.len())).help("at most 256")];
    }
    overrides.iter().filter_map(|text| apply_one(root, text)).collect()
}

/// Replaces one duration, or says why not.
fn apply_one(root: &mut Node, text: &str) -> Option<Finding> {
    let wrong = |message: String| Finding::new("P13", message).quoting(text);
    let Some((path, value)) = text.split_once('=') else {
        let message = format!("override `{}` without a value", cut(text));
        return Some(wrong(message).help("write for example `stages.canary.soak=60s`"));
    };
    let places = places(root);
    if !places.iter().any(|place| place == path) {
        let meant = nearest(path, places.iter().map(String::as_str));
        let help = meant.map(|meant| format!("did you mean `{meant}`?")).unwrap_or_default();
        let message = format!("`{}` cannot be overridden", cut(path));
        return Some(wrong(message).help(help).note(format!("durations of this plan: {}", summary(root))));
    }
    if let Err(error) = value.parse::<Span>() {
        let (message, help) = span_error(&error);
        return Some(wrong(format!("override `{}`: {message}", cut(text))).help(help));
    }
    set(root, path, value);
    None
}

/// Every path that can be overridden, whether or not the file writes that key.
fn places(root: &Node) -> Vec<String> {
    let mut places: Vec<String> = TOP.iter().map(|key| (*key).to_owned()).collect();
    for (pattern, keys) in LISTS {
        for (list, names) in lists(root, pattern) {
            for name in names {
                places.extend(keys.iter().map(|key| format!("{list}.{name}.{key}")));
            }
        }
    }
    places
}

/// The same, short enough to be read: `stages.{staging,canary}.{settle,soak}`.
fn summary(root: &Node) -> String {
    let of = |list: &str, keys: &[&str]| {
        let lists = lists(root, list).into_iter().filter(|(_, names)| !names.is_empty());
        let text = |(list, names): (String, Vec<String>)| {
            format!("{list}.{{{}}}.{{{}}}", cut(&names.join(",")), keys.join(","))
        };
        lists.map(text).collect::<Vec<_>>()
    };
    let lists = LISTS.iter().flat_map(|(list, keys)| of(list, keys));
    TOP.iter().map(|key| (*key).to_owned()).chain(lists).collect::<Vec<_>>().join(", ")
}

/// The lists that a path with `*` means, each with how its items are called: by `name`, or by number from 0.
fn lists(root: &Node, path: &str) -> Vec<(String, Vec<String>)> {
    let (outer, inner) = path.split_once(".*.").unwrap_or((path, ""));
    let Some(list) = outer.split('.').try_fold(root, |node, key| node.get(key)) else { return Vec::new() };
    let items = || list.items().iter().enumerate().map(|(index, item)| (name(index, item), item));
    if inner.is_empty() {
        return vec![(outer.to_owned(), items().map(|(name, _)| name).collect())];
    }
    let within = |(name, item): (String, &Node)| {
        let inner = lists(item, inner).into_iter();
        inner.map(|(list, names)| (format!("{outer}.{name}.{list}"), names)).collect::<Vec<_>>()
    };
    items().flat_map(within).collect()
}

fn name(index: usize, item: &Node) -> String {
    item.get("name").and_then(Node::text).map_or_else(|| index.to_string(), str::to_owned)
}

fn set(node: &mut Node, path: &str, value: &str) {
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    let mark = node.mark.clone();
    match &mut node.value {
        Value::List(items) => {
            let found = items.iter_mut().enumerate().find(|(index, item)| name(*index, item) == step);
            if let Some((_, item)) = found {
                set(item, rest, value);
            }
        }
        Value::Map(entries) if rest.is_empty() => {
            let scalar = Value::Scalar { text: value.to_owned(), plain: true };
            match entries.iter_mut().find(|(key, _)| key.text == step) {
                // Keeps the place, so that a finding shows what the file says as well.
                Some((_, own)) => (own.value, own.overridden) = (scalar, true),
                None => {
                    let key = Key { text: step.to_owned(), mark: mark.clone() };
                    entries.push((key, Node { mark, value: scalar, overridden: true }));
                }
            }
        }
        Value::Map(entries) => {
            if let Some((_, own)) = entries.iter_mut().find(|(key, _)| key.text == step) {
                set(own, rest, value);
            }
        }
        Value::Scalar { .. } => {}
    }
}
