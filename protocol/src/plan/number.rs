//! Numbers as plans write them: `70`, `1.5`, `900MB`, `2GiB`.

/// Sizes by 1,024 and by 1,000.
const UNITS: [(&str, f64); 8] = [
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
];
/// The units that numbers are written with, from this size on.
const WRITTEN: [(&str, f64); 2] = [("GB", 1e9), ("MB", 1e6)];
/// Longer than this, a number is written with an exponent.
const DIGITS_MAX: usize = 18;
/// A size that would be longer is written out.
const SIZE_MAX: usize = 11;

/// A plain number, or a size. Nothing when it is neither, or not finite.
pub(super) fn read(text: &str) -> Option<f64> {
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1.0));
    let numeric = |b: u8| b.is_ascii_digit() || b"+-.eE".contains(&b);
    let value = number.trim_end().parse::<f64>().ok().filter(|_| number.trim_end().bytes().all(numeric))?;
    Some(value * factor).filter(|value| value.is_finite())
}

/// A regular expression for what [`read`] takes.
#[cfg(feature = "plan-file")]
pub(super) fn pattern() -> String {
    let units = UNITS.map(|(unit, _)| unit).join("|");
    format!(r"^[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?\s*({units})?$")
}

/// The same number in a form that reads back to it exactly: as a size where that is short, for most
/// numbers from a million on are sizes.
pub fn write(value: f64) -> String {
    let sized = |(unit, factor): (&str, f64)| {
        let text = format!("{}{unit}", value / factor);
        let is_exact = read(&text).map(f64::to_bits) == Some(value.to_bits());
        (value.abs() >= factor && is_exact && text.len() <= SIZE_MAX).then_some(text)
    };
    let plain = || Some(value.to_string()).filter(|text| text.len() <= DIGITS_MAX);
    WRITTEN.into_iter().find_map(sized).or_else(plain).unwrap_or_else(|| format!("{value:e}"))
}

/// About the same number, for people: three decimals of the unit that it is written with.
pub fn shorten(value: f64) -> String {
    let unit = WRITTEN.into_iter().map(|(_, factor)| factor).find(|factor| value.abs() >= *factor);
    let milli = (value / unit.unwrap_or(1.0) * 1e3).round();
    write(unit.map_or(milli / 1e3, |unit| milli * (unit / 1e3)))
}

/// A count with its thousands apart: `30,180`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_by_1_000_and_by_1_024() {
        for (text, value) in
            [("70", 70.0), ("1.5 GB", 1.5e9), ("900MB", 9e8), ("2GiB", 2_147_483_648.0), ("-4e2", -4e2)]
        {
            assert_eq!(read(text).map(f64::to_bits), Some(f64::to_bits(value)), "{text}");
        }
        for text in ["", "GB", "1.5 cows", "inf", "NaN", "1e999", "0x10", "10%"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_written_short_and_exact() {
        for (value, text) in [
            (70.0, "70"),
            (-0.25, "-0.25"),
            (999_999.0, "999999"),
            (9e8, "900MB"),
            (1.8e9, "1.8GB"),
            (1_073_741_824.0, "1073741824"),
            (1e300, "1e300"),
        ] {
            assert_eq!(write(value), text);
            assert_eq!(read(text).map(f64::to_bits), Some(value.to_bits()));
        }
    }

    #[test]
    fn measured_numbers_are_cut_to_what_people_read() {
        for (value, text) in [
            (226_123_456.0, "226.123MB"),
            (1.8e9, "1.8GB"),
            (123_456_789_012.0, "123.457GB"),
            (11.0, "11"),
            (0.249_9, "0.25"),
            (9_999.0, "9999"),
            (-3.0, "-3"),
        ] {
            assert_eq!(shorten(value), text);
        }
    }

    #[test]
    fn thousands_stand_apart() {
        let cases = [(0, "0"), (120, "120"), (1_080, "1,080"), (30_180, "30,180"), (1_000_000, "1,000,000")];
        for (n, expected) in cases {
            assert_eq!(thousands(n), expected);
        }
    }
}
