//! Does a series climb? Rank statistics, which no single outlier can turn.
//!
//! Mann-Kendall with the variance correction of Hamed and Rao (1998) for autocorrelation, and the
//! slope of Theil and Sen with Sen's confidence limits (1968, equation 2.6). Quadratic in the number
//! of points, which callers keep to a few hundred.

use libm::sqrt;

/// What ranks say of a series at equal steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trend {
    /// Mann-Kendall's S: pairs that rise minus pairs that fall.
    pub s: f64,
    /// Its variance without trend, corrected for ties.
    pub variance: f64,
    /// By what the variance must be multiplied for autocorrelation.
    pub inflation: f64,
    /// The slope of Theil and Sen, per step.
    pub slope: f64,
    /// Autocorrelation at lag 1 of the ranks of the series without that slope.
    pub lag_1: f64,
}

impl Trend {
    /// Of at least three points; `None` for fewer, or when all are equal.
    pub fn of(series: &[f64]) -> Option<Self> {
        let n = series.len();
        if n < 3 || series.iter().all(|value| value.total_cmp(&series[0]).is_eq()) {
            return None;
        }
        let slope = median(&mut slopes(series))?;
        let flat: Vec<f64> = (0_u32..).zip(series).map(|(step, value)| value - f64::from(step) * slope).collect();
        let correlations = autocorrelations(&ranks(&flat));
        Some(Self {
            s: pairs(series).map(|(earlier, later)| sign(later - earlier)).sum(),
            variance: variance(series),
            inflation: inflation(&correlations),
            slope,
            lag_1: correlations.get(1).copied().unwrap_or(0.0),
        })
    }

    /// The standard score of S, without the correction for autocorrelation when `variance` is its own.
    pub fn z(&self, variance: f64) -> f64 {
        // One is taken off towards 0: S moves in steps of two.
        if variance > 0.0 { (self.s - sign(self.s)) / sqrt(variance) } else { 0.0 }
    }

    /// The standard score of Hamed and Rao.
    pub fn z_corrected(&self) -> f64 {
        self.z(self.variance * self.inflation)
    }
}

/// Limits of the slope per step, given the variance of S and how many standard deviations wide.
pub fn slope_limits(series: &[f64], variance: f64, z: f64) -> Option<(f64, f64)> {
    let mut slopes = slopes(series);
    slopes.sort_by(f64::total_cmp);
    let last = slopes.len().checked_sub(1)?;
    let (count, width) = (slopes.len() as f64, z * sqrt(variance));
    let index = |rank: f64| (libm::rint(rank).max(0.0) as usize).min(last);
    let low = index(libm::rint((count - width) / 2.0) - 1.0);
    let high = index((count + width) / 2.0);
    Some((*slopes.get(low)?, *slopes.get(high)?))
}

/// The 5th to the 95th percentile, as a share of the median.
pub fn spread(series: &[f64]) -> Option<f64> {
    let mut sorted = series.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = quantile(&sorted, 0.5)?;
    Some((quantile(&sorted, 0.95)? - quantile(&sorted, 0.05)?) / middle.abs())
}

/// The median; sorts.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    quantile(values, 0.5)
}

/// A quantile of sorted values, between neighbours in a straight line (type 7).
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let at = q * sorted.len().checked_sub(1)? as f64;
    let below = libm::floor(at);
    let low = *sorted.get(below as usize)?;
    let high = sorted.get(below as usize + 1).copied().unwrap_or(low);
    Some(low + (high - low) * (at - below))
}

/// The standard normal quantile: Acklam's rational approximation, then one step of Halley against
/// the error function; to about 1e-15.
pub fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -39.696_830_286_653_76,
        220.946_098_424_520_5,
        -275.928_510_446_968_7,
        138.357_751_867_269,
        -30.664_798_066_147_16,
        2.506_628_277_459_239,
    ];
    const B: [f64; 5] = [
        -54.476_098_798_224_06,
        161.585_836_858_040_9,
        -155.698_979_859_886_6,
        66.801_311_887_719_72,
        -13.280_681_552_885_72,
    ];
    const C: [f64; 6] = [
        -0.007_784_894_002_430_293,
        -0.322_396_458_041_136_5,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 4] =
        [0.007_784_695_709_041_462, 0.322_467_129_070_039_8, 2.445_134_137_142_996, 3.754_408_661_907_416];
    let horner = |of: &[f64], x: f64| of.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = |p: f64| {
        let q = sqrt(-2.0 * libm::log(p));
        horner(&C, q) / (horner(&D, q) * q + 1.0)
    };
    if p <= 0.0 || p >= 1.0 {
        return if p <= 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    let x = if p < 0.024_25 {
        tail(p)
    } else if p > 1.0 - 0.024_25 {
        -tail(1.0 - p)
    } else {
        let q = p - 0.5;
        horner(&A, q * q) * q / (horner(&B, q * q) * q * q + 1.0)
    };
    let error = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2) - p;
    let step = error * sqrt(2.0 * std::f64::consts::PI) * libm::exp(x * x / 2.0);
    x - step / (1.0 + x * step / 2.0)
}

fn pairs(series: &[f64]) -> impl Iterator<Item = (f64, f64)> {
    series.iter().enumerate().flat_map(|(at, earlier)| series.iter().skip(at + 1).map(|later| (*earlier, *later)))
}

fn sign(value: f64) -> f64 {
    f64::from(i8::from(value > 0.0) - i8::from(value < 0.0))
}

fn slopes(series: &[f64]) -> Vec<f64> {
    let from = |(at, earlier): (usize, &f64)| {
        let earlier = *earlier;
        (1_u32..).zip(series.iter().skip(at + 1)).map(move |(steps, later)| (later - earlier) / f64::from(steps))
    };
    series.iter().enumerate().flat_map(from).collect()
}

fn variance(series: &[f64]) -> f64 {
    let term = |n: f64| n * (n - 1.0) * (2.0 * n + 5.0);
    let mut sorted = series.to_vec();
    sorted.sort_by(f64::total_cmp);
    let ties: f64 = sorted.chunk_by(|a, b| a.total_cmp(b).is_eq()).map(|tied| term(tied.len() as f64)).sum();
    (term(series.len() as f64) - ties) / 18.0
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0_usize;
    for tied in order.chunk_by(|a, b| values[*a].total_cmp(&values[*b]).is_eq()) {
        let mean = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|index| ranks[*index] = mean);
        before += tied.len();
    }
    ranks
}

/// Autocorrelations by lag, from 0.
fn autocorrelations(values: &[f64]) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let covariance = |lag: usize| {
        let later = values.iter().skip(lag);
        later.zip(values).map(|(later, earlier)| (later - mean) * (earlier - mean)).sum::<f64>()
    };
    let whole = covariance(0);
    (0..values.len()).map(|lag| if whole > 0.0 { covariance(lag) / whole } else { 0.0 }).collect()
}

/// Hamed and Rao's correction, over the autocorrelations that are significant at 5 %.
fn inflation(correlations: &[f64]) -> f64 {
    let n = correlations.len() as f64;
    let significant = normal_quantile(0.975) / sqrt(n);
    let terms = (0_u32..).zip(correlations).skip(1).filter(|(_, r)| r.abs() > significant);
    let sum: f64 = terms
        .map(|(lag, r)| {
            let left = n - f64::from(lag);
            left * (left - 1.0) * (left - 2.0) * r
        })
        .sum();
    1.0 + 2.0 / (n * (n - 1.0) * (n - 2.0)) * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straight_line_climbs_and_noise_around_a_level_does_not() {
        let line: Vec<f64> = (0..48).map(f64::from).collect();
        let trend = Trend::of(&line).unwrap();
        assert!((trend.slope - 1.0).abs() < 1e-12 && (trend.s - 1_128.0).abs() < 1e-12);
        let noise: Vec<f64> = (0..48).map(|step| f64::from(step * 37 % 101)).collect();
        assert!(Trend::of(&noise).unwrap().z_corrected().abs() < 1.0);
        assert!(Trend::of(&[1.0; 48]).is_none() && Trend::of(&[1.0, 2.0]).is_none());
    }

    #[test]
    fn normal_quantiles_are_those_of_the_tables() {
        for (p, expected) in [(0.5, 0.0), (0.975, 1.959_963_984_540_054), (0.9875, 2.241_402_727_604_947)] {
            assert!((normal_quantile(p) - expected).abs() < 1e-13, "{p}");
            assert!((normal_quantile(1.0 - p) + expected).abs() < 1e-13, "{p}");
        }
        assert!((normal_quantile(1e-9) + 5.997_807_015_007_735).abs() < 1e-9);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let sorted = [1.0, 2.0, 4.0];
        for (q, expected) in [(0.0, 1.0), (0.25, 1.5), (0.5, 2.0), (0.75, 3.0), (1.0, 4.0)] {
            assert_eq!(quantile(&sorted, q), Some(expected));
        }
        assert_eq!(quantile(&[], 0.5), None);
    }
}
