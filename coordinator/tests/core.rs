//! The coordinator's core where the simulation does not reach: several services, and a log that is not ours any more.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;

use bellwether_bus::Trace;
use bellwether_coordinator::core::{Core, Effect, Event};
use bellwether_coordinator::read_inbox;
use bellwether_protocol::alert::Severity;
use bellwether_protocol::command::Verb;
use bellwether_protocol::id::{Ordinal, Service};
use bellwether_protocol::record::Source;
use bellwether_protocol::subject::Prefix;
use bellwether_protocol::time::{Span, Timestamp};

fn begin() -> Timestamp {
    Timestamp::from_ms(1_800_000_000_000)
}

/// An abort that somebody asks of a service: without a rollout it is refused, and that is recorded.
fn abort(seq: u64, service: &str) -> Event {
    let service: Service = service.parse().unwrap();
    let subject = Prefix::default().command(&service, Verb::Abort, &"ana".parse().unwrap());
    let id = format!("command-{seq}");
    let (service, input) = read_inbox(&Prefix::default(), &subject, seq, begin(), Some(&id), b"{}").unwrap();
    Event::Inbox { service, seq, input: Box::new(input) }
}

/// A coordinator that has read `stored` and decides now; what it would append, by service.
fn start(stored: Vec<Event>, last: u64) -> (Core, BTreeMap<Service, (Ordinal, Vec<u8>)>) {
    let mut core = Core::new("c1".parse().unwrap(), BTreeMap::new());
    let mut appends = BTreeMap::new();
    let (streams, caught_up) = ([(Source::Samples, 0), (Source::Inbox, last)], Event::CaughtUp);
    let opened = streams.map(|(source, last)| Event::Opened { source, created: begin(), last });
    for event in opened.into_iter().chain(stored).chain([caught_up]) {
        for effect in core.handle(event, begin(), false) {
            if let Effect::Append { record, body, .. } = effect {
                appends.insert(record.service.clone(), (record.ordinal, body));
            }
        }
    }
    (core, appends)
}

#[test]
fn a_first_command_is_read_again_though_another_service_went_on() {
    let (_, mut appends) = start(vec![abort(1, "cart"), abort(2, "shop")], 2);
    assert_eq!(appends.len(), 2);
    // It is killed when one of the two is stored.
    for (service, from) in [("cart", 2), ("shop", 1)] {
        let service: Service = service.parse().unwrap();
        let (_, body) = appends.remove(&service).unwrap();
        let mut core = Core::new("c1".parse().unwrap(), BTreeMap::new());
        let record = Event::Record { service, seq: 1, trace: Trace::default(), body };
        assert!(core.handle(record, begin(), false).iter().all(|effect| !matches!(effect, Effect::Append { .. })));
        assert_eq!(core.begin_at(Source::Inbox), Some(from));
    }
}

#[test]
fn a_log_that_takes_nothing_and_shows_nothing_is_paged_once() {
    let (mut core, appends) = start(vec![abort(1, "shop")], 1);
    let (service, (mut ordinal, body)) = appends.into_iter().next().unwrap();
    let (mut paged, mut now) = (Vec::new(), begin());
    let conflict =
        |service: &Service, ordinal| Event::AppendFailed { service: service.clone(), ordinal, conflict: true };
    let mut events = vec![conflict(&service, ordinal)];
    while now < begin() + Span::from_secs(600) {
        let event = events.pop().unwrap_or(Event::Wake);
        for effect in core.handle(event, now, false) {
            match effect {
                Effect::Append { record, .. } => {
                    ordinal = record.ordinal;
                    events.push(conflict(&service, ordinal));
                }
                Effect::Page(alert) => paged.push((now.since(begin()), alert)),
                _ => {}
            }
        }
        now = now + Span::from_ms(200);
    }
    let [(after, page)] = &paged[..] else { panic!("{} pages", paged.len()) };
    assert!(*after <= Span::from_secs(70), "after {after}");
    assert_eq!(page.severity, Severity::Page);
    // What was stored comes after all: then it goes on.
    let record = Event::Record { service, seq: 1, trace: Trace::default(), body };
    assert!(core.handle(record, now, false).iter().any(|effect| matches!(effect, Effect::Remember(..))));
    assert_eq!(ordinal, Ordinal(1));
}
