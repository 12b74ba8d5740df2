//! Text to [`Condition`]. Errors name the column, and what would be right.

use std::str::FromStr;

use serde_json::Value;

use super::super::json_path::JsonPath;
use super::{Comparison, Condition, Quantifier, Subject, Test};

/// Longest condition, in bytes.
const CONDITION_LEN_MAX: usize = 500;

const TESTS: &str = "use ==, !=, <, <=, >, >=, contains, in, exists or absent";

/// Why a text is not a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}")]
pub struct ConditionError {
    /// Where, in characters from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: &'static str,
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        let mut cursor = Cursor { text, at: 0 };
        if text.len() > CONDITION_LEN_MAX {
            return Err(cursor.error(0, "over 500 bytes", "write several conditions"));
        }
        let subject = cursor.subject()?;
        let quantifier = match cursor.peek() {
            "all" => Quantifier::All,
            "any" => Quantifier::Any,
            "none" => Quantifier::None,
            _ => Quantifier::One,
        };
        if quantifier != Quantifier::One {
            cursor.word();
        }
        let len = cursor.peek() == "len";
        if len {
            cursor.word();
        }
        let test = cursor.test(len)?;
        cursor.end()?;
        Ok(Self { text: text.trim().to_owned(), subject, quantifier, len, test })
    }
}

/// Where reading has come to.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn peek(&mut self) -> &'a str {
        self.skip_spaces();
        self.rest().split_whitespace().next().unwrap_or_default()
    }

    fn word(&mut self) -> (usize, &'a str) {
        let word = self.peek();
        let start = self.at;
        self.at += word.len();
        (start, word)
    }

    fn error(&self, at: usize, message: impl Into<String>, help: &'static str) -> ConditionError {
        let column = self.text.get(..at).map_or(0, |before| before.chars().count()) + 1;
        ConditionError { column, message: message.into(), help }
    }

    fn subject(&mut self) -> Result<Subject, ConditionError> {
        if self.peek().starts_with('$') {
            return self.json_path();
        }
        match self.word() {
            (_, "body") => Ok(Subject::Body),
            (_, "status") => Ok(Subject::Status),
            (_, "header") => {
                let (at, name) = self.word();
                let help = "write for example `header content-type contains json`";
                name.parse()
                    .map(Subject::Header)
                    .map_err(|_| self.error(at, format!("`{name}` is not a header name"), help))
            }
            (at, word) => {
                let help = "start with `status`, `body`, `header NAME` or a JSON path such as `$.status`";
                Err(self.error(at, format!("`{word}` is nothing an answer has"), help))
            }
        }
    }

    /// A path ends at the first space outside quotes and brackets, so that filters may hold spaces.
    fn json_path(&mut self) -> Result<Subject, ConditionError> {
        let start = self.at;
        let (mut depth, mut quote) = (0_usize, None);
        let end = self.rest().find(|c: char| {
            match (quote, c) {
                (None, '\'' | '"') => quote = Some(c),
                (Some(open), _) if open == c => quote = None,
                (None, '[' | '(') => depth += 1,
                (None, ']' | ')') => depth = depth.saturating_sub(1),
                (None, _) if c.is_whitespace() => return depth == 0,
                (None | Some(_), _) => {}
            }
            false
        });
        let path = self.rest().get(..end.unwrap_or(self.rest().len())).unwrap_or_default();
        self.at += path.len();
        JsonPath::parse(path)
            .map(Subject::Json)
            .map_err(|error| self.error(start + error.at, error.message, "write for example `$.checks.memory.status`"))
    }

    fn test(&mut self, len: bool) -> Result<Test, ConditionError> {
        let (at, word) = self.word();
        let comparison = match word {
            "==" => Comparison::Equal,
            "!=" => Comparison::NotEqual,
            "<" => Comparison::Less,
            "<=" => Comparison::LessOrEqual,
            ">" => Comparison::Greater,
            ">=" => Comparison::GreaterOrEqual,
            "absent" | "contains" | "exists" if len => {
                return Err(self.error(at, format!("a length cannot be `{word}`"), "compare it: `len == 12`"));
            }
            "absent" => return Ok(Test::Absent),
            "contains" => return Ok(Test::Contains(self.literal()?)),
            "exists" => return Ok(Test::Exists),
            "in" => {
                let mut literals = vec![self.literal()?];
                while !self.peek().is_empty() {
                    literals.push(self.literal()?);
                }
                return Ok(Test::In(literals));
            }
            "" => return Err(self.error(at, "nothing is asked of it", TESTS)),
            _ => return Err(self.error(at, format!("`{word}` is not a test"), TESTS)),
        };
        let at = {
            self.skip_spaces();
            self.at
        };
        let literal = self.literal()?;
        let needs_number = len || !matches!(comparison, Comparison::Equal | Comparison::NotEqual);
        if needs_number && !literal.is_number() {
            return Err(self.error(
                at,
                format!("{literal} is not a number"),
                "write a plain number, such as 12 or 0.5",
            ));
        }
        Ok(Test::Compare(comparison, literal))
    }

    fn literal(&mut self) -> Result<Value, ConditionError> {
        let word = self.peek();
        match word.chars().next() {
            None => Err(self.error(self.at, "a value is missing", "write a number, a word, or 'text with spaces'")),
            Some(quote @ ('\'' | '"')) => self.quoted(quote),
            Some(_) => {
                self.word();
                // What JSON would read as a number, a bool or null is one; everything else is text.
                let scalar =
                    serde_json::from_str(word).ok().filter(|value: &Value| !value.is_array() && !value.is_object());
                Ok(scalar.unwrap_or_else(|| Value::String(word.to_owned())))
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<Value, ConditionError> {
        let start = self.at;
        let mut text = String::new();
        let mut escaped = false;
        for (offset, c) in self.rest().char_indices().skip(1) {
            if c == quote && !escaped {
                self.at += offset + c.len_utf8();
                return Ok(Value::String(text));
            }
            escaped = c == '\\' && !escaped;
            if !escaped {
                text.push(c);
            }
        }
        Err(self.error(start, "the quote is not closed", "end the text with the quote it began with"))
    }

    fn end(&mut self) -> Result<(), ConditionError> {
        match self.word() {
            (_, "") => Ok(()),
            (at, word) => Err(self.error(at, format!("`{word}` is too much"), "put text with spaces in quotes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, column: usize, message: &str) {
        let error = text.parse::<Condition>().expect_err(text);
        assert_eq!((error.column, error.message.as_str()), (column, message), "in `{text}`");
    }

    #[test]
    fn errors_name_the_column() {
        check("", 1, "`` is nothing an answer has");
        check("stats == 200", 1, "`stats` is nothing an answer has");
        check("status", 7, "nothing is asked of it");
        check("status is 200", 8, "`is` is not a test");
        check("status ==", 10, "a value is missing");
        check("status in", 10, "a value is missing");
        check("status < ok", 10, "\"ok\" is not a number");
        check("$.a len == 'x'", 12, "\"x\" is not a number");
        check("$.a len exists", 9, "a length cannot be `exists`");
        check("body contains welcome back", 23, "`back` is too much");
        check("body contains 'welcome", 15, "the quote is not closed");
        check("header ä exists", 8, "`ä` is not a header name");
        check("$..a..b exists", 1, "use `..` at most once, and not beside a filter");
    }

    #[test]
    fn errors_in_a_path_point_into_it() {
        let error = "  $.a[ == 1".parse::<Condition>().expect_err("broken path");
        assert!(error.column >= 3 && error.message.starts_with("not a JSON path"), "{error}");
    }

    #[test]
    fn any_text_is_read_without_a_panic() {
        for text in
            ["'", "\"", "\\", "$", "$[", "header", "status in '", "body contains 'a\\", "é", "$.é == 'é'", "in in in"]
        {
            let _ = text.parse::<Condition>();
            for (end, _) in text.char_indices() {
                let _ = text[..end].parse::<Condition>();
            }
        }
    }
}
