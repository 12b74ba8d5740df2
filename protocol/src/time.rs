//! Instants and spans in whole milliseconds. This module never reads a clock.
//!
//! In JSON an instant is RFC 3339 in UTC and a span is text with units (`1h30m`); in MessagePack
//! both are integers.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An instant: milliseconds since the Unix epoch, within the years 1970 to 9999.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String", extend("examples" = ["2026-05-05T13:50:00.000Z"], "format" = "date-time"))]
pub struct Timestamp(i64);

/// 9999-12-31T23:59:59.999Z: the last instant that RFC 3339 can write.
const LAST_MS: i64 = 253_402_300_799_999;

impl Timestamp {
    /// The instant `ms` milliseconds after the Unix epoch, clamped to the years 1970 to 9999.
    pub fn from_ms(ms: i64) -> Self {
        Self(ms.clamp(0, LAST_MS))
    }

    /// Milliseconds since the Unix epoch.
    pub fn as_ms(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is before.
    pub fn since(self, earlier: Self) -> Span {
        Span::from_ms(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    /// `HH:MM:SSZ`, as terminal screens show it.
    pub fn clock(self) -> String {
        self.to_chrono().format("%H:%M:%SZ").to_string()
    }

    /// `Mon 09:00Z`: the day of the week and the minute, as timelines show it.
    pub fn weekday_clock(self) -> String {
        self.to_chrono().format("%a %H:%MZ").to_string()
    }

    /// RFC 3339 to the second.
    pub fn seconds(self) -> String {
        self.to_chrono().to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    fn to_chrono(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0).unwrap_or_default()
    }
}

impl Add<Span> for Timestamp {
    type Output = Self;

    fn add(self, span: Span) -> Self {
        Self::from_ms(self.0.saturating_add(i64::try_from(span.0).unwrap_or(i64::MAX)))
    }
}

impl Sub<Span> for Timestamp {
    type Output = Self;

    fn sub(self, span: Span) -> Self {
        Self::from_ms(self.0.saturating_sub(i64::try_from(span.0).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.to_chrono().to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl FromStr for Timestamp {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let at = DateTime::parse_from_rfc3339(text).map_err(|_| TimeError::Timestamp(cut(text)))?;
        let ms = at.timestamp_millis();
        if (0..=LAST_MS).contains(&ms) { Ok(Self(ms)) } else { Err(TimeError::Timestamp(cut(text))) }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_i64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(de::Error::custom);
        }
        let ms = i64::deserialize(deserializer)?;
        if (0..=LAST_MS).contains(&ms) { Ok(Self(ms)) } else { Err(de::Error::custom(TimeError::Range(ms))) }
    }
}

/// A length of time in whole milliseconds, at most [`SPAN_MAX`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^([0-9]+(ms|s|m|h|d))+$", "examples" = ["500ms", "30s", "1h30m", "2d"]))]
pub struct Span(u64);

/// The longest span: 366 days. No rollout, soak or deadline is longer.
pub const SPAN_MAX: Span = Span(366 * 86_400_000);

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// `ms` milliseconds, clamped to [`SPAN_MAX`].
    pub const fn from_ms(ms: u64) -> Self {
        if ms > SPAN_MAX.0 { SPAN_MAX } else { Self(ms) }
    }

    /// `s` seconds, clamped to [`SPAN_MAX`].
    pub const fn from_secs(s: u64) -> Self {
        Self::from_ms(s.saturating_mul(1_000))
    }

    /// Milliseconds.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// As the standard library's duration.
    pub const fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }

    /// To the second, for people; below a second it stays as it is.
    pub const fn rounded(self) -> Self {
        if self.0 < 1_000 { self } else { Self((self.0 + 500) / 1_000 * 1_000) }
    }

    /// `factor` times as long, clamped to [`SPAN_MAX`].
    pub const fn times(self, factor: u64) -> Self {
        Self::from_ms(self.0.saturating_mul(factor))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.pad("0s");
        }
        let mut rest = self.0;
        let mut text = String::new();
        for (unit, ms) in UNITS {
            if rest >= ms {
                text.push_str(&format!("{}{unit}", rest / ms));
                rest %= ms;
            }
        }
        f.pad(&text)
    }
}

impl FromStr for Span {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(TimeError::NoUnit(cut(text)));
        }
        let wrong = || TimeError::Span(cut(text));
        let mut rest = text;
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let letters = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
            let count: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            let unit = &rest[digits..digits + letters];
            let (_, ms) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            total = count.checked_mul(ms).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
            rest = &rest[digits + letters..];
        }
        if text.is_empty() || total > SPAN_MAX.0 { Err(wrong()) } else { Ok(Self(total)) }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?.parse().map_err(de::Error::custom);
        }
        Ok(Self::from_ms(u64::deserialize(deserializer)?))
    }
}

/// How often in a second a rate such as `50/s`, `3000/m` or `7200/h` is; `None` when the text is none.
pub fn per_second(text: &str) -> Option<f64> {
    let (number, unit) = text.rsplit_once('/')?;
    let seconds = [("s", 1.0), ("m", 60.0), ("h", 3_600.0)].into_iter().find(|(own, _)| *own == unit)?.1;
    let is_plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number: f64 = number.parse().ok().filter(|_| is_plain)?;
    number.is_finite().then_some(number / seconds)
}

/// A start of a slot on the fixed grid of one width: multiples of the width since the Unix epoch.
///
/// # Errors
/// None: a width of zero is treated as one millisecond.
pub fn slot_start(at: Timestamp, width: Span) -> Timestamp {
    let width = i64::try_from(width.0.max(1)).unwrap_or(i64::MAX);
    Timestamp(at.0 - at.0 % width)
}

/// Why a text is neither an instant nor a span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// A number without a unit.
    #[error("duration `{0}` has no unit: write `{0}s`, `{0}m` or `{0}h`")]
    NoUnit(String),
    /// An instant outside the years 1970 to 9999.
    #[error("instant {0} ms is outside the years 1970 to 9999")]
    Range(i64),
    /// Not a span, or longer than 366 days.
    #[error("`{0}` is not a duration: write for example `500ms`, `30s`, `1h30m`, `2d` (at most 366d)")]
    Span(String),
    /// Not an RFC 3339 instant.
    #[error("`{0}` is not an instant: write for example `2026-05-05T13:50:00Z`")]
    Timestamp(String),
}

fn cut(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_back_as_written() {
        for text in ["500ms", "30s", "1h30m", "2d", "1m30s500ms"] {
            assert_eq!(text.parse::<Span>().map(|s| s.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("90s".parse::<Span>().map(|s| s.to_string()), Ok("1m30s".to_owned()));
    }

    #[test]
    fn spans_without_sense_are_refused() {
        assert_eq!("240".parse::<Span>(), Err(TimeError::NoUnit("240".into())));
        for text in ["", "m", "1month", "1y", "-5s", "1.5h", "1s ", "99999999999999999999s", "400d", "5é"] {
            assert!(text.parse::<Span>().is_err(), "`{text}` was accepted");
        }
    }

    #[test]
    fn people_read_whole_seconds() {
        for (ms, expected) in [(0, "0s"), (400, "400ms"), (2_001, "2s"), (28_749, "29s"), (3_600_499, "1h")] {
            assert_eq!(Span::from_ms(ms).rounded().to_string(), expected);
        }
    }

    #[test]
    fn slots_lie_on_a_fixed_grid() {
        let at = Timestamp::from_ms(61_999);
        assert_eq!(slot_start(at, Span::from_secs(30)).as_ms(), 60_000);
        assert_eq!(slot_start(at, Span::ZERO).as_ms(), 61_999);
    }

    #[test]
    fn instants_outside_rfc_3339_are_refused() {
        assert!("2026-05-05T13:50:00Z".parse::<Timestamp>().is_ok());
        assert!("1969-12-31T23:59:59Z".parse::<Timestamp>().is_err());
        assert!("yesterday".parse::<Timestamp>().is_err());
    }
}
