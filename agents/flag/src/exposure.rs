//! Who gets a flag, on a platform that knows only "nobody", "a share of all" and "everybody".

use std::fmt;

use bellwether_protocol::id::LeverValue;
use bellwether_protocol::ratio::{ONE_PPB, Ratio};
use bellwether_runtime::DriverError;

/// A lever's value: `off`, a share such as `10%`, or `on`. Each has one spelling, as a reading is compared as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exposure(Ratio);

impl Exposure {
    /// Nobody.
    pub(crate) const OFF: Self = Self(Ratio::ZERO);

    /// What `value` stands for.
    ///
    /// # Errors
    /// When it is not one of the three, or spelt otherwise.
    pub(crate) fn read(value: &LeverValue) -> Result<Self, DriverError> {
        let share = match value.as_str() {
            "off" => Some(Self::OFF),
            "on" => Some(Self(Ratio::from_ppb(ONE_PPB))),
            share => share.parse().ok().map(Self),
        };
        let spelt = share.filter(|share| share.to_string() == value.as_str());
        let wrong = || DriverError::Refused(format!("`{value}` is neither `off`, `on` nor a share such as `10%`"));
        spelt.ok_or_else(wrong)
    }

    /// `count` of `whole` equal parts of all users; `None` when there are no such parts.
    pub(crate) fn of(count: u64, whole: u64) -> Option<Self> {
        let parts = u128::from(count) * u128::from(ONE_PPB);
        let is_exact = whole > 0 && count <= whole && parts % u128::from(whole) == 0;
        is_exact.then_some(parts / u128::from(whole.max(1)))?.try_into().ok().map(|ppb| Self(Ratio::from_ppb(ppb)))
    }

    /// How many of `whole` equal parts; refused where the platform cannot divide so finely.
    pub(crate) fn parts(self, whole: u32) -> Result<u32, DriverError> {
        let parts = u64::from(self.0.ppb()) * u64::from(whole);
        let count = u32::try_from(parts / u64::from(ONE_PPB)).ok().filter(|_| parts % u64::from(ONE_PPB) == 0);
        count.ok_or_else(|| DriverError::Refused(format!("`{self}` is finer than a part in {whole}")))
    }

    /// As a lever's value.
    pub(crate) fn value(self) -> Option<LeverValue> {
        self.to_string().parse().ok()
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.ppb() {
            0 => f.pad("off"),
            ONE_PPB => f.pad("on"),
            _ => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_share_has_one_spelling() {
        for (text, parts) in [("off", 0), ("on", 100_000), ("10%", 10_000), ("0.5%", 500), ("99.999%", 99_999)] {
            let read = Exposure::read(&text.parse().expect("a value")).expect(text);
            assert_eq!((read.parts(100_000), read.to_string().as_str()), (Ok(parts), text));
            assert_eq!(Exposure::of(parts.into(), 100_000), Some(read));
        }
        for text in ["0%", "100%", "10.0%", "010%", "101%", "-1%", "yes", "ON"] {
            assert!(Exposure::read(&text.parse().expect("a value")).is_err(), "{text}");
        }
        assert!(Exposure::read(&"0.5%".parse().expect("a value")).expect("read").parts(100).is_err());
        assert_eq!([Exposure::of(1, 3), Exposure::of(2, 1), Exposure::of(0, 0)], [None; 3]);
    }
}
