//! Which release a message names, if it is one of ours. Pure.

use std::collections::BTreeMap;

use bellwether_protocol::codec::from_json;
use bellwether_protocol::id::Release;
use bellwether_runtime::web::JsonPath;
use regex::Regex;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Largest message that is looked into, in bytes; GitHub's are about 10 KiB.
const BODY_LEN_MAX: usize = 256 * 1024;
/// Memory of a pattern that is compiled, in bytes.
const PATTERN_SIZE_MAX: usize = 1024 * 1024;

/// What is heard, and where in it the release stands.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Message {
    /// The NATS subject; wildcards are allowed.
    pub(crate) subject: String,
    /// Where the release stands in a JSON body; without it the whole body is the release.
    #[serde(default, deserialize_with = "path")]
    release: Option<JsonPath>,
    /// What must stand at other places of the body; a message that says otherwise is not for us.
    #[serde(default, deserialize_with = "conditions", rename = "where")]
    only: Vec<(JsonPath, Value)>,
    /// Which part of that text is the release: the first group of this pattern.
    #[serde(default, deserialize_with = "pattern")]
    pattern: Option<Regex>,
}

impl Message {
    /// The release that a message names; `None` when it is not for us.
    ///
    /// # Errors
    /// Why it cannot be understood.
    pub(crate) fn read(&self, body: &[u8]) -> Result<Option<Release>, String> {
        if body.len() > BODY_LEN_MAX {
            return Err(format!("{} bytes are over the limit of {BODY_LEN_MAX}", body.len()));
        }
        let text = match &self.release {
            None => String::from_utf8(body.to_vec()).map_err(|_| "it is no text".to_owned())?,
            Some(path) => {
                let body: Value = from_json("message", body).map_err(|error| error.to_string())?;
                if self.only.iter().any(|(path, wanted)| path.one(&body) != Some(wanted)) {
                    return Ok(None);
                }
                match path.one(&body) {
                    Some(Value::String(text)) => text.clone(),
                    Some(Value::Number(number)) => number.to_string(),
                    _ => return Err(format!("there is no text at {path}")),
                }
            }
        };
        let text = text.trim();
        let named = match &self.pattern {
            None => text,
            Some(pattern) => {
                let found = pattern.captures(text).and_then(|found| found.get(1));
                found.ok_or_else(|| format!("`{}` does not fit it", pattern.as_str()))?.as_str()
            }
        };
        named.parse().map(Some).map_err(|error: bellwether_protocol::id::IdError| error.to_string())
    }

    /// What could never work.
    pub(crate) fn flaw(&self) -> Option<String> {
        let is_subject = |token: &str| !token.is_empty() && !token.contains(char::is_whitespace);
        if !self.subject.split('.').all(is_subject) {
            return Some(format!("`{}` is not a NATS subject", self.subject));
        }
        let is_lost = self.release.is_none() && !self.only.is_empty();
        is_lost.then(|| "`where` looks into JSON, so `release` must say where in it the release stands".to_owned())
    }
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<JsonPath>, D::Error> {
    let text = String::deserialize(deserializer)?;
    JsonPath::parse(&text).map(Some).map_err(|error| D::Error::custom(format!("`{text}`: {error}")))
}

fn conditions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(JsonPath, Value)>, D::Error> {
    let read = |(text, wanted): (String, Value)| match JsonPath::parse(&text) {
        _ if wanted.is_array() || wanted.is_object() => Err(D::Error::custom(format!("`{text}` must be one value"))),
        Ok(path) => Ok((path, wanted)),
        Err(error) => Err(D::Error::custom(format!("`{text}`: {error}"))),
    };
    BTreeMap::<String, Value>::deserialize(deserializer)?.into_iter().map(read).collect()
}

fn pattern<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Regex>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let read = regex::RegexBuilder::new(&text).size_limit(PATTERN_SIZE_MAX).build();
    let read = read.map_err(|error| D::Error::custom(format!("`{text}` is no pattern: {error}")))?;
    if read.captures_len() < 2 {
        return Err(D::Error::custom(format!("`{text}` needs a group, such as `:(.+)$`")));
    }
    Ok(Some(read))
}

#[cfg(test)]
mod tests {
    use bellwether_runtime::parse_config;

    use super::*;

    /// As the specification's conformance file has it, shortened.
    const CDEVENT: &str = r#"{"context": {"type": "dev.cdevents.service.deployed.0.3.0"}, "subject": {"content": {
        "environment": {"id": "production"}, "artifactId": "pkg:oci/myapp@sha256%3A0b31b1c0"}}}"#;
    const GITHUB: &str = r#"{"action": "created", "deployment": {"ref": "v43", "environment": "production"}}"#;

    #[test]
    fn messages_name_a_release_or_are_not_for_us_or_are_not_understood() {
        let check = |settings: &str, body: &str, expected: Result<Option<&str>, &str>| {
            let message: Message = parse_config("x", &format!("{{ subject: ci, {settings} }}")).unwrap();
            assert_eq!(message.flaw(), None, "{settings}");
            match (message.read(body.as_bytes()), expected) {
                (Ok(named), Ok(expected)) => assert_eq!(named.as_ref().map(Release::as_str), expected, "{body}"),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
                (read, _) => panic!("{body} gave {read:?}"),
            }
        };
        check("", "v43\n", Ok(Some("v43")));
        check("", "", Err("release ``"));
        check("", "v43 and v44", Err("release `v43 and v44`"));
        check("release: $.image.tag", r#"{"image": {"tag": "v43"}}"#, Ok(Some("v43")));
        check("release: $.build", r#"{"build": 43}"#, Ok(Some("43")));
        check("release: $.image.tag", r#"{"image": {"tag": ["v43"]}}"#, Err("no text at $"));
        check("release: $.a", r#"{"a": "b"#, Err("JSON"));
        check("release: $.i, pattern: ':([^:]+)$'", r#"{"i": "here:5000/shop:v43"}"#, Ok(Some("v43")));
        check("release: $.i, pattern: ':([^:]+)$'", r#"{"i": "shop"}"#, Err("does not fit"));
        let cdevent = "release: $.subject.content.artifactId, pattern: '@(?:sha256%3A)?(.+)$', where: {";
        let of = |environment| format!("{cdevent} $.subject.content.environment.id: {environment} }}");
        check(&of("production"), CDEVENT, Ok(Some("0b31b1c0")));
        check(&of("staging"), CDEVENT, Ok(None));
        let github = "release: $.deployment.ref, where: { $.action: created, $.deployment.environment: production }";
        check(github, GITHUB, Ok(Some("v43")));
        check(github, r#"{"action": "deleted"}"#, Ok(None));
        check("", &"v".repeat(BODY_LEN_MAX + 1), Err("over the limit"));
        check("release: $.a", &"[".repeat(100_000), Err("JSON"));
    }

    #[test]
    fn settings_that_could_never_work_are_refused() {
        let read = |settings: &str| parse_config::<Message>("x", &format!("{{ {settings} }}"));
        for wrong in ["release: $.a", "subject: ci, release: a", "subject: ci, pattern: '('", "subject: ci, pattern: v"]
        {
            assert!(read(wrong).is_err(), "`{wrong}` was accepted");
        }
        assert!(read("subject: ci, where: { $.a: [1] }").is_err());
        for wrong in ["subject: 'a b'", "subject: a..b", "subject: ci, where: { $.a: 1 }"] {
            assert!(read(wrong).unwrap().flaw().is_some(), "`{wrong}` was accepted");
        }
    }
}
