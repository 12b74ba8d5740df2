//! YAML text to a tree in which every key and value knows where it stands.
//!
//! The only file that knows the YAML library. Scalars keep their source text: whether `10%`, `on`
//! or `1.8GB` makes sense is for the one who asks for it, so YAML's own types cannot get in the
//! way. Tags and merge keys are refused, and every dimension is bounded, over all documents together,
//! before the trees are built. Nothing here knows what a plan is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span as YamlSpan, StrInput};

/// Longest plan file, in bytes; a message on the bus is not longer either.
pub(super) const TEXT_MAX: usize = 1024 * 1024;
/// Most anchors, and most aliases to them.
pub(super) const ALIASES_MAX: usize = 64;
/// Deepest nesting. A plan needs eight.
pub(super) const DEPTH_MAX: usize = 32;
/// Most keys, values, lists and maps, counted after aliases are filled in.
pub(super) const NODES_MAX: usize = 20_000;
/// Most documents that are not empty.
pub(super) const DOCUMENTS_MAX: usize = 32;

/// A part of the text: one file of several, or all of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    /// What the text calls it; absent when it is all of it.
    pub name: Option<&'a str>,
    /// How many bytes stand before it.
    pub start: usize,
    pub text: &'a str,
}

/// Where something stands in the text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// The part in which it stands, when that has a name.
    pub part: Option<Arc<str>>,
    /// Line of its part, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Its bytes in the whole text.
    pub bytes: Range<usize>,
}

impl Mark {
    /// `line 31`, or `common.yaml:31` where there are several files.
    pub(super) fn place(&self) -> String {
        match &self.part {
            Some(part) => format!("{part}:{}", self.line),
            None => format!("line {}", self.line),
        }
    }
}

/// The key of an entry in a map.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub text: String,
    pub mark: Mark,
}

/// A value, and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub mark: Mark,
    pub value: Value,
    /// Set when the command line replaced what the file says.
    pub overridden: bool,
}

/// What a value can be.
#[derive(Debug, Clone)]
pub(super) enum Value {
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
    Scalar {
        /// As written, without quotes and with escapes undone.
        text: String,
        /// Whether it was written without quotes.
        plain: bool,
    },
}

/// Why the text is not a tree.
#[derive(Debug)]
pub(super) struct Broken {
    pub mark: Mark,
    pub message: String,
    pub help: &'static str,
}

impl Node {
    /// The value under `key`, when this is a map that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(own, _)| own.text == key).map(|(_, node)| node)
    }

    /// The entries; none when this is not a map.
    pub(super) fn entries(&self) -> &[(Key, Self)] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    /// The items; none when this is not a list.
    pub(super) fn items(&self) -> &[Self] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }

    /// The text, when this is a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        if let Value::Scalar { text, .. } = &self.value { Some(text) } else { None }
    }

    /// Whether nothing was written, or `null`.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// What this is, for a person.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Scalar { .. } if self.is_nothing() => "nothing",
            Value::Scalar { .. } => "a single value",
        }
    }

    /// The value at a JSON pointer, or the deepest one on the way to it.
    pub(super) fn pointer(&self, pointer: &str) -> &Self {
        let mut node = self;
        for step in pointer.split('/').skip(1) {
            let step = step.replace("~1", "/").replace("~0", "~");
            let index = step.parse::<usize>().ok();
            match node.get(&step).or_else(|| node.items().get(index?)) {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    /// The same as JSON, with the types that YAML gives to unquoted values.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => serde_json::Value::Object(
                entries.iter().map(|(key, node)| (key.text.clone(), node.to_json())).collect(),
            ),
            Value::Scalar { .. } if self.is_nothing() => serde_json::Value::Null,
            Value::Scalar { text, plain: false } => text.as_str().into(),
            Value::Scalar { text, plain: true } => plain_to_json(text),
        }
    }
}

fn plain_to_json(text: &str) -> serde_json::Value {
    // Words are left alone: only what looks like a number may become one, so `inf` and `on` stay text.
    let number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    match text {
        "true" => true.into(),
        "false" => false.into(),
        _ if number => text
            .parse::<u64>()
            .map(Into::into)
            .or_else(|_| text.parse::<i64>().map(Into::into))
            .or_else(|_| text.parse::<f64>().map(Into::into))
            .unwrap_or_else(|_| text.into()),
        _ => text.into(),
    }
}

/// Reads the documents of all `parts` that are not empty, in order. Repeated keys are reported one by
/// one, and the first of them is kept; anything else that is wrong ends the reading.
pub(super) fn documents(parts: &[Part<'_>]) -> (Option<Vec<Node>>, Vec<Broken>) {
    let len: usize = parts.iter().map(|part| part.text.len()).sum();
    if len > TEXT_MAX {
        let message = format!("the file has {len} bytes");
        let help = "at most 1 MiB is read: split the plan";
        return (None, vec![Broken { mark: Mark::default(), message, help }]);
    }
    let mut read = Read::default();
    let mut documents = Vec::new();
    for part in parts {
        if let Err(broken) = Builder::new(*part, &mut read).documents(&mut documents) {
            return (None, read.repeated.into_iter().chain([broken]).collect());
        }
    }
    (Some(documents), read.repeated)
}

/// What has been read so far, of all parts.
#[derive(Default)]
struct Read {
    aliases: usize,
    anchors: usize,
    nodes: usize,
    repeated: Vec<Broken>,
}

struct Builder<'a, 'r> {
    parser: Parser<'a, StrInput<'a>>,
    part: Option<Arc<str>>,
    start: usize,
    anchors: BTreeMap<usize, Node>,
    read: &'r mut Read,
}

type Built<T> = Result<T, Broken>;

impl<'a, 'r> Builder<'a, 'r> {
    fn new(part: Part<'a>, read: &'r mut Read) -> Self {
        let mut options = Options::default();
        options.set_emit_comments(false);
        let parser = Parser::new_from_str_with_options(part.text, options);
        Self { parser, part: part.name.map(Arc::from), start: part.start, anchors: BTreeMap::new(), read }
    }

    fn documents(&mut self, documents: &mut Vec<Node>) -> Built<()> {
        loop {
            let (event, mark) = self.content()?;
            if matches!(event, Event::StreamEnd) {
                return Ok(());
            }
            let node = self.node(event, mark, 0)?;
            if documents.len() >= DOCUMENTS_MAX {
                return Err(broken(node.mark, "too many documents", "at most 32 are read"));
            }
            documents.extend(Some(node).filter(|node| !node.is_nothing()));
        }
    }

    /// The next event that is not about the stream or the document.
    fn content(&mut self) -> Built<(Event<'a>, Mark)> {
        loop {
            let (event, mark) = self.next()?;
            if !matches!(event, Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd) {
                return Ok((event, mark));
            }
        }
    }

    fn next(&mut self) -> Built<(Event<'a>, Mark)> {
        match self.parser.next() {
            Some(Ok((event, span))) => Ok((event, self.mark(&span))),
            Some(Err(error)) => Err(self.scan_error(&error)),
            None => Ok((Event::StreamEnd, Mark::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, mark: Mark, depth: usize) -> Built<Node> {
        if depth > DEPTH_MAX {
            return Err(broken(mark, "nested too deeply", "at most 32 levels are read"));
        }
        self.count(1, &mark)?;
        let (value, anchor) = match event {
            Event::Alias(id) => return self.alias(id, mark),
            Event::Scalar(text, style, anchor, None) => {
                (Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }, anchor)
            }
            Event::SequenceStart(_, anchor, None) => (self.list(depth)?, anchor),
            Event::MappingStart(_, anchor, None) => (self.map(depth)?, anchor),
            Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                return Err(broken(mark, "a tag", "plans are read without tags: leave it out"));
            }
            _ => return Err(broken(mark, "not a value", "write a value here")),
        };
        let node = Node { mark, value, overridden: false };
        // Anchors are numbered from 1; 0 says that there is none.
        if anchor > 0 {
            self.read.anchors += 1;
            if self.read.anchors > ALIASES_MAX {
                return Err(broken(node.mark, "too many anchors", "at most 64 are read"));
            }
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Built<Value> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, mark) => items.push(self.node(event, mark, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Built<Value> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            let (event, mark) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Value::Map(entries));
            }
            let Event::Scalar(text, style, 0, None) = event else {
                return Err(broken(mark, "a key that is not a simple word", "write a plain word before the colon"));
            };
            if style == ScalarStyle::Plain && text == "<<" {
                return Err(broken(mark, "a merge key", "write the keys out, or use an alias for a whole value"));
            }
            self.count(1, &mark)?;
            let key = Key { text: text.into_owned(), mark };
            let (event, mark) = self.next()?;
            let node = self.node(event, mark, depth + 1)?;
            if seen.insert(key.text.clone()) {
                entries.push((key, node));
            } else if self.read.repeated.len() < ALIASES_MAX {
                let message = format!("`{}` is written twice", key.text);
                self.read.repeated.push(Broken { mark: key.mark, message, help: "keep one of the two" });
            }
        }
    }

    fn alias(&mut self, id: usize, mark: Mark) -> Built<Node> {
        self.read.aliases += 1;
        if self.read.aliases > ALIASES_MAX {
            return Err(broken(mark, "too many aliases", "at most 64 are read"));
        }
        let Some(node) = self.anchors.get(&id).cloned() else {
            return Err(broken(mark, "an alias inside of its own anchor", "write the value out"));
        };
        self.count(size(&node), &mark)?;
        Ok(node)
    }

    fn count(&mut self, nodes: usize, mark: &Mark) -> Built<()> {
        self.read.nodes += nodes;
        if self.read.nodes > NODES_MAX {
            return Err(broken(mark.clone(), "too many keys and values", "at most 20,000 are read"));
        }
        Ok(())
    }

    fn mark(&self, span: &YamlSpan) -> Mark {
        let bytes = span.byte_range().unwrap_or(0..0);
        self.at(span.start.line(), span.start.col(), bytes)
    }

    fn scan_error(&self, error: &ScanError) -> Broken {
        let at = error.marker();
        let start = at.byte_offset().unwrap_or(0);
        let mark = self.at(at.line(), at.col(), start..start);
        Broken { mark, message: format!("not YAML: {}", error.kind()), help: "" }
    }

    fn at(&self, line: usize, column: usize, bytes: Range<usize>) -> Mark {
        let bytes = self.start + bytes.start..self.start + bytes.end;
        Mark { part: self.part.clone(), line: number(line), column: number(column + 1), bytes }
    }
}

fn size(node: &Node) -> usize {
    let entries: usize = node.entries().iter().map(|(_, node)| 1 + size(node)).sum();
    1 + entries + node.items().iter().map(size).sum::<usize>()
}

fn broken(mark: Mark, message: &str, help: &'static str) -> Broken {
    Broken { mark, message: message.to_owned(), help }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last document of `text`.
    fn tree(text: &str) -> (Option<Node>, Vec<Broken>) {
        let (documents, broken) = documents(&[Part { name: None, start: 0, text }]);
        (documents.and_then(|mut documents| documents.pop()), broken)
    }

    fn refused(text: &str, expected: &str) {
        let (_, broken) = tree(text);
        let found = broken.first().map(|b| b.message.as_str()).unwrap_or("accepted");
        assert!(found.contains(expected), "{found} does not contain {expected}");
    }

    #[test]
    fn everything_knows_where_it_stands() {
        let text = "a:\n  - b: 'ü'\n    c: 10%\n";
        let (node, broken) = tree(text);
        assert!(broken.is_empty());
        let item = node.as_ref().and_then(|n| n.get("a")).map(|n| &n.items()[0]).unwrap();
        let c = item.get("c").unwrap();
        assert_eq!((c.mark.line, c.mark.column, c.text()), (3, 8, Some("10%")));
        assert_eq!(&text[c.mark.bytes.clone()], "10%");
        let (key, _) = &item.entries()[0];
        assert_eq!((key.mark.line, key.mark.column), (2, 5));
    }

    #[test]
    fn plain_values_keep_their_text_and_get_their_json_type() {
        let (node, _) = tree("{a: on, b: 010, c: true, d: 1.50, e: '1', f: ~, g: -3, h: .inf}");
        let json = node.unwrap().to_json();
        let expected =
            serde_json::json!({"a": "on", "b": 10, "c": true, "d": 1.5, "e": "1", "f": null, "g": -3, "h": ".inf"});
        assert_eq!(json, expected);
    }

    #[test]
    fn what_could_grow_without_bound_is_refused() {
        refused(&" ".repeat(TEXT_MAX + 1), "bytes");
        refused(&"[".repeat(100_000), "");
        refused(&format!("{}1{}", "[".repeat(40), "]".repeat(40)), "nested too deeply");
        refused(&"- 1\n".repeat(NODES_MAX + 1), "too many keys and values");
        refused("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b, *missing]", "not YAML");
        let laughs: String = (1..30).map(|i| format!("a{i}: &a{i} [*a{}, *a{}]\n", i - 1, i - 1)).collect();
        refused(&format!("a0: &a0 [x, x]\n{laughs}"), "too many keys and values");
        refused("a: &a [*a]", "alias inside of its own anchor");
        refused(&format!("a: &a 1\nb: [{}]", "*a, ".repeat(65)), "too many aliases");
        refused(&"--- {a: 1}\n".repeat(DOCUMENTS_MAX + 1), "too many documents");
        refused(&"--- {a: &a 1, b: *a}\n".repeat(3).repeat(22), "too many");
        refused(&format!("{}---\na: 1", "- 1\n".repeat(NODES_MAX - 1)), "too many keys and values");
        refused("a: &a 1\n---\nb: *a", "not YAML");
    }

    #[test]
    fn what_is_read_differently_elsewhere_is_refused() {
        refused("a: 1\na: 2", "`a` is written twice");
        refused("<<: {a: 1}", "a merge key");
        refused("a: !!str 1", "a tag");
        refused("? [a]\n: 1", "a key that is not a simple word");
        refused("a: 'b", "not YAML");
    }
}
