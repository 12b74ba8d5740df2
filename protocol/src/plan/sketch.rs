//! The JSON Schema of plan files, drawn by the reader itself: it is run over nothing, and whatever it
//! asks for is noted. So there is no second list of keys; what each key is for, the doc comments of
//! the plan's types say.
//!
//! The schema is narrower than the reader in one thing: a number, `true` and `false` stand without
//! quotes, and a name that looks like one of them stands in quotes. It says nothing of a probe's own
//! settings, which the probe checks, nor of what names refer to, which `check` does. In a file that is
//! laid over another one it misses nothing: what is not there may be in the base.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::node::{Mark, Node, Value as NodeValue};
use super::reader::Reader;
use super::{Plan, Validators};

/// The JSON Schema (draft 7, which every editor knows) of plan files that use these kinds of probes.
pub fn plan_schema(validators: &Validators) -> Value {
    let mut reader = Reader::new(validators);
    reader.sketch = Some(Sketch { docs: docs(), open: vec![Map::new()] });
    reader.plan(&nothing());
    let whole: Value = reader.sketch.and_then(|mut sketch| sketch.open.pop()).unwrap_or_default().into();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Bellwether plan",
        "if": { "required": ["extends"] },
        "then": over_a_base(whole.clone()),
        "else": whole,
    })
}

/// The schema of what may be written over a base: any part of it, and `~` for what is taken away.
fn over_a_base(mut schema: Value) -> Value {
    let Value::Object(own) = &mut schema else { return schema };
    let is_named = |items: &Value| items["properties"].get("name").is_some();
    // Any other list takes the place of the base's, so it is whole.
    if own.get("items").is_some_and(|items| !is_named(items)) {
        return schema;
    }
    for keyword in ["required", "oneOf", "dependencies", "minItems", "minProperties"] {
        own.remove(keyword);
    }
    if let Some(items) = own.get_mut("items") {
        *items = over_a_base(items.take());
        items["required"] = json!(["name"]);
        items["properties"]["before"] = json!({ "type": "string", "description": "The item before which it stands. Default: where the base has it, or last." });
        items["properties"]["remove"] = json!({ "const": true, "description": "Takes the base's item of this name away: nothing else is written of it." });
        items["dependencies"] = json!({ "remove": { "maxProperties": 2 } });
    }
    if let Some(values) = own.get_mut("additionalProperties").filter(|values| values.is_object()) {
        *values = or_nothing(over_a_base(values.take()));
    }
    for value in own.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(|map| map.values_mut()) {
        *value = or_nothing(over_a_base(value.take()));
    }
    for way in own.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().flatten() {
        *way = over_a_base(way.take());
    }
    schema
}

fn or_nothing(mut schema: Value) -> Value {
    let description = schema.as_object_mut().and_then(|own| own.remove("description"));
    let told = description.map(|text| ("description".to_owned(), text));
    let ways = ("anyOf".to_owned(), json!([schema, { "type": "null" }]));
    Value::Object(told.into_iter().chain([ways]).collect())
}

/// What the reader reads while it draws.
fn nothing() -> Node {
    Node { mark: Mark::default(), value: NodeValue::Map(Vec::new()), overridden: false }
}

/// Where the doc comments of a section's keys are: those of a type's fields, or of its variants. An
/// objective is a variant of its own, and `sli` in it is the criterion's.
const SECTIONS: [(&str, &[&str]); 14] = [
    ("activity", &["Activity"]),
    ("cohort", &["Plan"]),
    ("cohorts", &["Plan"]),
    ("criterion", &["Criterion", "Objective"]),
    ("entry", &["Set", "SetTo"]),
    ("fingerprint", &["Fingerprint"]),
    ("freeze", &["Freeze"]),
    ("level", &["TakeBackLevel"]),
    ("lever", &["LeverUse"]),
    ("plan", &["Plan"]),
    ("sli", &["Sli"]),
    ("stage", &["Stage"]),
    ("step", &["FailStep"]),
    ("take_back", &["TakeBack"]),
];
/// Keys that are called otherwise than their field. Those of a map without a name are any others.
const FIELDS: [(&str, &str, &str); 13] = [
    ("cohort", "headers", "canary"),
    ("compare_latency", "q", "quantile"),
    ("criterion", "for", "hold_for"),
    ("criterion", "must", "objective"),
    ("entry", "run", "lever"),
    ("entry", "set", "lever"),
    ("plan", "cohorts", "canary"),
    ("quantile", "q", "quantile"),
    ("sli", "*", "settings"),
    ("stage", "at_most", "regions"),
    ("stage", "waves", "regions"),
    ("step", "do", "act"),
    ("step", "for", "after"),
];

/// What has been drawn.
pub(super) struct Sketch {
    /// Doc comments, by type and field.
    docs: Docs,
    /// The schemas that are being drawn, the innermost last.
    open: Vec<Map<String, Value>>,
}

type Docs = BTreeMap<(String, String), String>;

impl Sketch {
    fn top(&mut self) -> &mut Map<String, Value> {
        if self.open.is_empty() {
            self.open.push(Map::new());
        }
        let last = self.open.len() - 1;
        &mut self.open[last]
    }

    /// Adds keywords to what is being drawn.
    pub(super) fn note(&mut self, keywords: Value) {
        let Value::Object(keywords) = keywords else { return };
        self.top().extend(keywords);
    }

    /// Adds what is known of one Rust type.
    pub(super) fn note_type<T: JsonSchema>(&mut self) {
        self.note(schema_of::<T>());
    }

    /// Adds to a keyword that holds an object or a list, such as `properties`.
    fn add(&mut self, keyword: &str, key: Option<&str>, value: Value) {
        let empty = if key.is_some() { json!({}) } else { json!([]) };
        match (self.top().entry(keyword).or_insert(empty), key) {
            (Value::Object(map), Some(key)) => drop(map.insert(key.to_owned(), value)),
            (Value::Array(list), None) => list.push(value),
            _ => {}
        }
    }

    /// A map with known keys.
    pub(super) fn section(&mut self, known: &[&str]) {
        let or_nothing = self.top().contains_key("type");
        let kind = if or_nothing { json!(["object", "null"]) } else { json!("object") };
        let properties: Map<String, Value> = known.iter().map(|key| ((*key).to_owned(), json!({}))).collect();
        self.note(json!({ "type": kind, "properties": properties, "additionalProperties": false }));
    }

    pub(super) fn require(&mut self, key: &str) {
        self.add("required", None, key.into());
    }

    /// `key` stands only where `beside` does.
    pub(super) fn depend(&mut self, key: &str, beside: &str) {
        self.add("dependencies", Some(key), json!([beside]));
    }

    /// Exactly one of these keys.
    pub(super) fn one_of(&mut self, keys: &[&str]) {
        for key in keys {
            self.add("oneOf", None, json!({ "required": [key] }));
        }
    }

    fn doc(&self, what: &str, key: &str) -> Option<&String> {
        let own = format!("Objective.{what}");
        let objective = [own.as_str(), "Criterion"];
        let types = SECTIONS.iter().find(|(own, _)| *own == what).map_or(&objective[..], |(_, types)| types);
        let called = |name: &str| FIELDS.iter().find(|(w, k, _)| (*w, *k) == (what, name)).map(|(_, _, field)| *field);
        let fields = [called(key).unwrap_or(key), called("*").unwrap_or(key)];
        let found = |field: &str| types.iter().find_map(|name| self.docs.get(&((*name).to_owned(), field.to_owned())));
        fields.into_iter().find_map(found)
    }
}

impl Reader<'_> {
    /// What `read` asks for, as a schema.
    fn drawn<'n, T>(&mut self, node: &'n Node, read: impl FnOnce(&mut Self, &'n Node) -> Option<T>) -> Value {
        if let Some(sketch) = &mut self.sketch {
            sketch.open.push(Map::new());
        }
        read(self, node);
        self.sketch.as_mut().and_then(|sketch| sketch.open.pop()).unwrap_or_default().into()
    }

    /// Draws the value of a key.
    pub(super) fn draw<'n, T>(
        &mut self,
        what: &str,
        key: &str,
        node: &'n Node,
        read: impl FnOnce(&mut Self, &'n Node) -> Option<T>,
    ) {
        let mut value = self.drawn(node, read);
        let Some(sketch) = &mut self.sketch else { return };
        if let (Some(doc), Value::Object(schema)) = (sketch.doc(what, key), &mut value) {
            schema.insert("description".to_owned(), doc.as_str().into());
        }
        sketch.add("properties", Some(key), value);
    }

    /// Draws the items of a list, the values of a map, or one way to write a value.
    pub(super) fn draw_under<'n, T>(
        &mut self,
        keyword: &str,
        node: &'n Node,
        read: impl FnOnce(&mut Self, &'n Node) -> Option<T>,
    ) {
        let value = self.drawn(node, read);
        let Some(sketch) = &mut self.sketch else { return };
        if keyword == "anyOf" {
            sketch.add(keyword, None, value);
        } else {
            sketch.top().insert(keyword.to_owned(), value);
        }
    }
}

/// The schema of one type, whole and without a name.
pub(super) fn schema_of<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    let mut generator = settings.into_generator();
    T::json_schema(&mut generator).to_value()
}

/// The doc comments of the plan's types, fields and variants.
fn docs() -> Docs {
    let root = SchemaSettings::draft07().into_generator().into_root_schema_for::<Plan>().to_value();
    let mut docs = Docs::new();
    let types = root["definitions"].as_object().into_iter().flatten();
    for (name, schema) in types.map(|(name, schema)| (name.as_str(), schema)).chain([("Plan", &root)]) {
        fields(&mut docs, name, schema);
        for variant in schema["oneOf"].as_array().into_iter().flatten() {
            for (key, inner) in variant["properties"].as_object().into_iter().flatten() {
                put(&mut docs, name, key, variant);
                fields(&mut docs, &format!("{name}.{key}"), inner);
            }
        }
    }
    docs
}

fn fields(docs: &mut Docs, name: &str, schema: &Value) {
    for (field, inner) in schema["properties"].as_object().into_iter().flatten() {
        put(docs, name, field, inner);
    }
}

fn put(docs: &mut Docs, name: &str, key: &str, schema: &Value) {
    if let Some(doc) = schema["description"].as_str() {
        docs.insert((name.to_owned(), key.to_owned()), doc.to_owned());
    }
}

#[cfg(test)]
mod tests;
