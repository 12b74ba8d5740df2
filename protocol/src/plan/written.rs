//! A tree as YAML again: what the layers of a plan come to. Comments and anchors are gone.

use super::node::{Node, Value};
use super::report::Finding;
use super::{layers, overrides};

/// The whole plan that a text means, as one YAML document without a base: every document laid over
/// those before it, with `overrides`. `file` is its path, for messages only.
///
/// # Errors
/// When it is not YAML, cannot be laid over its base, or an override makes no sense. Whether it is a
/// plan is not asked.
pub fn written(file: &str, text: &str, overrides: &[String]) -> Result<String, Vec<Finding>> {
    let (root, mut findings) = layers::tree(text);
    let mut out = String::new();
    if let Some(mut root) = root {
        findings.extend(overrides::apply(&mut root, overrides));
        block(&root, 0, &mut out);
    }
    layers::place(&mut findings, file, text);
    if findings.is_empty() { Ok(out.trim_start_matches('\n').to_owned() + "\n") } else { Err(findings) }
}

/// Writes `node` behind a key or a dash, without the break at its end.
fn block(node: &Node, depth: usize, out: &mut String) {
    let indent = |out: &mut String| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    match &node.value {
        Value::List(items) if items.is_empty() => out.push_str(" []"),
        Value::Map(entries) if entries.is_empty() => out.push_str(" {}"),
        Value::List(items) => {
            for item in items {
                indent(out);
                out.push('-');
                let mut inner = String::new();
                block(item, depth + 1, &mut inner);
                // The first entry stands behind the dash.
                let behind = inner.trim_start_matches(['\n', ' ']);
                if inner.starts_with('\n') { out.extend([" ", behind]) } else { out.push_str(&inner) }
            }
        }
        Value::Map(entries) => {
            for (name, node) in entries {
                indent(out);
                out.push_str(&key(&name.text));
                out.push(':');
                block(node, depth + 1, out);
            }
        }
        Value::Scalar { text, plain } => out.extend([" ", &value(text, *plain)]),
    }
}

/// A value as it was written; in quotes where it stood in quotes, or over several lines.
fn value(text: &str, plain: bool) -> String {
    if plain && !text.contains(['\n', '\r']) { text.to_owned() } else { quoted(text) }
}

fn key(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if text.chars().all(is_word) && !text.starts_with('-') { text.to_owned() } else { quoted(text) }
}

/// What JSON writes is read by YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
