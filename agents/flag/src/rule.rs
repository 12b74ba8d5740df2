//! Targeting rules: the part of JsonLogic that flagd's users write, read once and then evaluated
//! without a clock, without I/O, and in time bounded by the rule's size.
//!
//! A rule says the name of a variant, or null for the flag's default. What flagd gives null for,
//! such as a version that is none, is null here too; `<` and its like compare numbers alone, where
//! JavaScript takes a missing one for 0. An operator that is not offered here is an error when the
//! rule is read, never a silent null.

use std::borrow::Cow;
use std::cmp::Ordering;

use semver::Version;
use serde_json::{Map, Value};

use crate::fraction;

/// Deepest nesting of a rule.
const DEPTH_MAX: usize = 16;
/// Operators and operands of one rule.
const NODES_MAX: usize = 1_000;
/// Largest sum of weights, as in flagd.
const WEIGHT_MAX: u64 = 2_147_483_647;
/// What flagd adds to the context. Its `timestamp` is not offered: a rule reads no clock here.
const FLAG_KEY: &str = "$flagd.flagKey";

/// A rule that can be evaluated.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule(Node);

/// Why a text is not a rule.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// An operator with too few or too many operands.
    #[error("`{0}` takes {1}")]
    Operands(&'static str, &'static str),
    /// Nested too deep, or too long.
    #[error("it is over {DEPTH_MAX} levels deep or {NODES_MAX} parts long")]
    Size,
    /// Not one operator.
    #[error("`{0}` is not an operator of a rule here")]
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Apply(Operator, Vec<Node>),
    List(Vec<Node>),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    And,
    Cat,
    EndsWith,
    Equal,
    Fractional,
    Greater,
    GreaterOrEqual,
    If,
    In,
    Less,
    LessOrEqual,
    Not,
    NotEqual,
    NotSame,
    Or,
    Same,
    SemVer,
    StartsWith,
    Truth,
    Var,
}

/// Name, operator, fewest and most operands, and those in words.
type Row = (&'static str, Operator, usize, usize, &'static str);

const OPERATORS: [Row; 20] = [
    ("!", Operator::Not, 1, 1, "one operand"),
    ("!!", Operator::Truth, 1, 1, "one operand"),
    ("!=", Operator::NotEqual, 2, 2, "two operands"),
    ("!==", Operator::NotSame, 2, 2, "two operands"),
    ("<", Operator::Less, 2, 2, "two operands"),
    ("<=", Operator::LessOrEqual, 2, 2, "two operands"),
    ("==", Operator::Equal, 2, 2, "two operands"),
    ("===", Operator::Same, 2, 2, "two operands"),
    (">", Operator::Greater, 2, 2, "two operands"),
    (">=", Operator::GreaterOrEqual, 2, 2, "two operands"),
    ("and", Operator::And, 1, NODES_MAX, "one or more operands"),
    ("cat", Operator::Cat, 1, NODES_MAX, "one or more operands"),
    ("ends_with", Operator::EndsWith, 2, 2, "two operands"),
    ("fractional", Operator::Fractional, 1, NODES_MAX, "one or more operands"),
    ("if", Operator::If, 2, NODES_MAX, "two or more operands"),
    ("in", Operator::In, 2, 2, "two operands"),
    ("or", Operator::Or, 1, NODES_MAX, "one or more operands"),
    ("sem_ver", Operator::SemVer, 3, 3, "three operands"),
    ("starts_with", Operator::StartsWith, 2, 2, "two operands"),
    ("var", Operator::Var, 1, 2, "a path and perhaps a default"),
];

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    /// When it is too large, or uses what is not offered here.
    pub fn read(rule: &Value) -> Result<Self, RuleError> {
        let mut room = NODES_MAX;
        node(rule, DEPTH_MAX, &mut room).map(Self)
    }

    /// What the rule says for one user: the name of a variant, or `None` for the flag's default.
    pub fn evaluate(&self, flag: &str, context: &Map<String, Value>) -> Option<String> {
        let scope = Scope { flag, context };
        let said = scope.value(&self.0);
        (!said.is_null()).then(|| text(&said))
    }
}

fn node(rule: &Value, depth: usize, room: &mut usize) -> Result<Node, RuleError> {
    let depth = depth.checked_sub(1).ok_or(RuleError::Size)?;
    *room = room.checked_sub(1).ok_or(RuleError::Size)?;
    let mut all = |list: &[Value]| list.iter().map(|one| node(one, depth, room)).collect::<Result<Vec<_>, _>>();
    let object = match rule {
        Value::Array(list) => return Ok(Node::List(all(list)?)),
        Value::Object(object) => object,
        literal => return Ok(Node::Literal(literal.clone())),
    };
    let mut entries = object.iter();
    let (Some((name, operands)), None) = (entries.next(), entries.next()) else {
        return Err(RuleError::Unknown(object.keys().take(3).cloned().collect::<Vec<_>>().join("`, `")));
    };
    let row = OPERATORS.iter().find(|(own, ..)| own == name);
    let (name, operator, min, max, words) = *row.ok_or_else(|| RuleError::Unknown(name.chars().take(40).collect()))?;
    let operands = match operands {
        Value::Array(list) => all(list)?,
        one => all(std::slice::from_ref(one))?,
    };
    if let (Operator::Var, Some(Node::Literal(Value::String(path)))) = (operator, operands.first())
        && path.starts_with("$flagd.")
        && path != FLAG_KEY
    {
        return Err(RuleError::Unknown(path.chars().take(40).collect()));
    }
    let is_right = (min..=max).contains(&operands.len());
    if is_right { Ok(Node::Apply(operator, operands)) } else { Err(RuleError::Operands(name, words)) }
}

/// What a rule is evaluated against.
struct Scope<'a> {
    flag: &'a str,
    context: &'a Map<String, Value>,
}

impl<'a> Scope<'a> {
    fn value(&self, node: &'a Node) -> Cow<'a, Value> {
        match node {
            Node::Literal(value) => Cow::Borrowed(value),
            Node::List(list) => Cow::Owned(list.iter().map(|one| self.value(one).into_owned()).collect()),
            Node::Apply(operator, operands) => self.apply(*operator, operands),
        }
    }

    fn apply(&self, operator: Operator, operands: &'a [Node]) -> Cow<'a, Value> {
        let at = |index: usize| operands.get(index).map_or(Cow::Owned(Value::Null), |node| self.value(node));
        let is_true = |node: &'a Node| truth(&self.value(node));
        let numbers = |holds: fn(Ordering) -> bool| {
            let both = at(0).as_f64().zip(at(1).as_f64());
            both.and_then(|(a, b)| a.partial_cmp(&b)).is_some_and(holds).into()
        };
        Cow::Owned(match operator {
            Operator::And => return self.first(operands, |value| !truth(value)),
            Operator::Or => return self.first(operands, truth),
            Operator::If => {
                let (pairs, rest) = operands.as_chunks::<2>();
                let chosen = pairs.iter().find(|[condition, _]| is_true(condition)).map(|[_, then]| then);
                return chosen.or(rest.first()).map_or(Cow::Owned(Value::Null), |node| self.value(node));
            }
            Operator::Var => return self.var(&at(0)).unwrap_or_else(|| at(1)),
            Operator::Cat => operands.iter().map(|node| text(&self.value(node))).collect::<String>().into(),
            Operator::EndsWith => both_texts(&at(0), &at(1), |a, b| a.ends_with(b)),
            Operator::StartsWith => both_texts(&at(0), &at(1), |a, b| a.starts_with(b)),
            Operator::Equal => is_equal(&at(0), &at(1)).into(),
            Operator::NotEqual => (!is_equal(&at(0), &at(1))).into(),
            Operator::Same => is_same(&at(0), &at(1)).into(),
            Operator::NotSame => (!is_same(&at(0), &at(1))).into(),
            Operator::Greater => numbers(Ordering::is_gt),
            Operator::GreaterOrEqual => numbers(Ordering::is_ge),
            Operator::Less => numbers(Ordering::is_lt),
            Operator::LessOrEqual => numbers(Ordering::is_le),
            Operator::In => is_in(&at(0), &at(1)).into(),
            Operator::Not => (!truth(&at(0))).into(),
            Operator::Truth => truth(&at(0)).into(),
            Operator::SemVer => sem_ver(&at(0), &at(1), &at(2)).map_or(Value::Null, Value::Bool),
            Operator::Fractional => self.fractional(operands).unwrap_or_default(),
        })
    }

    /// The first operand that decides, or the last.
    fn first(&self, operands: &'a [Node], decides: fn(&Value) -> bool) -> Cow<'a, Value> {
        let mut last = Cow::Owned(Value::Null);
        for node in operands {
            last = self.value(node);
            if decides(&last) {
                break;
            }
        }
        last
    }

    fn var(&self, path: &Value) -> Option<Cow<'a, Value>> {
        let path = path.as_str()?;
        if path == FLAG_KEY {
            return Some(Cow::Owned(self.flag.into()));
        }
        let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
        // A name with dots in it is found before a path is.
        let found = self.context.get(path).or_else(|| {
            let below = |value: &'a Value, part: &str| match value {
                Value::Object(object) => object.get(part),
                Value::Array(list) => list.get(part.parse::<usize>().ok()?),
                _ => None,
            };
            rest.into_iter().flat_map(|rest| rest.split('.')).try_fold(self.context.get(head)?, below)
        });
        found.map(Cow::Borrowed)
    }

    fn fractional(&self, operands: &'a [Node]) -> Option<Value> {
        let operands: Vec<Cow<'_, Value>> = operands.iter().map(|node| self.value(node)).collect();
        let (key, shares) = match operands.split_first()? {
            (first, rest) if first.is_string() => (first.as_str()?.to_owned(), rest),
            _ => {
                let user = self.context.get("targetingKey")?.as_str().filter(|key| !key.is_empty())?;
                (format!("{}{user}", self.flag), operands.as_slice())
            }
        };
        let share = |entry: &Cow<'_, Value>| -> Option<(Value, u64)> {
            match entry.as_array()?.as_slice() {
                [variant] => Some((variant.clone(), 1)),
                [variant, weight] => Some((variant.clone(), u64::try_from(weight.as_i64()?.max(0)).ok()?)),
                _ => None,
            }
        };
        let shares = shares.iter().map(share).collect::<Option<Vec<_>>>()?;
        let total: u64 = shares.iter().try_fold(0_u64, |sum, (_, weight)| sum.checked_add(*weight))?;
        let slot = fraction::slot(&key, u32::try_from(total).ok().filter(|_| total <= WEIGHT_MAX)?);
        let mut sum = 0;
        shares.into_iter().find_map(|(variant, weight)| {
            sum += weight;
            (sum > slot).then_some(variant)
        })
    }
}

/// As a script writes it: a whole number without a point.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64().is_some_and(|number| number.abs() > 0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(_) => true,
    }
}

fn both_texts(a: &Value, b: &Value, holds: fn(&str, &str) -> bool) -> Value {
    a.as_str().zip(b.as_str()).map_or(Value::Null, |(a, b)| holds(a, b).into())
}

/// `===`: numbers by what they are worth, the rest by what they are.
fn is_same(a: &Value, b: &Value) -> bool {
    match a.as_f64().zip(b.as_f64()) {
        Some((a, b)) => a.partial_cmp(&b) == Some(Ordering::Equal),
        None => !a.is_array() && !a.is_object() && a == b,
    }
}

/// `==` as JavaScript has it for plain values: a text or a truth value beside a number is one.
fn is_equal(a: &Value, b: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
        Value::String(text) if text.trim().is_empty() => Some(0.0),
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    if std::mem::discriminant(a) == std::mem::discriminant(b) {
        return is_same(a, b);
    }
    number(a).zip(number(b)).is_some_and(|(a, b)| a.partial_cmp(&b) == Some(Ordering::Equal))
}

fn is_in(needle: &Value, hay: &Value) -> bool {
    match hay {
        Value::Array(list) => list.iter().any(|one| is_same(one, needle)),
        Value::String(hay) => needle.as_str().is_some_and(|needle| hay.contains(needle)),
        _ => false,
    }
}

fn sem_ver(a: &Value, operator: &Value, b: &Value) -> Option<bool> {
    let (a, b) = (version(a)?, version(b)?);
    let order = a.cmp_precedence(&b);
    Some(match operator.as_str()? {
        "=" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        ">=" => order.is_ge(),
        "^" => a.major == b.major,
        "~" => a.major == b.major && a.minor == b.minor,
        _ => return None,
    })
}

/// A version, a leading `v` and missing parts forgiven.
fn version(value: &Value) -> Option<Version> {
    let text = text(value);
    let text = text.strip_prefix(['v', 'V']).unwrap_or(&text);
    let missing = match text.bytes().filter(|b| *b == b'.').count() {
        _ if text.bytes().any(|b| !b.is_ascii_digit() && b != b'.') => "",
        0 => ".0.0",
        1 => ".0",
        _ => "",
    };
    Version::parse(&format!("{text}{missing}")).ok()
}

#[cfg(test)]
mod tests;
