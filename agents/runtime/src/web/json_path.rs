//! JSON paths, RFC 9535. The only file that knows the library behind them.
//!
//! It refuses paths whose cost is more than about linear in the body: a plan may not stop a prober.

use serde_json::Value;

/// Longest path, in bytes.
const PATH_LEN_MAX: usize = 200;
/// Most commas between selectors: each one may visit every node once more.
const COMMAS_MAX: usize = 3;

/// A parsed path.
#[derive(Debug, Clone)]
pub struct JsonPath(serde_json_path::JsonPath);

/// Why a text is not a path that this agent takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PathError {
    /// Where in the path, in bytes from 0.
    pub at: usize,
    /// What is wrong.
    pub message: String,
}

impl JsonPath {
    /// Reads a path such as `$.checks.memory.status`.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        check_cost(text).map_err(|message| PathError { at: 0, message: message.to_owned() })?;
        serde_json_path::JsonPath::parse(text).map(Self).map_err(|error| PathError {
            at: error.position().saturating_sub(1).min(text.len()),
            message: format!("not a JSON path: {}", error.message()),
        })
    }

    /// Every value at this path.
    pub fn all<'a>(&self, body: &'a Value) -> Vec<&'a Value> {
        self.0.query(body).all()
    }

    /// The value at this path, when there is exactly one.
    pub fn one<'a>(&self, body: &'a Value) -> Option<&'a Value> {
        match self.all(body).as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }
}

impl std::fmt::Display for JsonPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

fn check_cost(text: &str) -> Result<(), &'static str> {
    if text.len() > PATH_LEN_MAX {
        return Err("the path is over 200 bytes");
    }
    let bare = without_quoted(text);
    let descents = bare.matches("..").count();
    if descents > 1 || (descents == 1 && bare.contains('?')) {
        return Err("use `..` at most once, and not beside a filter");
    }
    if bare.matches('$').count() > 1 {
        return Err("a filter may not start again at `$`");
    }
    if bare.matches(',').count() > COMMAS_MAX { Err("use at most 4 selectors") } else { Ok(()) }
}

fn without_quoted(text: &str) -> String {
    let mut quote = None;
    let mut escaped = false;
    text.chars()
        .filter(|c| {
            let was_escaped = std::mem::take(&mut escaped);
            match (quote, *c) {
                (None, '\'' | '"') => quote = Some(*c),
                (None, _) => return true,
                (Some(_), '\\') => escaped = !was_escaped,
                (Some(open), _) if open == *c && !was_escaped => quote = None,
                (Some(_), _) => {}
            }
            false
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_means_exactly_one() {
        let body = serde_json::json!({"a": [1, 2], "$ref": {"b": null}});
        let one = |text: &str| JsonPath::parse(text).unwrap().one(&body).cloned();
        assert_eq!(one("$.a[0]"), Some(1.into()));
        assert_eq!(one("$['$ref'].b"), Some(Value::Null));
        assert_eq!(one("$.a[*]"), None);
        assert_eq!(one("$.c"), None);
    }

    #[test]
    fn costly_and_broken_paths_are_refused() {
        for text in ["", "a", "$.", "$[", "$..a..b", "$..[?@.a]", "$[?$.a == 1]", "$[*,*,*,*,*]", &"$.a".repeat(90)] {
            assert!(JsonPath::parse(text).is_err(), "`{text}` was accepted");
        }
        for text in ["$", "$.a.b", "$..kid", "$.keys[?@.kty == 'RSA, $..x']", "$['it\\'s'][0,1]"] {
            assert!(JsonPath::parse(text).is_ok(), "`{text}` was refused");
        }
    }
}
