//! Whatever is counted, the kernels neither panic nor lose their numbers, and what was stored goes on
//! exactly as what was not.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fmt::Debug;

use bellwether_decide::kernel::edges::{Anywhere, AtQuantile, Slower};
use bellwether_decide::kernel::interval::Mixture;
use bellwether_decide::kernel::share::{self, Batch, Ratios};
use bellwether_decide::kernel::starts::Weights;
use bellwether_decide::kernel::threshold::{self, Counts};
use proptest::collection::vec;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Small ones, those of a slot, and those that nobody has: up to the last of them.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![0..20_u64, 0..100_000_u64, 0..=1_000_000_000_000_u64, any::<u64>(), Just(u64::MAX)]
}

fn counts() -> impl Strategy<Value = Counts> {
    (count(), count()).prop_map(|(bad, n)| Counts::new(bad, n))
}

fn batch() -> impl Strategy<Value = Batch> {
    (counts(), counts()).prop_map(|(canary, baseline)| Batch { canary, baseline })
}

fn weights() -> impl Strategy<Value = Weights> {
    prop_oneof![Just(Weights::First), Just(Weights::Late), Just(Weights::Spread)]
}

fn planned() -> impl Strategy<Value = u64> {
    prop_oneof![0..30_u64, any::<u64>()]
}

/// Folds all slots, storing and reading the test back before the one at `stored`.
fn run<T, S>(test: T, slots: &[S], stored: usize, fold: impl Fn(&mut T, &S), ln_e: impl Fn(&T) -> f64)
where
    T: Clone + PartialEq + Debug + Serialize + DeserializeOwned,
{
    let (mut test, mut again) = (test.clone(), test);
    for (index, slot) in slots.iter().enumerate() {
        if index == stored {
            again = serde_json::from_str(&serde_json::to_string(&again).unwrap()).unwrap();
        }
        fold(&mut test, slot);
        fold(&mut again, slot);
        assert!(ln_e(&test).is_finite(), "slot {index}: {}", ln_e(&test));
    }
    assert_eq!(test, again);
    let read: T = serde_json::from_str(&serde_json::to_string(&test).unwrap()).unwrap();
    assert_eq!(test, read);
}

proptest! {
    // Found cases become tests of their own: no file of seeds is kept.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn kernel_1_takes_any_counts(
        p0 in prop_oneof![1e-9..1.0_f64, Just(0.001)], slots in vec(counts(), 0..40), stored in 0..40_usize,
        weights in weights(), planned in planned(),
    ) {
        let test = threshold::Fail::new(p0, planned, weights);
        run(test, &slots, stored, |test, slot| test.fold(*slot), threshold::Fail::ln_e);
        for slot in slots {
            prop_assert!(!threshold::ln_e_fail(slot, p0).is_nan() && threshold::ln_e_pass(slot, p0).is_finite());
            let (low, high) = Mixture::SHOWN.interval(slot);
            prop_assert!((0.0..=1.0).contains(&low) && (low..=1.0).contains(&high), "{low} {high}");
        }
    }

    #[test]
    fn kernel_2_takes_any_counts(
        r0 in 0.5..4.0_f64, slots in vec(vec(batch(), 0..3), 0..20), stored in 0..20_usize,
        weights in weights(), planned in planned(),
    ) {
        let test = share::Fail::new(r0, Ratios::ERRORS, planned, weights);
        run(test, &slots, stored, |test, slot| test.fold(slot.iter().copied()), share::Fail::ln_e);
    }

    #[test]
    fn latencies_take_any_counts(
        slots in vec((count(), vec(count(), 4), count(), vec(count(), 4)), 0..12), stored in 0..12_usize,
        weights in weights(), planned in planned(),
    ) {
        fn slot((canary_n, canary, baseline_n, baseline): &(u64, Vec<u64>, u64, Vec<u64>)) -> Slower<'_> {
            Slower { canary_n: *canary_n, canary, baseline_n: *baseline_n, baseline }
        }
        let anywhere = Anywhere::new(4, planned, weights);
        run(anywhere, &slots, stored, |test, one| test.fold([slot(one)].into_iter()), Anywhere::ln_e);
        let at_quantile = AtQuantile::new(0.99, 2.0, planned, weights);
        run(at_quantile, &slots, stored, |test, one| test.fold([slot(one)].into_iter(), true), AtQuantile::ln_e);
    }

    #[test]
    fn fewer_events_never_fail_less(bad in count(), p0 in 1e-6..0.9_f64) {
        let bar = 3.0;
        if let Some(most) = threshold::fails_within(bad, p0, bar).filter(|most| *most < 1 << 50) {
            prop_assert!(threshold::ln_e_fail(Counts::new(bad, most), p0) >= bar);
            prop_assert!(threshold::ln_e_fail(Counts::new(bad, most + 1), p0) < bar);
        }
    }
}

/// Slots as services have them, a tenth of which is not covered.
fn slots() -> impl Strategy<Value = Vec<(Batch, bool)>> {
    let counts = || (0..4_u64, 0..2_000_u64).prop_map(|(bad, good)| Counts { bad, good });
    let batch = (counts(), counts()).prop_map(|(canary, baseline)| Batch { canary, baseline });
    vec((batch, prop::bool::weighted(0.9)), 1..40)
}

/// A Pass test on slots with gaps shows no more than one that saw nothing there and goes on as if
/// nothing were missing, and no more than one that begins after the last gap.
fn gaps_never_help<T: Clone>(
    new: &T,
    slots: &[(Batch, bool)],
    fold: impl Fn(&mut T, &Batch, bool),
    ln_e: impl Fn(&T) -> f64,
) -> Result<(), TestCaseError> {
    let (mut gappy, mut blind, mut after) = (new.clone(), new.clone(), new.clone());
    for (batch, is_covered) in slots {
        fold(&mut gappy, batch, *is_covered);
        let known = if *is_covered { *batch } else { Batch::default() };
        fold(&mut blind, &known, true);
        fold(&mut after, batch, true);
        if !is_covered {
            after = new.clone();
            prop_assert!(ln_e(&gappy) <= 1e-12, "proven in a gap: {}", ln_e(&gappy));
        }
        let most = ln_e(&blind).min(ln_e(&after));
        prop_assert!(ln_e(&gappy) <= most + 1e-9, "{} of {most}", ln_e(&gappy));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_gap_never_helps_a_share_to_be_proven(slots in slots(), p1 in prop_oneof![Just(0.001), 1e-4..0.5_f64]) {
        let fold = |test: &mut threshold::Pass, batch: &Batch, is_covered| test.fold(batch.canary, is_covered);
        gaps_never_help(&threshold::Pass::new(p1), &slots, fold, threshold::Pass::ln_e)?;
    }

    #[test]
    fn a_gap_never_helps_a_comparison_to_be_proven(slots in slots(), r1 in prop_oneof![Just(2.0), 1.1..8.0_f64]) {
        let fold = |test: &mut share::Pass, batch: &Batch, is_covered| test.fold([*batch].into_iter(), is_covered);
        gaps_never_help(&share::Pass::new(r1), &slots, fold, share::Pass::ln_e)?;
    }
}

proptest! {
    // A batch may cost milliseconds here.
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn proofs_take_any_counts(
        batches in vec((batch(), any::<bool>()), 0..8), stored in 0..8_usize, r1 in 1.1..8.0_f64, p1 in 1e-9..0.9_f64,
    ) {
        let fold = |test: &mut share::Pass, (batch, is_covered): &_| test.fold([*batch].into_iter(), *is_covered);
        run(share::Pass::new(r1), &batches, stored, fold, share::Pass::ln_e);
        let fold = |test: &mut threshold::Pass, (batch, is_covered): &(Batch, bool)| test.fold(batch.canary, *is_covered);
        run(threshold::Pass::new(p1), &batches, stored, fold, threshold::Pass::ln_e);
    }
}
