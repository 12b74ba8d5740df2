//! The AsyncAPI document, held against AsyncAPI's own parser and the stored example of every message.
//!
//! The parser comes from npm, once, into the build's own directory.

#![expect(clippy::expect_used, reason = "a test")]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bellwether_protocol::asyncapi::asyncapi;
use bellwether_protocol::cloud_event::CloudEvent;
use bellwether_protocol::subject::{Bucket, FAMILIES, Kept, Prefix, Stream};
use bellwether_protocol::time::Timestamp;
use serde_json::{Map, Value, json};

const PARSER: &str = "@asyncapi/parser@3.6.3";

/// Prints what the parser has to say, in its own severities: 0 is an error, 1 a warning.
const SCRIPT: &str = r#"
const { Parser } = require("@asyncapi/parser");
const text = require("fs").readFileSync(0, "utf8");
new Parser().parse(text).then(({ document, diagnostics }) => {
    const said = diagnostics.map(({ code, severity, message, path }) => ({ code, severity, message, path: path.join("/") }));
    console.log(JSON.stringify({ said, channels: document ? document.channels().all().map((one) => one.address()) : [] }));
});
"#;

fn document() -> Value {
    asyncapi(&Prefix::default(), "0.1.0")
}

/// The directory with the parser, installed now or before.
fn parser() -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let dir = root.join(PARSER.replace(['@', '/'], "-"));
    if !dir.is_dir() {
        println!("installing {PARSER} with npm into {}", dir.display());
        let partial = root.join(format!("npm-partial-{}", std::process::id()));
        let mut npm = Command::new("npm");
        npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--prefix"])
            .arg(&partial)
            .arg(PARSER);
        let output = npm.output().expect("npm");
        assert!(output.status.success(), "{npm:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        // Another process may have been faster, and its directory is as good.
        if std::fs::rename(&partial, &dir).is_err() {
            std::fs::remove_dir_all(&partial).expect("removed");
        }
    }
    dir
}

fn parse(document: &Value) -> Value {
    let mut node = Command::new("node");
    node.env("NODE_PATH", parser().join("node_modules")).args(["-e", SCRIPT]);
    let mut child = node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node");
    child.stdin.take().expect("an input").write_all(document.to_string().as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ended");
    assert!(output.status.success(), "the parser stopped");
    serde_json::from_slice(&output.stdout).expect("json")
}

fn wrong(said: &Value) -> Vec<String> {
    let said = said["said"].as_array().expect("a list");
    said.iter().filter(|one| one["severity"].as_u64() <= Some(1)).map(Value::to_string).collect()
}

#[test]
fn its_own_parser_finds_nothing_wrong() {
    let document = document();
    let said = parse(&document);
    assert_eq!(wrong(&said), Vec::<String>::new());
    assert_eq!(said["channels"].as_array().map(Vec::len), Some(FAMILIES.len()));
    // The guard guards: a channel without one of its parameters, and a reference to nothing.
    for (pointer, value) in [
        ("/channels/command/parameters", json!({ "service": {} })),
        ("/channels/ack/messages/ack/$ref", json!("#/components/messages/nothing")),
    ] {
        let mut broken = document.clone();
        *broken.pointer_mut(pointer).expect("a place") = value;
        assert_ne!(wrong(&parse(&broken)), Vec::<String>::new(), "{pointer} may be anything");
    }
}

#[test]
fn every_stream_and_bucket_has_its_channels() {
    let document = document();
    let words: BTreeSet<&str> = FAMILIES.iter().map(|family| family.word).collect();
    for part in ["/channels", "/components/messages"] {
        let own = document.pointer(part).and_then(Value::as_object).expect("a map").keys().map(String::as_str);
        assert_eq!(own.collect::<BTreeSet<_>>(), words, "{part}");
    }
    let kept: Vec<Kept> = FAMILIES.iter().map(|family| family.kept).collect();
    assert!(Stream::ALL.into_iter().all(|stream| kept.contains(&Kept::Stream(stream))));
    assert!(Bucket::ALL.into_iter().all(|bucket| kept.contains(&Kept::Bucket(bucket))));
    assert_eq!(document["channels"]["command"]["address"], "bw.command.{service}.{verb}.{principal}");
    assert_eq!(document["channels"]["presence"]["address"], "$KV.bw-presence.{region}.{role}.{agent}");
}

/// The document's headers are those that are sent: who filters by them finds what it says.
#[test]
fn what_leaves_the_mesh_says_what_it_is() {
    let (document, prefix) = (document(), Prefix::default());
    let event = CloudEvent::new(&prefix, "alert", "alert-1".to_owned(), "shop/42".to_owned(), Timestamp::default());
    let told: Value = event.headers().into_iter().chain([("Nats-Msg-Id", "alert-1".to_owned())]).collect();
    let others: Value = CloudEvent { source: "/bellwether/other".to_owned(), ..event }.headers().into_iter().collect();
    for (word, names) in [
        ("alert", 9),
        ("cdevent", 9),
        ("decision", 9),
        ("outcome", 9),
        ("action", 2),
        ("command", 2),
        ("sample", 2),
        ("status", 1),
        ("pushed", 0),
    ] {
        let headers = &document["components"]["messages"][word]["headers"];
        assert_eq!(headers["properties"].as_object().map(Map::len), Some(names), "{word}");
        let schema = jsonschema::draft7::new(headers).expect("a schema");
        assert!(schema.is_valid(&told), "{word}");
        assert_eq!(schema.is_valid(&others), matches!(word, "command" | "pushed"), "{word}");
    }
}

/// The payload of a message with all that it refers to.
fn validator(document: &Value, word: &str) -> jsonschema::Validator {
    let mut schema = document["components"]["messages"][word]["payload"].clone();
    schema["components"] = json!({ "schemas": document["components"]["schemas"] });
    jsonschema::draft7::new(&schema).expect("a schema")
}

#[test]
fn stored_examples_fit_their_payloads() {
    let document = document();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/examples");
    for word in ["ack", "action", "alert", "cdevent", "command", "decision", "outcome", "pushed", "result", "status"] {
        let text = std::fs::read_to_string(folder.join(word).with_extension("json")).expect("an example");
        let stored: Value = serde_json::from_str(&text).expect("json");
        let validator = validator(&document, word);
        let wrong: Vec<String> = validator.iter_errors(&stored).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{word}: {wrong:?}");
        assert!(!validator.is_valid(&json!([])), "{word}: a list fits");
    }
    // A sample's histogram has integers for keys, which no JSON Schema can hold against it.
    for word in ["assignments", "presence"] {
        let text = std::fs::read_to_string(folder.join(word).with_extension("hex")).expect("an example");
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
        let bytes: Vec<u8> = pairs.map(|pair| u8::from_str_radix(pair, 16).expect("digits")).collect();
        let stored: Value = rmp_serde::from_slice(&bytes).expect("MessagePack");
        let wrong: Vec<String> =
            validator(&document, word).iter_errors(&stored).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{word}: {wrong:?}");
    }
}
