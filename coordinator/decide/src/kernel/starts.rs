//! A mixture of alternatives that each begin anew in every slot, so that a regression that comes
//! late need not pay back the credit of the good hours before it.
//!
//! `A_j <- (A_j + w_t) exp(inc_jt)` and `E = (sum_j A_j)/J + (1 - sum_{s<=t} w_s)`: a weighted average of
//! e-processes that wait at 1 until their slot, and so an e-process. The first slot of the stage has
//! weight 1/2, the other half is spread evenly over the rest of its planned slots.

use serde::{Deserialize, Serialize};

/// The alternatives' evidence, one number each, whatever their range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Starts {
    /// `A_j` is `mantissa * 2^exponent`: after a day of one kind of news, it leaves the range of a float.
    /// Mantissas lie from 1/2 to 1 once they have started.
    mantissas: Vec<f64>,
    /// Whole numbers. As floats they neither overflow nor stop at a largest one, whatever the counts.
    exponents: Vec<f64>,
    slots: u64,
    planned: u64,
    weights: Weights,
    ln_e: f64,
    ln_e_max: f64,
}

/// How the alternatives' starts are spread over slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// All on the first slot: the plain e-process.
    First,
    /// None on the first slot, all spread evenly over the rest of the planned ones.
    Late,
    /// Half on the first slot, half on the rest of the planned ones.
    Spread,
}

impl Starts {
    /// `alternatives` of them, for a stage of `planned` slots.
    pub fn new(alternatives: usize, planned: u64, weights: Weights) -> Self {
        Self {
            mantissas: vec![0.0; alternatives],
            exponents: vec![0.0; alternatives],
            slots: 0,
            planned: planned.max(1),
            weights,
            ln_e: 0.0,
            ln_e_max: 0.0,
        }
    }

    /// Folds one slot; `increments` are the logarithms of its likelihood ratios, one per alternative.
    pub fn fold(&mut self, increments: impl Iterator<Item = f64>) {
        let weight = self.weight();
        self.slots = self.slots.saturating_add(1);
        for ((mantissa, exponent), increment) in self.mantissas.iter_mut().zip(&mut self.exponents).zip(increments) {
            if weight > 0.0 {
                add(mantissa, exponent, weight);
            }
            multiply(mantissa, exponent, increment);
        }
        self.ln_e = self.ln_mixture();
        self.ln_e_max = self.ln_e_max.max(self.ln_e);
    }

    /// Logarithm of the evidence now.
    pub fn ln_e(&self) -> f64 {
        self.ln_e
    }

    /// The most that it ever was, and at least 0. The p-value of any moment is `exp` of its negative.
    pub fn ln_e_max(&self) -> f64 {
        self.ln_e_max
    }

    /// The alternative that explains the data best; the first of several.
    pub fn best(&self) -> usize {
        let key = |index: usize| (self.exponents.get(index), self.mantissas.get(index));
        (0..self.mantissas.len()).reduce(|best, next| if key(next) > key(best) { next } else { best }).unwrap_or(0)
    }

    /// The weight of the next slot's start.
    fn weight(&self) -> f64 {
        match self.weights {
            _ if self.slots == 0 && self.planned == 1 => 1.0,
            Weights::Late if self.slots == 0 => 0.0,
            Weights::Late if self.slots < self.planned => 1.0 / (self.planned - 1) as f64,
            Weights::First => f64::from(u8::from(self.slots == 0)),
            Weights::Spread if self.slots == 0 => 0.5,
            Weights::Spread if self.slots < self.planned => 0.5 / (self.planned - 1) as f64,
            Weights::Late | Weights::Spread => 0.0,
        }
    }

    /// The part of the mixture that has not started yet, and so stands at 1.
    fn waiting(&self) -> f64 {
        match self.weights {
            Weights::Spread if self.slots < self.planned => {
                0.5 * (self.planned - self.slots) as f64 / (self.planned - 1) as f64
            }
            Weights::Late if self.slots < self.planned => {
                (self.planned - self.slots) as f64 / (self.planned - 1) as f64
            }
            Weights::First | Weights::Late | Weights::Spread => 0.0,
        }
    }

    fn ln_mixture(&self) -> f64 {
        // What waits stands at 1; once nothing does, all the rest may lie far below that.
        let waiting = Some(self.waiting()).filter(|waiting| *waiting > 0.0);
        let least = waiting.map_or(f64::NEG_INFINITY, |_| 0.0);
        let most = self.exponents.iter().copied().fold(least, f64::max);
        let started = self.mantissas.iter().zip(&self.exponents);
        let sum: f64 = started.map(|(mantissa, exponent)| mantissa * two_to(exponent - most)).sum();
        let mean = sum / self.mantissas.len().max(1) as f64 + waiting.map_or(0.0, |waiting| waiting * two_to(-most));
        libm::log(mean) + most * std::f64::consts::LN_2
    }
}

/// Starts of comparisons between two cohorts: those in later slots are on tempered evidence.
///
/// Two cohorts on machines of their own drift apart for minutes at a time; a start in every slot
/// would take the next such excursion for a regression. A power below 1 keeps an e-process one (Jensen).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Tempered {
    first: Starts,
    /// Absent when all start with the first slot.
    late: Option<Starts>,
    ln_e_max: f64,
}

/// To which power the evidence of later starts is taken.
const LATE_POWER: f64 = 1.0 / 5.0;

impl Tempered {
    /// As [`Starts::new`].
    pub(super) fn new(alternatives: usize, planned: u64, weights: Weights) -> Self {
        let starts = |weights| Starts::new(alternatives, planned, weights);
        let late = (weights == Weights::Spread && planned > 1).then(|| starts(Weights::Late));
        Self { first: starts(Weights::First), late, ln_e_max: 0.0 }
    }

    /// As [`Starts::fold`].
    pub(super) fn fold(&mut self, increments: impl Iterator<Item = f64> + Clone) {
        if let Some(late) = &mut self.late {
            late.fold(increments.clone().map(|increment| increment * LATE_POWER));
        }
        self.first.fold(increments);
        self.ln_e_max = self.ln_e_max.max(self.ln_e());
    }

    /// Logarithm of the evidence now: half of it has started with the first slot.
    pub(super) fn ln_e(&self) -> f64 {
        let half = |starts: &Starts| starts.ln_e() - std::f64::consts::LN_2;
        match &self.late {
            Some(late) => super::ln_sum_exp([half(&self.first), half(late)].into_iter()),
            None => self.first.ln_e(),
        }
    }

    /// The most that it ever was, and at least 0.
    pub(super) fn ln_e_max(&self) -> f64 {
        self.ln_e_max
    }

    /// The alternative that explains the data best, by whichever starts say more.
    pub(super) fn best(&self) -> usize {
        self.late.as_ref().filter(|late| late.ln_e() > self.first.ln_e()).unwrap_or(&self.first).best()
    }
}

fn add(mantissa: &mut f64, exponent: &mut f64, weight: f64) {
    if *exponent < -700.0 {
        // What is there is far below any rounding error of the weight.
        (*mantissa, *exponent) = (weight, 0.0);
    } else {
        *mantissa += weight * two_to(-*exponent);
    }
}

fn multiply(mantissa: &mut f64, exponent: &mut f64, increment: f64) {
    if *mantissa <= 0.0 {
        // It has not started: there is nothing to multiply.
        return;
    }
    let twos = libm::rint(increment * std::f64::consts::LOG2_E);
    // Beyond 1e15 nats the rest is rounding error, and must not become a factor of its own.
    let rest = (increment - twos * std::f64::consts::LN_2).clamp(-0.5, 0.5);
    let (fraction, shift) = libm::frexp(*mantissa * libm::exp(rest));
    *mantissa = fraction;
    *exponent += twos + f64::from(shift);
}

/// 2 to a whole power of at most 1,000; 0 below -1,000, where nothing else is lost in a sum.
fn two_to(power: f64) -> f64 {
    if power < -1_000.0 { 0.0 } else { f64::from_bits(((1_023 + power as i64) as u64) << 52) }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::LN_2;

    use super::*;

    #[test]
    fn the_best_alternative_is_the_one_that_grew_most() {
        let mut starts = Starts::new(2, 1_000, Weights::First);
        // The first grows by 0.45 a slot, the second by 0.05 on average, by larger steps.
        (0..100).for_each(|slot| starts.fold([0.45 * LN_2, if slot % 2 == 0 { 0.6 } else { -0.5 } * LN_2].into_iter()));
        assert_eq!(starts.best(), 0);
        assert!((starts.ln_e() - (45.0 * LN_2 - LN_2)).abs() < 1e-9, "{}", starts.ln_e());
    }

    #[test]
    fn weights_add_up_to_one_over_the_planned_slots() {
        for planned in [1, 2, 3, 40, 5_760] {
            for weights in [Weights::First, Weights::Late, Weights::Spread] {
                let mut starts = Starts::new(3, planned, weights);
                let mut sum = 0.0;
                for _ in 0..planned + 2 {
                    sum += starts.weight();
                    starts.fold([0.0; 3].into_iter());
                    assert!((sum + starts.waiting() - 1.0).abs() < 1e-12, "{planned} {weights:?}");
                    // Slots that say nothing leave the evidence at 1.
                    assert!(starts.ln_e().abs() < 1e-12, "{planned} {weights:?} {}", starts.ln_e());
                }
                assert!(starts.waiting().abs() < 1e-12 && (sum - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn the_recursion_is_kept_slot_by_slot() {
        // The formula as it stands, in plain floats, where they suffice.
        let (mut starts, mut a, mut spent) = (Starts::new(2, 50, Weights::Spread), [0.0_f64; 2], 0.0);
        for slot in 0..60_u32 {
            let weight = if slot == 0 {
                0.5
            } else if slot < 50 {
                0.5 / 49.0
            } else {
                0.0
            };
            let increments = [0.3 - f64::from(slot % 5) * 0.2, f64::from(slot % 3) - 0.8];
            spent += weight;
            for (a, increment) in a.iter_mut().zip(increments) {
                *a = (*a + weight) * libm::exp(increment);
            }
            starts.fold(increments.into_iter());
            let expected = libm::log((a[0] + a[1]) / 2.0 + (1.0 - spent).max(0.0));
            assert!((starts.ln_e() - expected).abs() < 1e-12, "slot {slot}: {} {expected}", starts.ln_e());
        }
    }

    #[test]
    fn counts_that_nobody_has_leave_a_number() {
        let mut starts = Starts::new(2, 1, Weights::First);
        for increments in [[-1e19, -2e21], [1e19, 3e19], [-1e22, -1e22], [0.5, 0.25]] {
            starts.fold(increments.into_iter());
            assert!(starts.ln_e().is_finite(), "{increments:?}: {}", starts.ln_e());
        }
        assert_eq!(starts.best(), 0);
    }

    #[test]
    fn evidence_far_beyond_the_range_of_floats_comes_back_exactly() {
        let mut starts = Starts::new(1, 1, Weights::First);
        for increment in [-1e12, -3e5, 1e12, 3e5 + 2.5] {
            starts.fold([increment].into_iter());
        }
        assert!((starts.ln_e() - 2.5).abs() < 1e-3, "{}", starts.ln_e());
        for _ in 0..1_000_000 {
            starts.fold([-0.75].into_iter());
        }
        assert!((starts.ln_e() + 749_997.5).abs() < 1e-3, "{}", starts.ln_e());
    }
}
