//! CloudEvents 1.0: what says, beside a message that leaves the mesh, what it is. In binary mode, over
//! NATS as over HTTP: attributes are headers, and the body stays what it was.

use crate::subject::Prefix;
use crate::time::Timestamp;

/// What a message is, for those who know CloudEvents and nothing of us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudEvent {
    /// Unique within its source; the same for a repeat.
    pub id: String,
    /// Which mesh it is of.
    pub source: String,
    /// What kind of event.
    pub kind: String,
    /// What it is about.
    pub subject: String,
    /// When it happened.
    pub time: Timestamp,
}

impl CloudEvent {
    /// An event of ours: `word` is `alert`, `decision` or `outcome`, and its body is JSON of that type.
    pub fn new(prefix: &Prefix, word: &str, id: String, subject: String, time: Timestamp) -> Self {
        Self { id, source: Self::source(prefix), kind: format!("bellwether.{word}.v1"), subject, time }
    }

    /// Which mesh an event of this prefix is of.
    pub(crate) fn source(prefix: &Prefix) -> String {
        format!("/bellwether/{prefix}")
    }

    /// What its headers are called, and what each says.
    pub const HEADERS: [(&'static str, &'static str); 7] = [
        ("ce-specversion", "The version of CloudEvents: `1.0`"),
        ("ce-id", "Unique within its source; the same for a repeat"),
        ("ce-source", "Which mesh it is of"),
        ("ce-type", "What kind of event"),
        ("ce-subject", "What it is about"),
        ("ce-time", "When it happened"),
        ("ce-datacontenttype", "The type of the body: `application/json`"),
    ];

    /// The headers that say it. Over HTTP the type of the body is `content-type` instead of the last.
    pub fn headers(&self) -> [(&'static str, String); 7] {
        let Self { id, source, kind, subject, time } = self;
        let values = ["1.0", id, source, kind, subject, &time.to_string(), JSON].map(header);
        let mut named = Self::HEADERS.map(|(name, _)| (name, String::new()));
        named.iter_mut().zip(values).for_each(|(header, value)| header.1 = value);
        named
    }
}

/// The type of every body that leaves the mesh.
const JSON: &str = "application/json";

/// A value as headers hold it: what is not visible ASCII is percent-encoded, and so are `"` and `%`.
fn header(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => value.push_str(&format!("%{byte:02X}")),
            0x21..=0x7e => value.push(char::from(byte)),
            _ => value.push_str(&format!("%{byte:02X}")),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_hold_only_visible_ascii() {
        for (text, expected) in [
            ("shop/1", "shop/1"),
            ("a b", "a%20b"),
            ("50%", "50%25"),
            ("\"é\"", "%22%C3%A9%22"),
            ("a\r\nb", "a%0D%0Ab"),
        ] {
            assert_eq!(header(text), expected);
        }
    }
}
