//! Ratios in parts per billion, so that decisions compare integers and replay is exact.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::id::text_serde;

/// A ratio between 0 and 1, in parts per billion. Written with a percent sign: `0.1%`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = r"^[0-9]{1,3}(\.[0-9]{1,7})?%$", "examples" = ["0.1%", "10%"]))]
pub struct Ratio(u32);

/// One whole, in parts per billion.
pub const ONE_PPB: u32 = 1_000_000_000;

impl Ratio {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// `ppb` parts per billion, clamped to one whole.
    pub const fn from_ppb(ppb: u32) -> Self {
        Self(if ppb > ONE_PPB { ONE_PPB } else { ppb })
    }

    /// Parts per billion.
    pub const fn ppb(self) -> u32 {
        self.0
    }

    /// What is missing to one whole.
    pub const fn complement(self) -> Self {
        Self(ONE_PPB - self.0)
    }

    /// With three digits: bounds round against the release.
    pub fn rounded_up(self) -> Self {
        let step = 10_u32.pow(self.0.checked_ilog10().unwrap_or(0).saturating_sub(2));
        Self::from_ppb(self.0.div_ceil(step).saturating_mul(step))
    }

    /// Whether `bad` of `n` is more than this ratio. Exact; false when `n` is 0.
    pub fn is_exceeded_by(self, bad: u64, n: u64) -> bool {
        u128::from(bad) * u128::from(ONE_PPB) > u128::from(n) * u128::from(self.0)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}%", written(self.0, 7)))
    }
}

impl FromStr for Ratio {
    type Err = RatioError;

    fn from_str(text: &str) -> Result<Self, RatioError> {
        let wrong = || RatioError(text.chars().take(40).collect());
        let ppb = text.strip_suffix('%').and_then(|number| read(number, 3, 7));
        ppb.filter(|ppb| *ppb <= ONE_PPB).map(Self).ok_or_else(wrong)
    }
}

text_serde!(Ratio);

/// How many times as much, in thousandths. Written with an x: `1.5x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = r"^[0-9]{1,4}(\.[0-9]{1,3})?x$", "examples" = ["1.5x"]))]
pub struct Times(u32);

impl Times {
    /// As much.
    pub const ONE: Self = Self(1_000);

    /// `milli` thousandths.
    pub const fn from_milli(milli: u32) -> Self {
        Self(milli)
    }

    /// Thousandths.
    pub const fn milli(self) -> u32 {
        self.0
    }

    /// As a factor.
    pub fn factor(self) -> f64 {
        f64::from(self.0) / 1e3
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}x", written(self.0, 3)))
    }
}

impl FromStr for Times {
    type Err = TimesError;

    fn from_str(text: &str) -> Result<Self, TimesError> {
        let wrong = || TimesError(text.chars().take(40).collect());
        text.strip_suffix('x').and_then(|number| read(number, 4, 3)).map(Self).ok_or_else(wrong)
    }
}

text_serde!(Times);

/// `value` units of the last of so many decimals, without zeros at the end.
fn written(value: u32, decimals: usize) -> String {
    let digits = format!("{value:0width$}", width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    format!("{whole}.{fraction}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What [`written`] writes, with at most so many digits before the dot; `None` for anything else.
fn read(number: &str, whole_max: usize, decimals: usize) -> Option<u32> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let is_sound = |part: &str, max: usize| (1..=max).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let both = is_sound(whole, whole_max) && is_sound(fraction, decimals);
    both.then(|| format!("{whole}{fraction:0<decimals$}").parse().ok())?
}

/// Why a text does not say how many times as much.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` does not say how many times as much: write for example `1.5x`, with at most 3 decimals")]
pub struct TimesError(pub String);

/// Why a text is not a ratio.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a percentage: write for example `0.1%`, from 0% to 100% with at most 7 decimals")]
pub struct RatioError(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_read_back_as_written() {
        for text in ["0%", "0.1%", "10%", "99.48%", "100%", "0.0000001%"] {
            assert_eq!(text.parse::<Ratio>().map(|r| r.to_string()), Ok(text.to_owned()));
        }
        for text in ["0x", "1x", "1.5x", "10.001x", "9999.999x"] {
            assert_eq!(text.parse::<Times>().map(|times| times.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn ratios_without_sense_are_refused() {
        for text in ["", "%", "0.1", "-1%", "101%", "430%", "999%", "1e3%", "NaN%", ".5%", "1.%", "0.00000001%"] {
            assert!(text.parse::<Ratio>().is_err(), "`{text}` was accepted");
        }
        for text in ["", "x", "1.5", "-1x", "10000x", ".5x", "1.x", "1.5001x", "1e3x"] {
            assert!(text.parse::<Times>().is_err(), "`{text}` was accepted");
        }
    }

    #[test]
    fn comparison_is_exact_at_the_edge() {
        let limit: Ratio = Ratio::from_ppb(5_000_000);
        assert!(!limit.is_exceeded_by(5, 1_000));
        assert!(limit.is_exceeded_by(6, 1_000));
        assert!(!limit.is_exceeded_by(0, 0));
        assert!(limit.is_exceeded_by(u64::MAX, u64::MAX));
    }
}
