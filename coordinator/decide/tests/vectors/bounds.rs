use bellwether_decide::kernel::interval::Mixture;
use bellwether_decide::kernel::strays;
use bellwether_decide::kernel::threshold::Counts;

use super::rows;

#[test]
fn intervals_of_shares_agree() {
    for row in rows("bernoulli_cs_beta.csv") {
        let mixture = Mixture { a: row.f64("a"), b: row.f64("b"), alpha: row.f64("alpha") };
        let (low, high) = mixture.interval(Counts::new(row.u64("errors"), row.u64("n")));
        row.check("lower", low);
        row.check("upper", high);
    }
}

#[test]
fn the_uniform_mixture_is_the_confidence_sequence_method() {
    for row in rows("csm_identity.csv") {
        let mixture = Mixture { a: 1.0, b: 1.0, alpha: 0.05 };
        row.check("log_e_beta11", mixture.ln_e(Counts::new(row.u64("errors"), row.u64("n")), row.f64("p0")));
    }
}

/// confseq tunes the mixture for each share that it asks about, by when the interval shall be tightest
/// (`t_opt`); its bounds lie where the evidence against that share reaches `ln(1/alpha)`.
#[test]
fn bounds_of_another_library_lie_where_our_evidence_says() {
    for row in rows("bernoulli_cs_confseq.csv") {
        let counts = Counts::new(row.u64("errors"), row.u64("n"));
        let bar = -row.f64("alpha").ln();
        for column in ["lower", "upper"] {
            let p = row.f64(column);
            if p > 0.0 {
                let variance = p * (1.0 - p);
                let nats = 2.0 * 20.0_f64.ln();
                let tuned = row.f64("t_opt") * variance / (nats + nats.ln_1p()) - variance;
                let prior = tuned.max(1e-3 * variance);
                let mixture = Mixture { a: prior / (1.0 - p), b: prior / p, alpha: row.f64("alpha") };
                let ln_e = mixture.ln_e(counts, p);
                assert!((ln_e - bar).abs() < 1e-9, "line {} {column}: {ln_e} instead of {bar}", row.line);
            }
        }
    }
}

#[test]
fn counts_around_a_quantile_agree() {
    for row in rows("quantile_count_bounds.csv") {
        let (down, up) = strays::around_quantile(row.f64("q"), row.u64("t"), row.u64("t_opt"), row.f64("alpha"));
        row.check("bound_sub_bernoulli(g=1-q,h=q)", down);
        row.check("bound_sub_bernoulli(g=q,h=1-q)", up);
    }
}
