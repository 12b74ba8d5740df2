//! The judge. Pure: no async, clock, randomness, network, file, environment or log.
//!
//! Time enters as an argument; the next wake-up leaves as a value. [`step`] folds inputs into a
//! [`Desk`] first and decides second, so that the decision looks only at evidence, plan and `now`,
//! and never at which message came last.
//!
//! | module | question |
//! |---|---|
//! | [`collect`] | which slots are closed, and whose word counts in them? |
//! | [`evidence`] | what do the closed slots add up to? |
//! | [`tally`] | what does one slot say of one criterion? |
//! | [`track`] | what do many slots say of it? |
//! | [`mod@test`] | is that proof, or luck? |
//! | [`kernel`] | what is the evidence for and against, in logarithms? |
//! | [`rule`] | does a level drift, does an error budget burn? |
//! | [`budget`] | how much evidence does a test need before it may speak? |
//! | [`judge`] | does a criterion hold on that evidence? |
//! | [`gate`] | who is to blame for what is red, and what holds a stage? |
//! | [`state`] | what does the judge remember? |
//! | `commands` | may this command be done? |
//! | `stages` | may this stage be left? |
//! | `take_back` | is the old release seen to be back? |
//! | `drift` | which levers stand elsewhere than where they were put? |
//! | `incidents` | who must be told, once? |
//! | [`rehearse`] | what would a plan have decided? |
//! | [`power`] | what can a plan's looks show, before anything is started? |
//! | [`project`] | what do agents watch, and what do people see? |

mod commands;
mod drift;
mod during;
mod incidents;
mod stages;
mod step;
mod take_back;

pub mod budget;
pub mod collect;
pub mod evidence;
pub mod gate;
pub mod judge;
pub mod kernel;
pub mod power;
pub mod project;
pub mod rehearse;
pub mod rule;
pub mod state;
pub mod tally;
pub mod test;
pub mod track;

pub use state::{Desk, Rollout};
pub use step::{Step, step};

/// Version of the judge. It moves when the same inputs may give another decision.
pub const DECIDE_VERSION: u32 = 6;
