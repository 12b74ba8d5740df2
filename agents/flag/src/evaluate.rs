//! What a flag's value means for one user. Pure: no clock, no network, no chance.

use std::collections::BTreeMap;

use bellwether_protocol::id::{LeverName, LeverValue};
use bellwether_protocol::ratio::{ONE_PPB, Ratio};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fraction;
use crate::rule::{Rule, RuleError};

/// The variant that a share of users gets.
const SHARED: &str = "on";

/// A flag, as the agent's configuration gives it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: LeverName,
    variants: BTreeMap<String, Value>,
    default: String,
    #[serde(default)]
    disabled: bool,
    #[serde(default)]
    rules: BTreeMap<String, Value>,
    values: Option<Vec<LeverValue>>,
}

/// A flag that can be served.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Flag {
    /// Its name, which is also that of its lever.
    pub name: LeverName,
    /// What each variant stands for: all a truth value, a text, a number or an object.
    variants: BTreeMap<String, Value>,
    /// The variant that is served when nothing, or nonsense, is set.
    default: String,
    /// Whether clients are told to use the value in their code.
    disabled: bool,
    rules: BTreeMap<String, Rule>,
    /// The only values it may be set to.
    values: Option<Vec<LeverValue>>,
}

/// Why a configured flag cannot be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// The default is no variant.
    #[error("flag `{0}`: the default `{1}` is not one of its variants")]
    Default(LeverName, String),
    /// Neither a truth value, a text, a number nor an object, or not what the others are.
    #[error("flag `{0}`: variants must all be true or false, all texts, all numbers or all objects; see `{1}`")]
    Kind(LeverName, String),
    /// Not usable as a value of a lever, or two things with one name.
    #[error("flag `{0}`: `{1}` cannot be the name of a variant or a rule")]
    Name(LeverName, String),
    /// A rule that cannot be evaluated.
    #[error("flag `{0}`: rule `{1}`: {2}")]
    Rule(LeverName, String, RuleError),
    /// An allowed value that stands for nothing.
    #[error("flag `{0}`: `{1}` is neither a variant, a rule nor a share")]
    Value(LeverName, LeverValue),
}

/// What one user gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation<'a> {
    /// The variant and what it stands for; `None`: what the client's own code says.
    pub variant: Option<(&'a str, &'a Value)>,
    /// How it came about.
    pub reason: Reason,
}

/// How an evaluation came about, in OpenFeature's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The flag is switched off altogether.
    Disabled,
    /// By a share of all users.
    Split,
    /// The same for every user.
    Static,
    /// By a rule.
    TargetingMatch,
    /// A rule named a variant that there is not.
    Unknown,
}

enum Meaning<'a> {
    Rule(&'a Rule),
    Share(Ratio),
    Variant(&'a str),
}

impl TryFrom<Written> for Flag {
    type Error = FlagError;

    fn try_from(written: Written) -> Result<Self, FlagError> {
        let Written { name, variants, default, disabled, rules, values } = written;
        // A share, a variant and a rule must not be mistaken for one another.
        let is_name = |text: &String| text.parse::<LeverValue>().is_ok() && !text.ends_with('%');
        let twice = rules.keys().find(|rule| variants.contains_key(*rule));
        if let Some(wrong) = twice.or_else(|| variants.keys().chain(rules.keys()).find(|text| !is_name(text))) {
            return Err(FlagError::Name(name, wrong.clone()));
        }
        let kind = variants.values().next().map(std::mem::discriminant);
        let is_kind =
            |value: &Value| !value.is_null() && !value.is_array() && Some(std::mem::discriminant(value)) == kind;
        if let Some((wrong, _)) = variants.iter().find(|(_, value)| !is_kind(value)) {
            return Err(FlagError::Kind(name, wrong.clone()));
        }
        if !variants.contains_key(&default) {
            return Err(FlagError::Default(name, default));
        }
        let read = |(rule, written): (String, Value)| match Rule::read(&written) {
            Ok(read) => Ok((rule, read)),
            Err(e) => Err(FlagError::Rule(name.clone(), rule, e)),
        };
        let rules = rules.into_iter().map(read).collect::<Result<_, _>>()?;
        let flag = Self { name, variants, default, disabled, rules, values };
        let wrong = flag.values.iter().flatten().find(|value| flag.meaning(value).is_none());
        wrong.map_or(Ok(()), |value| Err(FlagError::Value(flag.name.clone(), value.clone())))?;
        Ok(flag)
    }
}

impl Flag {
    /// Whether the flag may be set to `value`.
    pub fn takes(&self, value: &LeverValue) -> bool {
        let is_allowed = self.values.as_ref().is_none_or(|values| values.contains(value));
        is_allowed && !self.disabled && self.meaning(value).is_some()
    }

    /// What is really served when `set` is what was set: the default when that is nothing, or nonsense.
    /// `None` for a disabled flag, of which only each client knows.
    pub fn effective(&self, set: Option<&LeverValue>) -> Option<LeverValue> {
        match set.filter(|value| self.takes(value)) {
            _ if self.disabled => None,
            Some(value) => Some(value.clone()),
            None => self.default.parse().ok(),
        }
    }

    /// What the user of `context`, an OpenFeature context with its `targetingKey`, gets.
    pub fn evaluate(&self, set: Option<&LeverValue>, context: &Map<String, Value>) -> Evaluation<'_> {
        if self.disabled {
            return Evaluation { variant: None, reason: Reason::Disabled };
        }
        let meaning = set.filter(|value| self.takes(value)).and_then(|value| self.meaning(value));
        let default = self.default.as_str();
        let (wanted, reason) = match meaning.unwrap_or(Meaning::Variant(default)) {
            Meaning::Rule(rule) => {
                let said = rule.evaluate(self.name.as_str(), context);
                (said.unwrap_or_else(|| default.to_owned()), Reason::TargetingMatch)
            }
            Meaning::Share(share) => {
                let user = context.get("targetingKey").and_then(Value::as_str).unwrap_or_default();
                // Who is within a share stays so while the share grows.
                let is_within = fraction::slot(&format!("{}{user}", self.name), ONE_PPB) < u64::from(share.ppb());
                (if is_within { SHARED } else { default }.to_owned(), Reason::Split)
            }
            Meaning::Variant(variant) => (variant.to_owned(), Reason::Static),
        };
        let found = self.variants.get_key_value(&wanted).map(|found| (found, reason));
        // A rule that names no variant must not give anything but the default.
        let found = found.or_else(|| Some((self.variants.get_key_value(default)?, Reason::Unknown)));
        match found {
            Some(((variant, value), reason)) => Evaluation { variant: Some((variant, value)), reason },
            None => Evaluation { variant: None, reason: Reason::Unknown },
        }
    }

    fn meaning(&self, value: &LeverValue) -> Option<Meaning<'_>> {
        if let Some((variant, _)) = self.variants.get_key_value(value.as_str()) {
            return Some(Meaning::Variant(variant));
        }
        if let Some(rule) = self.rules.get(value.as_str()) {
            return Some(Meaning::Rule(rule));
        }
        let share = value.as_str().parse().ok().filter(|_| self.variants.contains_key(SHARED))?;
        Some(Meaning::Share(share))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flag(change: Value) -> Result<Flag, String> {
        let mut flag = json!({ "name": "new_checkout", "variants": { "on": true, "off": false }, "default": "off" });
        let changes = change.as_object().expect("an object").clone();
        flag.as_object_mut().expect("an object").extend(changes);
        serde_json::from_value(flag).map_err(|e| e.to_string())
    }

    fn value(text: &str) -> LeverValue {
        text.parse().expect("a value")
    }

    fn user(key: &str, country: &str) -> Map<String, Value> {
        json!({ "targetingKey": key, "country": country }).as_object().expect("an object").clone()
    }

    #[test]
    fn a_value_is_a_variant_a_rule_or_a_share_and_else_the_default() {
        let rules = json!({
            "beta": { "if": [{ "==": [{ "var": "country" }, "DE"] }, "on"] },
            "odd": { "cat": ["no", "ne"] },
        });
        let flag = flag(json!({ "rules": rules })).expect("a flag");
        for (set, country, expected, reason) in [
            (None, "DE", false, Reason::Static),
            (Some("on"), "FR", true, Reason::Static),
            (Some("off"), "DE", false, Reason::Static),
            (Some("maybe"), "DE", false, Reason::Static),
            (Some("101%"), "DE", false, Reason::Static),
            (Some("100%"), "FR", true, Reason::Split),
            (Some("0%"), "DE", false, Reason::Split),
            (Some("beta"), "DE", true, Reason::TargetingMatch),
            (Some("beta"), "FR", false, Reason::TargetingMatch),
            (Some("odd"), "DE", false, Reason::Unknown),
        ] {
            let got = flag.evaluate(set.map(value).as_ref(), &user("user-1", country));
            assert_eq!(
                (got.variant.map(|(_, value)| value), got.reason),
                (Some(&Value::Bool(expected)), reason),
                "{set:?}"
            );
        }
    }

    #[test]
    fn ten_percent_is_ten_percent_and_sticky() {
        let flag = flag(json!({})).expect("a flag");
        let on = |share: &str, number: usize| {
            let got = flag.evaluate(Some(&value(share)), &user(&format!("user-{number}"), "DE"));
            got.variant.is_some_and(|(variant, _)| variant == "on")
        };
        let first: Vec<usize> = (0..10_000).filter(|user| on("10%", *user)).collect();
        // Four standard deviations of a binomial with n = 10,000 and p = 0.1 are 120.
        assert!((880..=1_120).contains(&first.len()), "{} of 10,000", first.len());
        assert_eq!(first, (0..10_000).filter(|user| on("10%", *user)).collect::<Vec<_>>());
        assert!(first.iter().all(|user| on("25%", *user)), "a user lost the flag while the share grew");
        assert!((0..10_000).all(|user| !on("0%", user) && on("100%", user)));
    }

    #[test]
    fn flags_that_cannot_be_served_are_refused() {
        for (change, expected) in [
            (json!({ "default": "no" }), "the default `no` is not one of its variants"),
            (json!({ "variants": { "off": 1, "50%": 2 } }), "`50%` cannot be the name"),
            (json!({ "variants": { "off": [1] } }), "see `off`"),
            (json!({ "variants": { "off": false, "on": "yes" } }), "see `on`"),
            (json!({ "variants": {} }), "the default `off` is not"),
            (json!({ "rules": { "on": {"var": "x"} } }), "`on` cannot be the name"),
            (json!({ "rules": { "beta": {"map": []} } }), "rule `beta`: `map` is not an operator"),
            (json!({ "values": ["on", "maybe"] }), "`maybe` is neither a variant"),
            (json!({ "values": ["10%"], "variants": { "off": false } }), "`10%` is neither a variant"),
            (json!({ "colour": 1 }), "unknown field"),
        ] {
            let said = flag(change).expect_err("a flaw");
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn only_what_the_configuration_allows_is_taken() {
        for (change, taken, refused) in [
            (json!({}), vec!["on", "off", "10%"], vec!["beta", "101%"]),
            (json!({ "values": ["off", "10%"] }), vec!["off", "10%"], vec!["on", "20%"]),
            (json!({ "variants": { "off": false } }), vec!["off"], vec!["10%", "on"]),
            (json!({ "disabled": true }), vec![], vec!["on", "off"]),
        ] {
            let flag = flag(change.clone()).expect("a flag");
            assert!(taken.iter().all(|text| flag.takes(&value(text))), "{change}");
            assert!(refused.iter().all(|text| !flag.takes(&value(text))), "{change}");
            // What may not be set is not served either, whoever wrote it into the store.
            let default = (change["disabled"] != true).then(|| value("off"));
            assert!(refused.iter().all(|text| flag.effective(Some(&value(text))) == default), "{change}");
        }
        let disabled = flag(json!({ "disabled": true })).expect("a flag");
        let got = disabled.evaluate(Some(&value("on")), &user("user-1", "DE"));
        assert_eq!(got, Evaluation { variant: None, reason: Reason::Disabled });
    }
}
