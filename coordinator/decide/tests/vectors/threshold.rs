use bellwether_decide::kernel::starts::Weights;
use bellwether_decide::kernel::threshold::{
    Counts, Fail, bound_of_silence, clean_needed, fail_grid, fails_within, ln_e_fail, ln_e_pass, pass_grid,
};

use super::rows;

#[test]
fn log_e_values_agree() {
    for row in rows("threshold_eprocess.csv") {
        let (counts, p0) = (Counts::new(row.u64("errors"), row.u64("n")), row.f64("p0"));
        row.check("log_e_fail_grid", ln_e_fail(counts, p0));
        row.check("log_e_pass_grid", ln_e_pass(counts, p0));
        assert_eq!(row.u64("J_fail"), fail_grid(p0).len() as u64);
        assert_eq!(row.u64("J_pass"), pass_grid(p0).count() as u64);
        // The test that is folded slot by slot says the same as the totals.
        let mut folded = Fail::new(p0, 3, Weights::First);
        let half = Counts { good: counts.good / 2, bad: counts.bad / 2 };
        folded.fold(half);
        folded.fold(Counts::default());
        folded.fold(Counts { good: counts.good - half.good, bad: counts.bad - half.bad });
        row.check("log_e_fail_grid", folded.ln_e());
    }
}

#[test]
fn integer_boundaries_are_exact() {
    for row in rows("threshold_fail_boundary.csv") {
        let bar = -row.f64("alpha").ln();
        let within = fails_within(row.u64("errors"), row.f64("p0"), bar);
        // The file writes 0 where so many bad ones never fail.
        assert_eq!(within.unwrap_or(0), row.u64("fail_if_requests_le"), "line {}", row.line);
    }
}

#[test]
fn silence_proves_what_the_closed_form_says() {
    for row in rows("zero_failure_n.csv") {
        let n = clean_needed(row.f64("p1"), -row.f64("alpha").ln());
        assert_eq!(n, row.u64("n_clean_needed"), "line {}", row.line);
        row.check("upper_bound_at_that_n", bound_of_silence(n, row.f64("alpha")));
    }
}

#[test]
fn expected_numbers_of_requests_agree() {
    for row in rows("threshold_expected_n.csv") {
        let (p0, p) = (row.f64("p0"), row.f64("p_true"));
        let divergence = p * (p / p0).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - p0)).ln();
        row.check("KL_per_request", divergence);
        let alternatives = fail_grid(p0).len() as f64;
        row.check("approx_requests_to_fail", (alternatives.ln() - row.f64("alpha").ln()) / divergence);
    }
}

#[test]
fn starts_in_every_slot_agree_to_forty_digits() {
    let mut tests: Vec<((u64, u64), Fail)> = Vec::new();
    for row in rows("slot_mixture.csv") {
        let key = (row.f64("p0").to_bits(), row.u64("planned_slots"));
        if row.u64("slot") == 1 {
            tests.push((key, Fail::new(row.f64("p0"), key.1, Weights::Spread)));
        }
        let (_, test) = tests.iter_mut().rfind(|(own, _)| *own == key).expect("a first slot");
        test.fold(Counts::new(row.u64("bad"), row.u64("n")));
        row.check("log_e", test.ln_e());
    }
}
