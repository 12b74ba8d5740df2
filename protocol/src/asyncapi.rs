//! The AsyncAPI 3 document of a mesh: every subject, who speaks and who listens, and what is said.
//!
//! Everything in it comes from somewhere else: addresses from [`FAMILIES`], payloads from the types
//! that are sent. The one list here says which type is whose.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::action::{Action, ActionResult};
use crate::alert::{Acknowledgement, Alert};
use crate::assignment::Assignment;
use crate::cdevent::CdEvent;
use crate::cloud_event::CloudEvent;
use crate::command::{CommandBody, Outcome, Verb};
use crate::id::Role;
use crate::presence::Presence;
use crate::pushed::Pushed;
use crate::record::Record;
use crate::sample::Tick;
use crate::status::Status;
use crate::subject::{FAMILIES, Family, Kept, Prefix};

/// The document of the mesh with this prefix, for the program of this version.
pub fn asyncapi(prefix: &Prefix, version: &str) -> Value {
    let mut schemas = Map::new();
    let mut messages = Map::new();
    for (said, family) in SAID.iter().filter_map(|said| Some((said, family(said.word)?))) {
        let payload = said.payload(&mut schemas);
        messages.insert(said.word.to_owned(), said.message(headers(prefix, family), payload));
    }
    let channels = FAMILIES.iter().map(|family| (family.word.to_owned(), channel(prefix, family)));
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Bellwether",
            "version": version,
            "description": "Every subject of a mesh. Agents report, the coordinators decide, people ask and are told.",
            "license": { "name": "Apache-2.0" },
        },
        "defaultContentType": JSON,
        "servers": {
            "nats": {
                "host": "{host}",
                "protocol": "nats",
                "description": "Any server of the cluster, 2.12 or newer, with JetStream.",
                "variables": { "host": { "default": "127.0.0.1:4222" } },
            },
        },
        "channels": channels.collect::<Map<_, _>>(),
        "operations": FAMILIES.iter().flat_map(operations).collect::<Map<_, _>>(),
        "components": { "messages": messages, "schemas": schemas },
    })
}

/// What travels on one family of subjects.
struct Said {
    word: &'static str,
    about: &'static str,
    content: &'static str,
    /// What draws the payload; nothing for what is between agents of one kind alone.
    payload: Option<fn(&mut SchemaGenerator) -> Schema>,
}

const JSON: &str = "application/json";
const PACKED: &str = "application/msgpack";

const fn said<T: JsonSchema>(word: &'static str, about: &'static str, content: &'static str) -> Said {
    Said { word, about, content, payload: Some(SchemaGenerator::subschema_for::<T>) }
}

const fn unsaid(word: &'static str, about: &'static str) -> Said {
    Said { word, about, content: JSON, payload: None }
}

const SAID: [Said; 17] = [
    said::<Acknowledgement>("ack", "Somebody has taken an incident up", JSON),
    said::<Action>("action", "A lever is to be set; published under an id that a repeat has too", JSON),
    said::<Alert>("alert", "What people are told of an incident", JSON),
    said::<Assignment>("assignments", "What one region watches for one service", PACKED),
    said::<CdEvent>("cdevent", "What a rollout has come to, in the words of CDEvents", JSON),
    unsaid("claims", "Which of several agents acts on a lever; theirs alone"),
    said::<CommandBody>("command", "What a person asks; an empty body is an empty object", JSON),
    said::<Record>("decision", "One decision with all that came in and why; the truth", JSON),
    unsaid("flags", "Where flags stand; the flag agents' alone"),
    unsaid("invites", "That an agent may join, under the hash of its one-time token; the operator's alone"),
    said::<Outcome>("outcome", "What became of a command", JSON),
    said::<Presence>("presence", "That a process is there, what it holds, and where its levers stand", PACKED),
    said::<Pushed>("pushed", "What anyone measured", JSON),
    said::<ActionResult>("result", "What an agent answers to an action", JSON),
    said::<Tick>("sample", "What one agent saw in one tick", PACKED),
    said::<Status>("status", "Where a service's rollout is; a projection of its decisions", JSON),
    unsaid("told", "Which agent tells of which alert; the alert agents' alone"),
];

impl Said {
    /// The payload, with what it refers to put into `schemas`.
    fn payload(&self, schemas: &mut Map<String, Value>) -> Value {
        let Some(draw) = self.payload else { return json!({ "description": "Not for others." }) };
        let mut settings = SchemaSettings::draft07();
        settings.definitions_path = "/components/schemas".into();
        let mut generator = settings.into_generator();
        let payload = draw(&mut generator).to_value();
        let is_packed = self.content == PACKED;
        for (name, mut schema) in generator.take_definitions(true) {
            if is_packed {
                pack(&name, &mut schema);
            }
            schemas.insert(if is_packed { format!("{PACKED_NAME}{name}") } else { name }, schema);
        }
        let mut payload = payload;
        if is_packed {
            pack("", &mut payload);
        }
        payload
    }

    fn message(&self, headers: Value, payload: Value) -> Value {
        json!({
            "name": self.word, "title": self.word, "summary": self.about, "contentType": self.content,
            "headers": headers, "payload": payload,
        })
    }
}

fn family(word: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.word == word)
}

/// What is said beside the messages of a family: to NATS, to whoever traces, and to others than ours.
fn headers(prefix: &Prefix, family: &Family) -> Value {
    let text = |about: &str| json!({ "type": "string", "description": about });
    let (mut properties, mut required) = (Map::new(), Vec::new());
    if family.kept != Kept::Nowhere {
        properties.insert("Nats-Msg-Id".to_owned(), text("The same for a repeat: NATS stores it once"));
        // People may leave it out; what they say then goes by its sequence.
        required.extend((!family.from.contains(&"person")).then_some("Nats-Msg-Id"));
    }
    if matches!(family.kept, Kept::Stream(_)) {
        let about = "Where it stands in a trace (W3C Trace Context); absent where nothing is traced";
        properties.insert("traceparent".to_owned(), text(about));
    }
    if family.leaves_the_mesh() {
        for (name, about) in CloudEvent::HEADERS {
            properties.insert(name.to_owned(), text(about));
            required.push(name);
        }
        properties["ce-source"]["const"] = CloudEvent::source(prefix).into();
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

/// With what the names of those schemas begin that describe MessagePack.
const PACKED_NAME: &str = "packed-";
const REFERENCE: &str = "#/components/schemas/";

/// In MessagePack instants and spans are integers.
fn pack(name: &str, schema: &mut Value) {
    if matches!(name, "Span" | "Timestamp") {
        let unit = if name == "Span" { "Milliseconds." } else { "Milliseconds since the Unix epoch." };
        *schema = json!({ "type": "integer", "minimum": 0, "description": unit });
        return;
    }
    match schema {
        Value::Array(items) => items.iter_mut().for_each(|item| pack("", item)),
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "$ref" => {
                        *text = text.replace(REFERENCE, &format!("{REFERENCE}{PACKED_NAME}"))
                    }
                    value => pack("", value),
                }
            }
        }
        _ => {}
    }
}

fn channel(prefix: &Prefix, family: &Family) -> Value {
    let parameters: Map<String, Value> =
        family.tokens.iter().map(|token| ((*token).to_owned(), parameter(token))).collect();
    let kept = match family.kept {
        Kept::Bucket(bucket) => {
            format!("The last value of each key is kept in the bucket `{}`.", prefix.bucket(bucket))
        }
        Kept::Nowhere => "Kept nowhere.".to_owned(),
        Kept::Stream(stream) => format!("Kept in the stream `{}`.", prefix.stream(stream)),
    };
    json!({
        "address": prefix.subjects(family, |token| format!("{{{token}}}")),
        "title": family.word,
        "description": kept,
        "messages": { family.word: { "$ref": format!("#/components/messages/{}", family.word) } },
        "parameters": parameters,
    })
}

/// What a token says; of a few words where there are only these.
fn parameter(token: &str) -> Value {
    match token {
        "role" => json!({ "enum": Role::ALL.map(Role::as_str) }),
        "severity" => json!({ "enum": ["info", "page", "warn"] }),
        "verb" => json!({ "enum": Verb::ALL.map(Verb::as_str) }),
        _ => json!({ "description": format!("A {token}: 1 to 64 of A-Z a-z 0-9 _ -") }),
    }
}

fn operations(family: &Family) -> impl Iterator<Item = (String, Value)> {
    let word = family.word;
    let one = move |action: &str, who: &str| {
        let operation = json!({
            "action": action,
            "channel": { "$ref": format!("#/channels/{word}") },
            "tags": [{ "name": who }],
            "messages": [{ "$ref": format!("#/channels/{word}/messages/{word}") }],
        });
        (format!("{who}-{action}s-{word}"), operation)
    };
    let sent = family.from.iter().map(move |who| one("send", who));
    sent.chain(family.to.iter().map(move |who| one("receive", who)))
}
