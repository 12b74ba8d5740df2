//! What leaves the mesh is CloudEvents: its headers, read as the binding says, hold by the schema of the
//! specification, where that is at hand.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use bellwether_protocol::cdevent::CdEvent;
use bellwether_protocol::cloud_event::CloudEvent;
use bellwether_protocol::time::Timestamp;
use serde_json::{Map, Value, json};

/// The event that headers and a body are, in the format of JSON.
fn event(headers: &[(&str, String)], body: Value) -> Value {
    let attributes = headers.iter().map(|(name, value)| {
        let name = name.strip_prefix("ce-").unwrap();
        (name.to_owned(), Value::from(value.as_str()))
    });
    let mut event: Map<String, Value> = attributes.collect();
    event.insert("data".to_owned(), body);
    event.into()
}

#[test]
fn what_leaves_the_mesh_is_cloud_events() {
    let Some(schema) = bellwether_fakes::public::schema("cloudevents/cloudevents.json") else {
        return;
    };
    let schema = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
    let at = Timestamp::from_ms(1_700_000_000_123);
    let ours = [
        ("alert", "alert-shop/1-error_rate-2", "shop/1-error_rate"),
        ("decision", "shop-12-0af7651916cd", "shop"),
        ("outcome", "outcome-shop-0192f8a0", "shop/1"),
    ];
    let ours = ours.map(|(word, id, subject)| {
        let said = CloudEvent::new(&Default::default(), word, id.to_owned(), subject.to_owned(), at);
        (said, format!("bellwether.{word}.v1"))
    });
    let told: CdEvent = serde_json::from_str(include_str!("examples/cdevent.json")).unwrap();
    let told = (told.envelope(), told.context.kind);
    for (said, kind) in ours.into_iter().chain([told]) {
        let headers = said.headers();
        let event = event(&headers, json!({"at": at}));
        let flaws: Vec<String> = schema.iter_errors(&event).map(|error| error.to_string()).collect();
        assert!(flaws.is_empty(), "{event:#}: {flaws:?}");
        assert_eq!(event["type"], kind);
        let without = |name: &str| {
            let mut event = event.clone();
            event.as_object_mut().unwrap().remove(name);
            schema.is_valid(&event)
        };
        for required in ["id", "source", "specversion", "type"] {
            assert!(!without(required), "the schema lets an event without `{required}` pass");
        }
    }
}
