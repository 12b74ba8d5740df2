//! Rules that count and rank instead of testing at every moment.
//!
//! Neither is safe to look at all the time: stability is looked at four planned times, a burn rate in
//! sliding windows behind a guard. So both lie outside the error budget of a rollout.

pub mod burn;
pub mod stability;
pub mod trend;
