//! One request as a person writes it on a command line: the flags that every verb has which sends one.

use std::collections::BTreeMap;

use bellwether_protocol::plan::Flaw;
use bellwether_protocol::time::Span;
use hyper::header::HeaderName;
use serde_json::{Map, Value};

use super::flaws::Flaws;
use super::question::Question;
use super::target::{Mark, Origin, Target, headers};

/// One request, and what must hold of its answer.
#[derive(Debug, Clone, clap::Args)]
pub struct ByHand {
    /// The method
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// A header, such as `accept: text/html`; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// What is sent along
    #[arg(long, value_name = "TEXT", requires = "method")]
    body: Option<String>,
    /// What must hold, such as `status == 200` or `$.status == healthy`; may be repeated. Default: status 200 to 299
    #[arg(long, value_name = "CONDITION")]
    pub expect: Vec<String>,
    /// The header in which an answer names its release
    #[arg(long, default_value = "x-release", value_name = "NAME")]
    release_header: HeaderName,
}

impl ByHand {
    /// What is asked at `path`.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn question(&self, path: &str) -> Result<Question, String> {
        let line = |line: &String| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_owned(), Value::from(value.trim())))
        };
        let headers: Option<Map<String, Value>> = self.headers.iter().map(line).collect();
        let headers = headers.ok_or("a header has a name and a value, such as `accept: text/html`")?;
        let mut fields = Map::new();
        fields.insert("path".to_owned(), path.into());
        fields.insert("headers".to_owned(), headers.into());
        fields.insert("expect".to_owned(), self.expect.clone().into());
        let given = [("method", &self.method), ("body", &self.body)].into_iter();
        fields.extend(given.filter_map(|(key, value)| Some((key.to_owned(), value.clone()?.into()))));
        let mut flaws = Flaws::default();
        let question = Question::read(&mut flaws, &fields);
        flaws.none_in(question).map_err(|flaws| {
            let text = |flaw: &Flaw| format!("{}: {}: {}", self.flag(&flaw.pointer), flaw.message, flaw.help);
            flaws.iter().map(text).collect::<Vec<_>>().join("; ")
        })
    }

    /// The flag that a flaw is about, as it was written.
    fn flag(&self, pointer: &str) -> String {
        let pointer = pointer.trim_start_matches('/');
        let (field, rest) = pointer.split_once('/').unwrap_or((pointer, ""));
        match (field, rest.parse().ok().and_then(|at: usize| self.expect.get(at))) {
            ("expect", Some(condition)) => format!("--expect '{condition}'"),
            ("headers", _) => format!("--header '{rest}: …'"),
            _ => format!("--{field}"),
        }
    }

    /// Whom it goes to.
    ///
    /// # Errors
    /// When no headers can be made.
    pub fn target(&self, origin: Origin, timeout: Span) -> Result<Target, String> {
        let fingerprint = Some(Mark::Header(self.release_header.clone()));
        Ok(Target { origin, base: String::new(), headers: headers(&BTreeMap::new())?, fingerprint, timeout })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        asked: ByHand,
    }

    #[test]
    fn what_is_wrong_is_told_by_its_flag() {
        for (args, expected) in [
            (vec!["--expect", "status == 200", "--expect", "foo"], "--expect 'foo': "),
            (vec!["--header", "no name: x"], "--header 'no name: …': "),
            (vec!["--method", "G T"], "--method: "),
        ] {
            let line = Line::parse_from(["look"].into_iter().chain(args));
            let flaws = line.asked.question("/").unwrap_err();
            assert!(flaws.starts_with(expected), "{flaws}");
        }
    }
}
