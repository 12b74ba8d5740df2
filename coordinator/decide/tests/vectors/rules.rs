use bellwether_decide::kernel::threshold::Counts;
use bellwether_decide::rule::burn::Burn;
use bellwether_decide::rule::trend::{Trend, median, normal_quantile, slope_limits, spread};
use bellwether_protocol::time::Span;
use serde_json::Value;

use super::{path, rows};

#[test]
fn trends_agree() {
    let Ok(text) = std::fs::read_to_string(path("trend.json")) else {
        return println!("skipped: trend.json is not there");
    };
    let series: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert!(!series.is_empty());
    for (name, expected) in series {
        let x: Vec<f64> = expected["x"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        let check = |pointer: &str, got: f64| {
            let expected = expected.pointer(pointer).and_then(Value::as_f64).unwrap();
            assert!((got - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{name}{pointer}: {got}, {expected}");
        };
        let trend = Trend::of(&x).unwrap();
        check("/theil_sen/slope", trend.slope);
        check("/mk/S", trend.s);
        check("/mk/var_s", trend.variance);
        check("/mk/z", trend.z(trend.variance));
        check("/hamed_rao/var_s", trend.variance * trend.inflation);
        check("/hamed_rao/z", trend.z_corrected());
        let (low, high) = slope_limits(&x, trend.variance, normal_quantile(0.975)).unwrap();
        check("/theil_sen/lo95", low);
        check("/theil_sen/hi95", high);
        check("/p95_p5_over_median", spread(&x).unwrap());
        let quarter = x.len() / 4;
        let of = |part: &[f64]| median(&mut part.to_vec()).unwrap();
        check("/drift_last_vs_first_quarter", of(&x[x.len() - quarter..]) / of(&x[..quarter]) - 1.0);
    }
}

/// How long a constant share of bad answers takes to trip a long window that was clean.
#[test]
fn burn_rates_trip_when_they_should() {
    for row in rows("burn_rate.csv") {
        let (slo, share) = (row.f64("slo"), row.f64("error_rate"));
        let (long, factor) = (row.u64("long_min"), row.f64("factor"));
        // Seconds, and enough answers in each that the share is exact and the guard is no obstacle.
        let long_s = long * 60;
        let n = 1_000_000_000;
        let counts = Counts::new((share * n as f64).round() as u64, n);
        // One stage as long as the window: its own pair is then the one to trip.
        let period = Span::from_secs(30 * 86_400);
        let spend = factor * long_s as f64 / period.as_ms() as f64 * 1e3;
        row.check("budget_fraction_at_factor_over_long_window_30d", spend);
        let mut burn = Burn::new(slo, period, spend, Span::from_secs(1), long_s);
        let mut tripped = None;
        for second in 1..=long_s {
            burn.fold(counts);
            let rate = burn.windows().find(|rate| rate.long == Span::from_secs(long_s)).unwrap();
            if rate.rate > rate.factor {
                tripped = Some(second);
                break;
            }
        }
        match row.text("minutes_to_long_window_trip_from_clean").parse::<f64>() {
            Ok(minutes) => {
                let second = tripped.unwrap_or_else(|| panic!("line {}: never", row.line)) as f64;
                assert!(second >= minutes * 60.0 && second <= minutes * 60.0 + 1.01, "line {}: {second}", row.line);
            }
            Err(_) => assert_eq!(tripped, None, "line {}", row.line),
        }
    }
}
