//! One stored example of every message, and any bytes at all, through both codecs.
//!
//! `examples/<word>.json` is a message as a person reads it; `<word>` is the word of its subject or
//! bucket. What travels as MessagePack has a `<word>.hex` beside it. An example that no longer
//! decodes, or decodes to something else, is a break with every process that runs the last release.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fmt::Debug;

use bellwether_protocol::action::{Action, ActionResult};
use bellwether_protocol::alert::{Acknowledgement, Alert};
use bellwether_protocol::assignment::Assignment;
use bellwether_protocol::cdevent::CdEvent;
use bellwether_protocol::codec::{MESSAGE_LEN_MAX, from_json, from_msgpack, to_json, to_msgpack};
use bellwether_protocol::command::{CommandBody, Outcome};
use bellwether_protocol::presence::Presence;
use bellwether_protocol::pushed::Pushed;
use bellwether_protocol::record::Record;
use bellwether_protocol::sample::Tick;
use bellwether_protocol::status::Status;
use proptest::prelude::{ProptestConfig, any, proptest};
use schemars::{JsonSchema, schema_for};
use serde::Serialize;
use serde::de::DeserializeOwned;

trait Message: Serialize + DeserializeOwned + JsonSchema + PartialEq + Debug {}
impl<T: Serialize + DeserializeOwned + JsonSchema + PartialEq + Debug> Message for T {}

/// Calls `$check::<T>(word, json, hex)` for every message; `hex` is empty for those that are JSON only.
macro_rules! for_every_message {
    ($check:ident) => {
        $check::<Acknowledgement>("ack", include_str!("examples/ack.json"), "");
        $check::<Action>("action", include_str!("examples/action.json"), "");
        $check::<ActionResult>("result", include_str!("examples/result.json"), "");
        $check::<Alert>("alert", include_str!("examples/alert.json"), "");
        $check::<Assignment>(
            "assignments",
            include_str!("examples/assignments.json"),
            include_str!("examples/assignments.hex"),
        );
        $check::<CdEvent>("cdevent", include_str!("examples/cdevent.json"), "");
        $check::<CommandBody>("command", include_str!("examples/command.json"), "");
        $check::<Outcome>("outcome", include_str!("examples/outcome.json"), "");
        $check::<Presence>("presence", include_str!("examples/presence.json"), include_str!("examples/presence.hex"));
        $check::<Pushed>("pushed", include_str!("examples/pushed.json"), "");
        $check::<Record>("decision", include_str!("examples/decision.json"), "");
        $check::<Status>("status", include_str!("examples/status.json"), "");
        $check::<Tick>("sample", include_str!("examples/sample.json"), include_str!("examples/sample.hex"));
    };
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).filter_map(byte).collect()
}

fn hex_of(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.chunks(48).map(|line| line.concat() + "\n").collect()
}

fn reads_back<T: Message>(word: &'static str, json: &str, hex: &str) {
    let value: T = from_json(word, json.as_bytes()).unwrap_or_else(|error| unreadable(word, &error));
    let stored: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(serde_json::to_value(&value).unwrap(), stored, "{word}: a field was dropped or rewritten");
    assert_eq!(from_json::<T>(word, &to_json(word, &value).unwrap()).unwrap(), value);
    let packed = to_msgpack(word, &value).unwrap();
    assert_eq!(from_msgpack::<T>(word, &packed).unwrap(), value, "{word} changes in MessagePack");
    if !hex.is_empty() {
        let old = from_msgpack::<T>(word, &bytes_of(hex)).ok();
        assert_eq!(old, Some(value), "{word}.hex is not {word}.json; today's bytes:\n{}", hex_of(&packed));
    }
}

fn unreadable<T>(word: &str, error: &dyn std::error::Error) -> T {
    panic!("the stored {word} can no longer be read: {error}: {:?}", error.source())
}

#[test]
fn stored_examples_read_back() {
    for_every_message!(reads_back);
}

/// What the schema of a word says is what is written, down to the kind of every field.
fn fits_its_schema<T: Message>(word: &'static str, json: &str, _: &str) {
    let schema = jsonschema::validator_for(schema_for!(T).as_value()).unwrap();
    let stored: serde_json::Value = serde_json::from_str(json).unwrap();
    let wrong: Vec<String> = schema.iter_errors(&stored).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{word}: {wrong:?}");
    for (key, _) in stored.as_object().unwrap() {
        let mut broken = stored.clone();
        broken[key] = serde_json::json!([[]]);
        assert!(!schema.is_valid(&broken), "{word}: any `{key}` fits the schema");
    }
}

#[test]
fn stored_examples_fit_their_schemas() {
    for_every_message!(fits_its_schema);
}

/// A message that a newer release sends may hold more: unknown fields must not break older readers.
fn ignores_more<T: Message>(word: &'static str, json: &str, _: &str) {
    let mut more: serde_json::Value = serde_json::from_str(json).unwrap();
    more.as_object_mut().unwrap().insert("of_a_later_release".to_owned(), true.into());
    let read = from_json::<T>(word, more.to_string().as_bytes());
    // People type commands: there an unknown field is a typo.
    assert_eq!(read.is_ok(), word != "command", "{word}: {read:?}");
}

#[test]
fn unknown_fields_are_ignored_but_in_commands() {
    for_every_message!(ignores_more);
}

/// Bytes become a value or an error; a value becomes bytes again.
fn survives<T: Message>(word: &'static str, bytes: &[u8]) {
    if let Ok(value) = from_json::<T>(word, bytes) {
        to_json(word, &value).unwrap();
    }
    if let Ok(value) = from_msgpack::<T>(word, bytes) {
        to_msgpack(word, &value).unwrap();
    }
}

#[test]
fn deep_or_long_messages_are_errors() {
    fn check<T: Message>(word: &'static str, _: &str, _: &str) {
        for byte in [b'[', b'{', 0x91, 0x81, 0xdd, 0xdf] {
            let deep = vec![byte; MESSAGE_LEN_MAX];
            assert!(from_json::<T>(word, &deep).is_err() && from_msgpack::<T>(word, &deep).is_err());
        }
        let long = vec![b' '; MESSAGE_LEN_MAX + 1];
        assert!(from_json::<T>(word, &long).is_err() && from_msgpack::<T>(word, &long).is_err());
    }
    for_every_message!(check);
    // Settings hold any JSON: the one place where depth is not given by a type.
    let nested = |byte: u8| [b"\x81\xa8settings".as_slice(), &vec![byte; 100_000]].concat();
    for byte in [0x91, 0x81] {
        assert!(from_msgpack::<serde_json::Value>("settings", &nested(byte)).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in any::<Vec<u8>>()) {
        macro_rules! each {
            ($($message:ty),*) => {$( survives::<$message>("message", &bytes); )*};
        }
        each!(Acknowledgement, Action, ActionResult, Alert, Assignment, CommandBody, Outcome, Presence, Record, Status, Tick);
    }

    #[test]
    fn examples_with_one_piece_changed_are_a_message_or_an_error(
        at in any::<proptest::sample::Index>(),
        drop in 0_usize..4,
        insert in any::<[u8; 2]>(),
        len in 0_usize..3,
    ) {
        let broken = |bytes: &[u8]| {
            let at = at.index(bytes.len());
            let end = (at + drop).min(bytes.len());
            [&bytes[..at], &insert[..len], &bytes[end..]].concat()
        };
        let check = Broken(&broken);
        macro_rules! each {
            ($($word:literal: $message:ty),*) => {$(
                check.survives::<$message>($word, include_str!(concat!("examples/", $word, ".json")));
            )*};
        }
        each!(
            "ack": Acknowledgement, "action": Action, "alert": Alert, "assignments": Assignment, "command": CommandBody,
            "decision": Record, "outcome": Outcome, "presence": Presence, "result": ActionResult, "sample": Tick, "status": Status
        );
    }
}

/// Breaks an example in either codec.
struct Broken<'a>(&'a dyn Fn(&[u8]) -> Vec<u8>);

impl Broken<'_> {
    fn survives<T: Message>(&self, word: &'static str, json: &str) {
        survives::<T>(word, &self.0(json.as_bytes()));
        let value: T = from_json(word, json.as_bytes()).unwrap();
        survives::<T>(word, &self.0(&to_msgpack(word, &value).unwrap()));
    }
}
