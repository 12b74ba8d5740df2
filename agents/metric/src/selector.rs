//! PromQL's plain selectors, such as `http_requests_total{job="shop",code=~"5.."}`: read and matched.
//!
//! Only names and label matchers; no ranges, functions or offsets. Values are matched as Prometheus
//! does: a label that is not there is empty, and a pattern must match the whole value.

use std::collections::BTreeMap;
use std::fmt;

use regex::Regex;

/// The labels of one series, its name under `__name__`.
pub(crate) type Labels = BTreeMap<String, String>;

/// The label that holds a series' name.
pub(crate) const NAME: &str = "__name__";
/// Longest selector, in bytes.
const LEN_MAX: usize = 1_000;
/// Most matchers of one selector.
const MATCHERS_MAX: usize = 20;

/// A parsed selector.
#[derive(Debug, Clone)]
pub(crate) struct Selector {
    text: String,
    /// The name before the braces.
    pub(crate) name: Option<String>,
    matchers: Vec<Matcher>,
}

#[derive(Debug, Clone)]
struct Matcher {
    label: String,
    is_negated: bool,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Equal(String),
    Pattern(Regex),
}

impl Selector {
    /// Reads a selector; the error says what in it is none.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut rest = Rest(text.trim());
        if text.len() > LEN_MAX {
            return Err(format!("a selector of over {LEN_MAX} bytes"));
        }
        let name = rest.word(true);
        let mut matchers = Vec::new();
        rest.braces(|rest| {
            matchers.push(rest.matcher()?);
            if matchers.len() > MATCHERS_MAX { Err(format!("over {MATCHERS_MAX} label matchers")) } else { Ok(()) }
        })?;
        if !rest.0.trim().is_empty() {
            return Err(rest.wrong("a plain selector that ends here: no range, function or operator"));
        }
        if name.is_none() && matchers.is_empty() {
            return Err("a selector needs a name or a label".to_owned());
        }
        Ok(Self { text: text.trim().to_owned(), name, matchers })
    }

    /// Whether a series with these labels is selected.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        let of = |label: &str| labels.get(label).map_or("", String::as_str);
        self.name.as_ref().is_none_or(|name| of(NAME) == name)
            && self.matchers.iter().all(|matcher| {
                let value = of(&matcher.label);
                let is_met = match &matcher.test {
                    Test::Equal(text) => value == text,
                    Test::Pattern(pattern) => pattern.is_match(value),
                };
                is_met != matcher.is_negated
            })
    }

    /// The labels that its braces speak of.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &str> {
        self.matchers.iter().map(|matcher| matcher.label.as_str())
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// What is still to be read of a text.
pub(crate) struct Rest<'a>(pub(crate) &'a str);

impl<'a> Rest<'a> {
    /// Whether `what` comes next; then it is taken.
    pub(crate) fn takes(&mut self, what: &str) -> bool {
        let after = self.0.trim_start().strip_prefix(what);
        self.0 = after.unwrap_or(self.0);
        after.is_some()
    }

    /// Takes what stands in braces, `one` after the other; nothing where no brace comes next.
    pub(crate) fn braces(&mut self, mut one: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        if !self.takes("{") {
            return Ok(());
        }
        while !self.takes("}") {
            one(self)?;
            if !self.takes(",") && !self.0.trim_start().starts_with('}') {
                return Err(self.wrong("`,` or `}`"));
            }
        }
        Ok(())
    }

    /// A name of a metric (which may hold colons) or of a label, if one comes next.
    pub(crate) fn word(&mut self, with_colons: bool) -> Option<String> {
        let text = self.0.trim_start();
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || (with_colons && c == ':');
        let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        if word.is_empty() || word.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        self.0 = rest;
        Some(word.to_owned())
    }

    /// A quoted text with its escapes undone.
    pub(crate) fn quoted(&mut self) -> Result<String, String> {
        let text = self.0.trim_start();
        let quote =
            text.chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or_else(|| self.wrong("a quoted text"))?;
        let mut value = String::new();
        let mut chars = text.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.0 = text.get(at + 1..).unwrap_or_default();
                    return Ok(value);
                }
                '\\' => value.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, 't')) => '\t',
                    Some((_, c @ ('\\' | '"' | '\''))) => c,
                    _ => return Err(self.wrong("an escape that is known: \\\\ \\\" \\' \\n \\t")),
                }),
                c => value.push(c),
            }
        }
        Err(self.wrong("a closing quote"))
    }

    fn matcher(&mut self) -> Result<Matcher, String> {
        let label = self.word(false).ok_or_else(|| self.wrong("the name of a label"))?;
        let operators = [("=~", true, false), ("!~", true, true), ("!=", false, true), ("=", false, false)];
        let found = operators.into_iter().find(|(text, ..)| self.takes(text));
        let (_, is_pattern, is_negated) = found.ok_or_else(|| self.wrong("= != =~ or !~"))?;
        let value = self.quoted()?;
        let test = if is_pattern {
            let whole = Regex::new(&format!("^(?s:{value})$"));
            Test::Pattern(whole.map_err(|_| format!("`{value}` is not a pattern"))?)
        } else {
            Test::Equal(value)
        };
        Ok(Matcher { label, is_negated, test })
    }

    /// What should come next instead.
    pub(crate) fn wrong(&self, expected: &str) -> String {
        let found: String = self.0.trim_start().chars().take(20).collect();
        if found.is_empty() {
            format!("expected {expected} at the end")
        } else {
            format!("expected {expected} at `{found}`")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn selectors_match_as_prometheus_does() {
        let series = labels(&[(NAME, "http_requests_total"), ("job", "shop"), ("code", "503"), ("path", "a\"b")]);
        for (text, expected) in [
            ("http_requests_total", true),
            ("http_requests", false),
            (r#"http_requests_total{job="shop",}"#, true),
            (r#"{ code =~ "5..", job != 'auth' }"#, true),
            (r#"{code=~"5"}"#, false),
            (r#"{code!~"5.."}"#, false),
            (r#"{gone=""}"#, true),
            (r#"{gone!=""}"#, false),
            (r#"{__name__=~"http_.*"}"#, true),
            (r#"{path="a\"b"}"#, true),
            (r#"{code=~"4..|5.."}"#, true),
        ] {
            let selector = Selector::parse(text).unwrap();
            assert_eq!(selector.matches(&series), expected, "{text}");
        }
    }

    #[test]
    fn what_is_more_or_less_than_a_selector_is_refused() {
        for text in [
            "",
            "{}",
            "rate(x[5m])",
            "x[5m]",
            "x offset 5m",
            "sum(x)",
            "x{a}",
            "x{a=b}",
            r#"x{a="b"#,
            r#"x{a="b" c="d"}"#,
            r#"x{a=~"("}"#,
            "x + y",
            "1x",
        ] {
            assert!(Selector::parse(text).is_err(), "`{text}` was accepted");
        }
    }
}
