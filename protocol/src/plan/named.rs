//! Lists of items with names, laid over each other. An item of that name below is merged, or taken away
//! with `remove: true`. `before: NAME` says where an item stands; without it, it stays where it is below,
//! and a new one comes last.

use super::layers::laid;
use super::node::{Key, Node, Value};
use super::report::{Finding, cut, suggest};

const BEFORE: &str = "before";
const REMOVE: &str = "remove";

/// Whether every item has a name.
pub(super) fn is_named(list: &[Node]) -> bool {
    !list.is_empty() && list.iter().all(|item| name(item).is_some())
}

/// `own`, with `over` laid over it.
pub(super) fn laid_by_name(own: Vec<Node>, over: Vec<Node>, findings: &mut Vec<Finding>) -> Vec<Node> {
    let mut all: Vec<Item> = own.into_iter().map(|node| Item::new(node, true)).collect();
    for mut node in over {
        let (remove, before) = (take(&mut node, REMOVE), take(&mut node, BEFORE));
        let mut item = Item::new(node, false);
        // A second one of that name stays beside the first, for `check` to find.
        let below = all.iter().position(|own| own.is_below && own.name == item.name);
        if let Some((key, value)) = remove {
            let found = below.ok_or_else(|| Box::new(unknown(&item.name, &all, "below to take away").on_key(&key)));
            match removable(&item, before.is_some(), &key, &value).and(found) {
                Ok(at) => drop(all.remove(at)),
                Err(finding) => findings.push(*finding),
            }
            continue;
        }
        let place = match below {
            Some(at) => {
                let base = all.remove(at);
                item.node = laid(base.node, item.node, findings);
                at
            }
            None => all.len(),
        };
        let place = match &before {
            None => Some(place),
            Some((_, next)) => all.iter().position(|own| Some(own.name.as_str()) == next.text()),
        };
        if let (None, Some((_, next))) = (place, &before) {
            findings.push(unknown(next.text().unwrap_or_default(), &all, "to stand before").on(BEFORE, next));
        }
        all.insert(place.unwrap_or(all.len()), item);
    }
    all.into_iter().map(|item| item.node).collect()
}

/// An item, its name at hand: lists are long.
struct Item {
    name: String,
    /// Whether it is from below, and nothing has been laid over it.
    is_below: bool,
    node: Node,
}

impl Item {
    fn new(node: Node, is_below: bool) -> Self {
        Self { name: name(&node).unwrap_or_default().to_owned(), is_below, node }
    }
}

fn name(item: &Node) -> Option<&str> {
    item.get("name").filter(|name| !name.is_nothing()).and_then(Node::text)
}

/// Takes what `item` says of itself out of it.
fn take(item: &mut Node, own: &str) -> Option<(Key, Node)> {
    let Value::Map(entries) = &mut item.value else { return None };
    let at = entries.iter().position(|(key, _)| key.text == own)?;
    Some(entries.remove(at)).filter(|(_, value)| !value.is_nothing())
}

fn removable(item: &Item, has_before: bool, key: &Key, value: &Node) -> Result<(), Box<Finding>> {
    if value.text() != Some("true") {
        let finding = Finding::new("P02", "`remove` can only be `true`").on(REMOVE, value);
        return Err(Box::new(finding.help("leave it out to keep the item")));
    }
    if has_before || item.node.entries().len() > 1 {
        let finding = Finding::new("P08", "`remove` beside other keys").on_key(key);
        return Err(Box::new(finding.help("of what is taken away only the `name` is written")));
    }
    Ok(())
}

fn unknown(name: &str, all: &[Item], what: &str) -> Finding {
    let known = all.iter().map(|item| item.name.as_str());
    Finding::new("P04", format!("no `{}` {what}", cut(name))).help(suggest(name, known))
}
