//! Spans and shares as people read them.

use bellwether_protocol::plan::number::thousands;
use bellwether_protocol::ratio::Ratio;
use bellwether_protocol::time::Span;

/// A span in at most two units: `310ms`, `19s`, `1m56s`, `2h05m`, `4h`, `3d02h`.
pub(crate) fn span(span: Span) -> String {
    let ms = span.as_ms();
    let (minutes, hours) = (ms / 60_000, ms / 3_600_000);
    let two = |big: u64, unit: &str, small: u64, smaller: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small:02}{smaller}"),
    };
    match ms {
        0 => "0s".to_owned(),
        1..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}s", ms / 1_000),
        60_000..3_600_000 => two(minutes, "m", ms / 1_000 % 60, "s"),
        3_600_000..259_200_000 => two(hours, "h", minutes % 60, "m"),
        _ => two(hours / 24, "d", hours % 24, "h"),
    }
}

/// How many of what.
pub(crate) fn plural(n: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(n), if n == 1 { "" } else { "s" })
}

/// A share with three digits, rounded down.
pub(crate) fn percent_down(share: Ratio) -> String {
    let step = step(share);
    Ratio::from_ppb(u32::try_from(u64::from(share.ppb()) / step * step).unwrap_or(0)).to_string()
}

/// What the third digit of a share is worth, in parts per billion.
fn step(share: Ratio) -> u64 {
    10_u64.pow(share.ppb().checked_ilog10().unwrap_or(0).saturating_sub(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2_880].map(|n| plural(n, "slot")), ["0 slots", "1 slot", "2,880 slots"]);
    }

    #[test]
    fn spans_have_at_most_two_units() {
        let cases = [
            (0, "0s"),
            (310, "310ms"),
            (19_400, "19s"),
            (116_000, "1m56s"),
            (120_000, "2m"),
            (7_500_000, "2h05m"),
            (14_400_000, "4h"),
            (88_200_000, "24h30m"),
            (266_400_000, "3d02h"),
        ];
        for (ms, expected) in cases {
            assert_eq!(span(Span::from_ms(ms)), expected);
        }
    }
}
