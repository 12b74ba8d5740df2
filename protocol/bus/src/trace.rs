//! Where a message stands in a trace: W3C Trace Context, beside what is said and never in it.
//!
//! Without an exporter of traces nothing begins here, and what others began is passed on as it came.
//! Names and attributes are those of OpenTelemetry's semantic conventions.

use std::borrow::Cow;
use std::fmt;

use async_nats::HeaderMap;
use opentelemetry::trace::{FutureExt, Link, SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId};
use opentelemetry::trace::{TraceState, Tracer};
use opentelemetry::{Context, global};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use opentelemetry::KeyValue;
pub use opentelemetry::trace::SpanKind;

/// The header that carries a [`Trace`], over NATS and over HTTP.
pub const TRACEPARENT: &str = "traceparent";
/// Most other traces that one hop names as causes.
const LINKS_MAX: usize = 16;

/// A place in a trace, or none. Written as a `traceparent`; none is the empty text.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Trace(Option<SpanContext>);

impl Trace {
    /// Reads a `traceparent` of version 00. What cannot be read is no place: a trace is not worth an error.
    pub fn read(text: &str) -> Self {
        Self(read(text))
    }

    /// Where a message with these headers stands.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        headers.get(TRACEPARENT).map(|value| Self::read(value.as_str())).unwrap_or_default()
    }

    /// Where we are now.
    pub fn current() -> Self {
        let context = Context::current().span().span_context().clone();
        Self(context.is_valid().then_some(context))
    }

    /// Whether it is no place.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// The trace's own id, for logs.
    pub fn id(&self) -> Option<String> {
        self.0.as_ref().map(|context| context.trace_id().to_string())
    }

    /// Does `work` here: hops that it begins follow this one. None leaves things as they are.
    pub async fn around<F: Future>(&self, work: F) -> F::Output {
        match &self.0 {
            Some(context) => work.with_context(Context::current().with_remote_span_context(context.clone())).await,
            None => work.await,
        }
    }
}

fn read(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_sound = (version, trace.len(), span.len(), flags.len(), parts.next()) == ("00", 32, 16, 2, None);
    if !is_sound || text.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'+') {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE)).filter(SpanContext::is_valid)
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(context) = &self.0 else { return Ok(()) };
        write!(f, "00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
    }
}

impl Serialize for Trace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Trace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::read(&Cow::<str>::deserialize(deserializer)?))
    }
}

/// One hop of a trace: something that is done, from when it is begun until it is dropped.
#[derive(Debug, Clone)]
pub struct Hop(Context);

impl Hop {
    /// Begins a hop that follows from where we are.
    pub fn begin(kind: SpanKind, name: impl Into<Cow<'static, str>>, attributes: Vec<KeyValue>) -> Self {
        Self::because(&Trace::default(), &[], kind, name, attributes)
    }

    /// Begins a hop that follows from `parent`, or from where we are when that is none; `causes` took part in it.
    pub fn because(
        parent: &Trace,
        causes: &[Trace],
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        attributes: Vec<KeyValue>,
    ) -> Self {
        let tracer = global::tracer("bellwether");
        let current = Context::current();
        let context = match &parent.0 {
            Some(parent) => current.with_remote_span_context(parent.clone()),
            None => current,
        };
        let links = causes.iter().filter_map(|cause| cause.0.clone()).take(LINKS_MAX).map(Link::with_context);
        let builder = tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
        let span = tracer.build_with_context(builder.with_links(links.collect()), &context);
        Self(context.with_span(span))
    }

    /// Where it is.
    pub fn trace(&self) -> Trace {
        let context = self.0.span().span_context().clone();
        Trace(context.is_valid().then_some(context))
    }

    /// Notes what became known on the way.
    pub fn note(&self, attribute: KeyValue) {
        self.0.span().set_attribute(attribute);
    }

    /// It failed: of which kind, one of a few words, and why.
    pub fn fail(&self, kind: impl Into<Cow<'static, str>>, why: impl Into<Cow<'static, str>>) {
        self.note(KeyValue::new("error.type", kind.into()));
        self.0.span().set_status(Status::error(why));
    }

    /// Does `work` as this hop: hops that it begins follow this one.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        work.with_context(self.0.clone()).await
    }
}

/// What a hop tells of a message on its way.
#[derive(Debug)]
pub(crate) struct Told<'a> {
    /// What we call what is done with it.
    pub(crate) operation: &'static str,
    /// What OpenTelemetry calls that: `send` or `process`.
    pub(crate) is: &'static str,
    pub(crate) subject: &'a str,
    pub(crate) id: &'a str,
    pub(crate) len: usize,
}

impl Told<'_> {
    pub(crate) fn hop(&self, parent: &Trace, causes: &[Trace], kind: SpanKind) -> Hop {
        let attributes = vec![
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("messaging.operation.name", self.operation),
            KeyValue::new("messaging.operation.type", self.is),
            KeyValue::new("messaging.destination.name", self.subject.to_owned()),
            KeyValue::new("messaging.message.id", self.id.to_owned()),
            KeyValue::new("messaging.message.body.size", i64::try_from(self.len).unwrap_or(i64::MAX)),
        ];
        Hop::because(parent, causes, kind, format!("{} {}", self.operation, word(self.subject)), attributes)
    }
}

/// What a subject is about, without who and where: its first two tokens. Names of hops stay few by it.
pub(crate) fn word(subject: &str) -> &str {
    let end = subject.match_indices('.').nth(1).map_or(subject.len(), |(end, _)| end);
    &subject[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_as_written_and_nonsense_is_none() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = Trace::read(text);
        assert_eq!(trace.to_string(), text);
        assert_eq!(trace.id().as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(serde_json::from_str::<Trace>(&serde_json::to_string(&trace).expect("text")).expect("read"), trace);
        for wrong in [
            "",
            "00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert!(Trace::read(wrong).is_none(), "`{wrong}` was read");
        }
    }

    #[test]
    fn a_hop_is_named_by_what_it_is_about() {
        assert_eq!(word("bw.sample.sjc.probe.one"), "bw.sample");
        assert_eq!(word("bw"), "bw");
    }

    #[tokio::test]
    async fn what_others_began_is_passed_on() {
        let trace = Trace::read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let seen = trace.around(async {
            let hop = Hop::begin(SpanKind::Internal, "nothing", Vec::new());
            hop.run(async { Trace::current() }).await
        });
        assert_eq!(seen.await.id(), trace.id());
        assert!(Trace::current().is_none());
    }
}
