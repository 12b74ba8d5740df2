//! Which values a lever may be set to: the agent's own configuration says, never a plan.

use bellwether_protocol::id::LeverValue;
use regex::Regex;

/// The values of one lever.
#[derive(Debug)]
pub struct Allowed {
    values: Option<Vec<LeverValue>>,
    pattern: Option<Regex>,
}

impl Allowed {
    /// What is listed, and matches the pattern as a whole; where one is absent it allows all.
    ///
    /// # Errors
    /// When the pattern is no regular expression.
    pub fn new(values: Option<&[LeverValue]>, pattern: Option<&str>) -> Result<Self, Box<regex::Error>> {
        let whole = |pattern: &str| Regex::new(&format!("^(?:{pattern})$")).map_err(Box::new);
        Ok(Self { values: values.map(<[_]>::to_vec), pattern: pattern.map(whole).transpose()? })
    }

    /// Whether nothing was said at all.
    pub fn is_silent(&self) -> bool {
        self.values.is_none() && self.pattern.is_none()
    }

    /// Whether `value` may be set.
    pub fn allows(&self, value: &LeverValue) -> bool {
        // A leading dash could be taken for an option by a command.
        !value.as_str().starts_with('-')
            && self.values.as_ref().is_none_or(|values| values.contains(value))
            && self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(value.as_str()))
    }
}
