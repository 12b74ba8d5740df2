//! What every part of a plan is made of: sections with known keys, lists, names, durations, numbers.
//!
//! Each reader takes a key, for messages, and a node; it gives the value, or reports what is wrong
//! and what would be right. None of them stops at the first error, and none knows what a plan is.
//! While a sketch is open they read nothing: each notes in it what it would take.

use std::collections::BTreeMap;
use std::str::FromStr;

use schemars::JsonSchema;
use serde_json::{Value as Json, json};

use super::Validators;
use super::node::{Key, Node, Value};
use super::number;
use super::report::{FINDINGS_MAX, Finding, cut, suggest};
use super::sketch::{Sketch, schema_of};
use crate::id::IdError;
use crate::ratio::{Ratio, RatioError, Times, TimesError};
use crate::time::{Span, TimeError};

/// Longest URL, header or JSON path, in bytes.
const TEXT_LEN_MAX: usize = 2_048;

/// Reads values and keeps what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) findings: Vec<Finding>,
    pub(super) validators: &'a Validators,
    pub(super) sketch: Option<Sketch>,
}

/// A map whose keys are all known.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    pub(super) what: &'a str,
    pub(super) node: &'a Node,
}

impl<'a> Reader<'a> {
    pub(super) fn new(validators: &'a Validators) -> Self {
        Self { findings: Vec::new(), validators, sketch: None }
    }

    /// Adds keywords to the sketch, if one is open.
    pub(super) fn note(&mut self, keywords: impl FnOnce() -> Json) {
        if let Some(sketch) = &mut self.sketch {
            sketch.note(keywords());
        }
    }

    /// Draws that `key` stands only where `beside` does.
    pub(super) fn note_beside(&mut self, key: &str, beside: &str) {
        if let Some(sketch) = &mut self.sketch {
            sketch.depend(key, beside);
        }
    }

    pub(super) fn push(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    pub(super) fn bad<T>(&mut self, key: &str, node: &Node, message: &str, help: impl Into<String>) -> Option<T> {
        self.push(Finding::new("P02", message).on(key, node).help(help));
        None
    }

    /// `node` as a map of which every key is one of `known`.
    pub(super) fn section<'n>(&mut self, what: &'n str, node: &'n Node, known: &[&str]) -> Option<Section<'n>> {
        self.section_without(&[], what, node, known)
    }

    /// The same, where some keys stand elsewhere: each of them with what to write instead.
    pub(super) fn section_without<'n>(
        &mut self,
        elsewhere: &[(&str, &str)],
        what: &'n str,
        node: &'n Node,
        known: &[&str],
    ) -> Option<Section<'n>> {
        if let Some(sketch) = &mut self.sketch {
            sketch.section(known);
            return Some(Section { what, node });
        }
        let Value::Map(entries) = &node.value else { return self.wrong_kind(what, node, "a map") };
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.text.as_str())).take(FINDINGS_MAX) {
            let message = format!("unknown key `{}` in {what}", cut(&key.text));
            let instead = elsewhere.iter().find(|(own, _)| *own == key.text).map(|(_, instead)| (*instead).to_owned());
            let help = instead.unwrap_or_else(|| suggest(&key.text, known.iter().copied()));
            self.push(Finding::new("P03", message).on_key(key).help(help));
        }
        Some(Section { what, node })
    }

    fn wrong_kind<T>(&mut self, what: &str, node: &Node, needed: &str) -> Option<T> {
        let message = format!("{} instead of {needed}", node.kind());
        self.push(Finding::new("P06", message).on(what, node).help(format!("`{what}` takes {needed}")));
        None
    }

    pub(super) fn need<'n, T>(
        &mut self,
        section: Section<'n>,
        key: &'static str,
        read: impl FnOnce(&mut Self, &'static str, &'n Node) -> Option<T>,
    ) -> Option<T> {
        if let Some(sketch) = &mut self.sketch {
            sketch.require(key);
            return self.or(section, key, None, |r, k, n| read(r, k, n).map(Some))?;
        }
        if let Some(node) = section.node.get(key) {
            return read(self, key, node);
        }
        let message = format!("{} without `{key}`", section.what);
        // A file without a service may be meant as the base of others.
        let base = if key == "service" { ", or check the plan that extends this one" } else { "" };
        self.push(Finding::new("P05", message).at(&section.node.mark).help(format!("add `{key}: ...`{base}")));
        None
    }

    pub(super) fn or<'n, T>(
        &mut self,
        section: Section<'n>,
        key: &'static str,
        default: T,
        read: impl FnOnce(&mut Self, &'static str, &'n Node) -> Option<T>,
    ) -> Option<T> {
        if self.sketch.is_some() {
            self.draw(section.what, key, section.node, |r, node| read(r, key, node));
            return None;
        }
        section.node.get(key).map_or(Some(default), |node| read(self, key, node))
    }

    /// The value under `key`, needed where `beside` is; nothing where that is missing.
    pub(super) fn need_beside<'n, T>(
        &mut self,
        section: Section<'n>,
        beside: &'static str,
        key: &'static str,
        read: impl FnOnce(&mut Self, &'static str, &'n Node) -> Option<T>,
    ) -> Option<T> {
        if self.sketch.is_some() {
            self.note_beside(beside, key);
            return self.or(section, key, None, |r, k, n| read(r, k, n).map(Some))?;
        }
        section.node.get(beside)?;
        self.need(section, key, read)
    }

    /// What is read of the one entry of `section` whose key is one of `keys`.
    pub(super) fn one_of<'n, 'k, T>(
        &mut self,
        section: Section<'n>,
        keys: &[&'k str],
        mut read: impl FnMut(&mut Self, &'k str, &'n Node) -> Option<T>,
    ) -> Option<T> {
        if let Some(sketch) = &mut self.sketch {
            sketch.one_of(keys);
            keys.iter().for_each(|key| self.draw(section.what, key, section.node, |r, node| read(r, key, node)));
            return None;
        }
        let found: Vec<(&Key, &'k str, &Node)> = (section.node.entries().iter())
            .filter_map(|(key, node)| Some((key, *keys.iter().find(|own| **own == key.text)?, node)))
            .collect();
        match found.as_slice() {
            [(_, key, node)] => read(self, key, node),
            [] => {
                let message = format!("{} that does not say what it is", section.what);
                let help = if keys.is_empty() {
                    "add the kind of probe".into()
                } else {
                    format!("add one of: {}", keys.join(", "))
                };
                self.push(Finding::new("P08", message).at(&section.node.mark).help(help));
                None
            }
            [(first, ..), (second, ..), ..] => {
                let message =
                    format!("both `{}` and `{}` in one {}", cut(&first.text), cut(&second.text), section.what);
                let help = match &first.mark.part {
                    part if *part == second.mark.part => "keep exactly one".to_owned(),
                    _ => format!("to take away the other: `{}: ~`", cut(&first.text)),
                };
                self.push(Finding::new("P08", message).on_key(second).help(help));
                None
            }
        }
    }

    /// A list of at most `max`, and at least one.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        node: &Node,
        max: usize,
        mut item: impl FnMut(&mut Self, &str, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        if self.sketch.is_some() {
            self.note(|| json!({ "type": "array", "minItems": 1, "maxItems": max }));
            self.draw_under("items", node, |r, node| item(r, key, node));
            return None;
        }
        let Value::List(items) = &node.value else { return self.wrong_kind(key, node, "a list") };
        self.bounds(key, node, items.len(), max)?;
        // Every item is read, so that the second wrong one is reported too.
        let read: Vec<Option<T>> = items.iter().map(|node| item(self, key, node)).collect();
        read.into_iter().collect()
    }

    /// A map from names to values, of at most `max` entries, and at least one.
    pub(super) fn table<K: FromStr<Err = IdError> + JsonSchema + Ord, T>(
        &mut self,
        key: &str,
        node: &Node,
        max: usize,
        mut value: impl FnMut(&mut Self, &str, &Node) -> Option<T>,
    ) -> Option<BTreeMap<K, T>> {
        if self.sketch.is_some() {
            self.note(|| {
                let pattern = &schema_of::<K>()["pattern"];
                let names = json!({ "pattern": pattern });
                json!({ "type": "object", "minProperties": 1, "maxProperties": max, "propertyNames": names })
            });
            self.draw_under("additionalProperties", node, |r, node| value(r, key, node));
            return None;
        }
        let Value::Map(entries) = &node.value else { return self.wrong_kind(key, node, "a map") };
        self.bounds(key, node, entries.len(), max)?;
        let mut read = Vec::new();
        for (key, node) in entries {
            let name = key.text.parse().map_err(|error: IdError| {
                self.push(Finding::new("P02", invalid(&error)).on_key(key).help(error.expected));
            });
            let value = value(self, &key.text, node);
            read.push(name.ok().zip(value));
        }
        read.into_iter().collect()
    }

    fn bounds(&mut self, key: &str, node: &Node, len: usize, max: usize) -> Option<()> {
        let finding = match len {
            0 => Finding::new("P05", format!("`{key}` is empty")).help("name at least one, or leave the key out"),
            _ if len > max => Finding::new("P10", format!("{len} entries in `{key}`")).help(format!("at most {max}")),
            _ => return Some(()),
        };
        self.push(finding.on(key, node));
        None
    }

    /// A single value, for a `T`.
    fn scalar<'n, T: JsonSchema>(&mut self, key: &str, node: &'n Node) -> Option<&'n str> {
        if let Some(sketch) = &mut self.sketch {
            sketch.note_type::<T>();
            return None;
        }
        match node.text() {
            Some(text) if !node.is_nothing() => Some(text),
            _ => self.wrong_kind(key, node, "a single value"),
        }
    }

    /// What `one` reads of a single value, or else what `other` reads.
    pub(super) fn single_or<T>(
        &mut self,
        node: &Node,
        one: impl FnOnce(&mut Self, &Node) -> Option<T>,
        other: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        if self.sketch.is_some() {
            self.draw_under("anyOf", node, one);
            self.draw_under("anyOf", node, other);
            return None;
        }
        if node.text().is_some() { one(self, node) } else { other(self, node) }
    }

    /// Whether nothing was written, where that is as good as an empty map.
    pub(super) fn may_be_nothing(&mut self, node: &Node) -> bool {
        self.note(|| json!({ "type": "null" }));
        node.is_nothing()
    }

    pub(super) fn text(&mut self, key: &str, node: &Node) -> Option<String> {
        let text = self.scalar::<String>(key, node);
        self.note(|| json!({ "minLength": 1, "maxLength": TEXT_LEN_MAX }));
        let text = text?;
        if (1..=TEXT_LEN_MAX).contains(&text.len()) {
            return Some(text.to_owned());
        }
        self.bad(key, node, "not a text of 1 to 2,048 bytes", "write a shorter one")
    }

    /// A name, or whatever else has its own alphabet. Taken by its source text, so `on` is `on`.
    pub(super) fn token<T: FromStr<Err = IdError> + JsonSchema>(&mut self, key: &str, node: &Node) -> Option<T> {
        match self.scalar::<T>(key, node)?.parse::<T>() {
            Ok(token) => Some(token),
            Err(error) => self.bad(key, node, &invalid(&error), error.expected),
        }
    }

    pub(super) fn span(&mut self, key: &str, node: &Node) -> Option<Span> {
        match self.scalar::<Span>(key, node)?.parse::<Span>() {
            Ok(span) => Some(span),
            Err(error) => {
                let (message, help) = span_error(&error);
                self.bad(key, node, message, help)
            }
        }
    }

    pub(super) fn ratio(&mut self, key: &str, node: &Node) -> Option<Ratio> {
        let read: Result<Ratio, RatioError> = self.scalar::<Ratio>(key, node)?.parse();
        let help = "write for example `0.1%`, from 0% to 100%, with at most 7 decimals";
        read.ok().or_else(|| self.bad(key, node, "not a percentage", help))
    }

    pub(super) fn times(&mut self, key: &str, node: &Node) -> Option<Times> {
        let read: Result<Times, TimesError> = self.scalar::<Times>(key, node)?.parse();
        let help = "write for example `1.5x`, with at most 3 decimals";
        read.ok().or_else(|| self.bad(key, node, "not a factor", help))
    }

    pub(super) fn count<T: FromStr + JsonSchema>(&mut self, key: &str, node: &Node) -> Option<T> {
        let text = self.scalar::<T>(key, node)?;
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let read = text.parse().ok().filter(|_| digits);
        read.or_else(|| self.bad(key, node, "not a whole number", "write digits alone, such as `20`"))
    }

    pub(super) fn flag(&mut self, key: &str, node: &Node) -> Option<bool> {
        let flag = self.word(key, node, &[("true", true), ("false", false)]);
        self.note(|| json!({ "type": "boolean", "enum": [true, false] }));
        flag
    }

    pub(super) fn word<T: Copy>(&mut self, key: &str, node: &Node, known: &[(&str, T)]) -> Option<T> {
        let text = self.scalar::<String>(key, node);
        self.note(|| json!({ "enum": known.iter().map(|(word, _)| *word).collect::<Vec<_>>() }));
        let text = text?;
        let found = known.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        found.or_else(|| {
            let words: Vec<String> = known.iter().map(|(word, _)| format!("`{word}`")).collect();
            self.bad(key, node, &format!("`{key}` cannot be `{}`", cut(text)), format!("write {}", words.join(" or ")))
        })
    }

    pub(super) fn number(&mut self, key: &str, node: &Node) -> Option<f64> {
        let text = self.scalar::<f64>(key, node);
        self.note(|| {
            let examples = ["900MB", "2GiB"];
            json!({ "type": ["number", "string"], "pattern": number::pattern(), "examples": examples })
        });
        let read = number::read(text?);
        read.or_else(|| self.bad(key, node, "not a number", "write for example `70`, `1.5`, `900MB` or `2GiB`"))
    }
}

/// What is wrong with a duration, and what would be right.
pub(super) fn span_error(error: &TimeError) -> (&'static str, String) {
    match error {
        TimeError::NoUnit(text) => ("duration without a unit", format!("write `{text}s`, `{text}m` or `{text}h`")),
        _ => ("not a duration", "write for example `500ms`, `30s`, `1h30m` or `2d`, at most `366d`".to_owned()),
    }
}

fn invalid(error: &IdError) -> String {
    format!("`{}` is not a {}", error.text, error.kind)
}
