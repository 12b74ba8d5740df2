use bellwether_decide::kernel::share::{Batch, Fail, Pass, Ratios};
use bellwether_decide::kernel::starts::Weights;
use bellwether_decide::kernel::threshold::Counts;

use super::rows;

fn batch(canary: Counts, baseline: Counts) -> Batch {
    Batch { canary, baseline }
}

#[test]
fn log_e_values_agree() {
    for row in rows("rate_beta_bf.csv") {
        // Shares of traffic of 10 % and the like, exactly: so many requests of the canary in a million.
        let canary = (row.f64("rho") * 1e6).round() as u64;
        let (bad, baseline_bad) = (row.u64("canary_errors"), row.u64("baseline_errors"));
        let mut test = Fail::new(1.0, Ratios::ERRORS, 1, Weights::First);
        test.fold([batch(Counts::new(bad, canary), Counts::new(baseline_bad, 1_000_000 - canary))].into_iter());
        row.check("log_e_grid12_one_sided", test.ln_e());
    }
}

#[test]
fn proofs_of_no_regression_agree() {
    let mut test = Pass::new(2.0);
    for row in rows("rate_pass_fnch.csv") {
        let canary = Counts::new(row.u64("bad_canary"), row.u64("n_canary"));
        let batch = batch(canary, Counts::new(row.u64("bad_base"), row.u64("n_base")));
        test.fold([batch].into_iter(), true);
        row.check("log_e_pass", test.ln_e());
    }
}

/// Under its null hypothesis the expectation of a factor of the Fail test is at most 1, exactly:
/// enumerated over every outcome of a batch.
#[test]
fn the_expectation_of_a_fail_factor_is_at_most_one() {
    for row in rows("rate_exact_expectation.csv").into_iter().filter(|row| row.text("direction") == "fail") {
        let (n, n_base, bad) = (row.u64("n_canary"), row.u64("n_base"), row.u64("total_errors_in_batch"));
        let (low, high) = (bad.saturating_sub(n_base), bad.min(n));
        let ln_choose = |n: u64, k: u64| {
            let ln_factorial = |n: u64| libm::lgamma(n as f64 + 1.0);
            ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
        };
        let r0 = row.f64("null_odds_ratio");
        let odds = |k: u64| (ln_choose(n, k) + ln_choose(n_base, bad - k) + k as f64 * r0.ln()).exp();
        let total: f64 = (low..=high).map(odds).sum();
        let mixture = |k: u64| {
            let mut test = Fail::new(r0, Ratios::ERRORS, 1, Weights::First);
            test.fold([batch(Counts::new(k, n), Counts::new(bad - k, n_base))].into_iter());
            test.ln_e().exp()
        };
        let expectation: f64 = (low..=high).map(|k| odds(k) / total * mixture(k)).sum();
        assert!(expectation <= 1.0 + 1e-9, "line {}: {expectation}", row.line);
    }
}
