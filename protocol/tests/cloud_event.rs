//! What leaves the mesh is CloudEvents: its headers, read as the binding says, hold by the schema of the
//! specification, where that is at hand.

use bellwether_fakes::public::{cloud_event_flaws, schema};
use bellwether_protocol::cdevent::CdEvent;
use bellwether_protocol::cloud_event::CloudEvent;
use bellwether_protocol::time::Timestamp;
use serde_json::json;

#[test]
fn what_leaves_the_mesh_is_cloud_events() {
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
        let flaws = |without: &str| {
            let left = headers.iter().filter(|(name, _)| *name != without);
            cloud_event_flaws(left.map(|(name, value)| (*name, value.as_str())), json!({ "at": at }))
        };
        assert_eq!(flaws(""), Vec::<String>::new(), "{headers:?}");
        assert!(headers.contains(&("ce-type", kind)), "{headers:?}");
        for required in ["ce-id", "ce-source", "ce-specversion", "ce-type"] {
            let is_held = schema("cloudevents/cloudevents.json").is_none() || !flaws(required).is_empty();
            assert!(is_held, "the schema lets an event without `{required}` pass");
        }
    }
}
