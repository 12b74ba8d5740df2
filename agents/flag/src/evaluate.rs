//! What a flag's value means for one user. Pure: no clock, no network, no chance.
//!
//! A share is spread as flagd's `fractional` does it, so that both give a user the same answer.

use std::collections::BTreeMap;

use bellwether_protocol::id::{LeverName, LeverValue};
use bellwether_protocol::ratio::{ONE_PPB, Ratio};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The variant that a share of users gets.
const SHARED: &str = "on";

/// A flag, as the agent's configuration gives it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flag {
    /// Its name, which is also that of its lever.
    pub name: LeverName,
    /// What each variant stands for: a truth value, a text, a number or an object.
    pub variants: BTreeMap<String, Value>,
    /// The variant that is served when nothing, or nonsense, is set.
    pub default: String,
}

/// Why a configured flag cannot be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// The default is no variant.
    #[error("flag `{0}`: the default `{1}` is not one of its variants")]
    Default(LeverName, String),
    /// Neither a truth value, a text, a number nor an object.
    #[error("flag `{0}`: variant `{1}` must be true or false, a text, a number or an object")]
    Kind(LeverName, String),
    /// Not usable as a value of a lever.
    #[error("flag `{0}`: `{1}` cannot be the name of a variant")]
    Variant(LeverName, String),
}

/// What one user gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation<'a> {
    /// The variant.
    pub variant: &'a str,
    /// What it stands for.
    pub value: &'a Value,
    /// How it came about.
    pub reason: Reason,
}

/// How an evaluation came about, in OpenFeature's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// By a share of all users.
    Split,
    /// The same for every user.
    Static,
}

enum Meaning<'a> {
    Share(Ratio),
    Variant(&'a str),
}

impl Flag {
    /// Checks that it can be served.
    ///
    /// # Errors
    /// Names the first flaw.
    pub fn check(&self) -> Result<(), FlagError> {
        for (variant, value) in &self.variants {
            // A share and a variant must not be mistaken for one another.
            if variant.parse::<LeverValue>().is_err() || variant.ends_with('%') {
                return Err(FlagError::Variant(self.name.clone(), variant.clone()));
            }
            if value.is_null() || value.is_array() {
                return Err(FlagError::Kind(self.name.clone(), variant.clone()));
            }
        }
        if self.variants.contains_key(&self.default) {
            Ok(())
        } else {
            Err(FlagError::Default(self.name.clone(), self.default.clone()))
        }
    }

    /// Whether the flag can be set to `value`.
    pub fn takes(&self, value: &LeverValue) -> bool {
        self.meaning(value.as_str()).is_some()
    }

    /// What is really served when `set` is what was set: the default when that is nothing, or nonsense.
    pub fn effective(&self, set: Option<&LeverValue>) -> Option<LeverValue> {
        match set.filter(|value| self.takes(value)) {
            Some(value) => Some(value.clone()),
            None => self.default.parse().ok(),
        }
    }

    /// What the user of `targeting_key` gets. `None` only for a flag that [`Flag::check`] refuses.
    pub fn evaluate(&self, set: Option<&LeverValue>, targeting_key: &str) -> Option<Evaluation<'_>> {
        let meaning = set.and_then(|value| self.meaning(value.as_str()));
        let (variant, reason) = match meaning.unwrap_or(Meaning::Variant(&self.default)) {
            Meaning::Share(share) if is_within(share, self.name.as_str(), targeting_key) => (SHARED, Reason::Split),
            Meaning::Share(_) => (self.default.as_str(), Reason::Split),
            Meaning::Variant(variant) => (variant, Reason::Static),
        };
        let (variant, value) = self.variants.get_key_value(variant)?;
        Some(Evaluation { variant, value, reason })
    }

    fn meaning(&self, value: &str) -> Option<Meaning<'_>> {
        if let Some((variant, _)) = self.variants.get_key_value(value) {
            return Some(Meaning::Variant(variant));
        }
        let share = value.parse().ok().filter(|_| self.variants.contains_key(SHARED))?;
        Some(Meaning::Share(share))
    }
}

/// Whether a user is among the first `share` of all. Who is stays so while the share grows.
fn is_within(share: Ratio, flag: &str, targeting_key: &str) -> bool {
    let hash = murmur3_32(format!("{flag}{targeting_key}").as_bytes(), 0);
    (u64::from(hash) * u64::from(ONE_PPB)) >> 32 < u64::from(share.ppb())
}

/// MurmurHash3, the 32-bit variant for x86, by Austin Appleby, who put it in the public domain.
fn murmur3_32(bytes: &[u8], seed: u32) -> u32 {
    let scramble = |block: u32| block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (blocks, tail) = bytes.as_chunks::<4>();
    let mut hash = seed;
    for block in blocks {
        hash ^= scramble(u32::from_le_bytes(*block));
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let rest = tail.iter().rev().fold(0, |rest, byte| rest << 8 | u32::from(*byte));
    hash ^= scramble(rest);
    // The algorithm takes the length modulo 2^32.
    #[expect(clippy::cast_possible_truncation, reason = "the algorithm takes the length modulo 2^32")]
    let len = bytes.len() as u32;
    hash ^= len;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flag() -> Flag {
        let flag = json!({ "name": "new_checkout", "variants": { "on": true, "off": false }, "default": "off" });
        serde_json::from_value(flag).expect("a flag")
    }

    fn value(text: &str) -> LeverValue {
        text.parse().expect("a value")
    }

    #[test]
    fn the_hash_is_murmur3() {
        let check = |text: &str, seed: u32, expected: u32| assert_eq!(murmur3_32(text.as_bytes(), seed), expected);
        check("", 0, 0);
        check("", 1, 0x514e_28b7);
        check("", 0xffff_ffff, 0x81f1_6f39);
        check("\0\0\0\0", 0, 0x2362_f9de);
        check("a", 0x9747_b28c, 0x7fa0_9ea6);
        check("aa", 0x9747_b28c, 0x5d21_1726);
        check("aaa", 0x9747_b28c, 0x283e_0130);
        check("aaaa", 0x9747_b28c, 0x5a97_808a);
        check("Hello, world!", 0x9747_b28c, 0x2488_4cba);
        check("The quick brown fox jumps over the lazy dog", 0x9747_b28c, 0x2fa8_26cd);
    }

    #[test]
    fn a_value_is_a_variant_or_a_share_and_else_the_default() {
        let check = |set: Option<&str>, expected: bool, reason: Reason| {
            let flag = flag();
            let set = set.map(value);
            let got = flag.evaluate(set.as_ref(), "user-1").expect("an evaluation");
            assert_eq!((got.value, got.reason), (&Value::Bool(expected), reason), "{set:?}");
        };
        check(None, false, Reason::Static);
        check(Some("on"), true, Reason::Static);
        check(Some("off"), false, Reason::Static);
        check(Some("maybe"), false, Reason::Static);
        check(Some("101%"), false, Reason::Static);
        check(Some("100%"), true, Reason::Split);
        check(Some("0%"), false, Reason::Split);
    }

    #[test]
    fn ten_percent_is_ten_percent_and_sticky() {
        let flag = flag();
        let on = |share: &str, user: usize| {
            let got = flag.evaluate(Some(&value(share)), &format!("user-{user}")).expect("an evaluation");
            got.variant == "on"
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
        let check = |change: fn(&mut Flag), expected: &str| {
            let mut flag = flag();
            change(&mut flag);
            assert_eq!(flag.check().expect_err("a flaw").to_string(), expected);
        };
        assert_eq!(flag().check(), Ok(()));
        check(|f| f.default = "no".into(), "flag `new_checkout`: the default `no` is not one of its variants");
        check(
            |f| drop(f.variants.insert("50%".into(), json!(1))),
            "flag `new_checkout`: `50%` cannot be the name of a variant",
        );
        check(
            |f| drop(f.variants.insert("many".into(), json!([1]))),
            "flag `new_checkout`: variant `many` must be true or false, a text, a number or an object",
        );
    }

    #[test]
    fn a_share_needs_a_variant_to_share() {
        let mut flag = flag();
        flag.variants.remove("on");
        assert!(!flag.takes(&value("10%")));
        assert_eq!(flag.effective(Some(&value("10%"))), Some(value("off")));
    }
}
