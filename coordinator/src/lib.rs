//! The shell around the judge: it reads, appends, relays and wakes up. It decides nothing itself.
//!
//! | module | job |
//! |---|---|
//! | [`core`] | all of the above as a state machine without I/O; the simulator runs this one |
//! | [`room`] | one service: its desk, its place in the log, what waits to be folded |
//! | [`log`] | one record: written, hashed, verified |
//! | `inbox` | messages of people and agents, read into inputs |
//! | `shell` | the same core on NATS |
//! | `causes` | where what was read stands in traces, until a decision names it |
//! | `relay` | what a record says, on its way out |
//! | `figures` | what is counted, and what is wrong |
//! | `high_water` | a file that remembers how far the log went, should the log forget |
//! | [`assess`] | whether the release that runs now should be taken back, by a few looks |
//! | [`cdevents`] | what a record says in the words of CDEvents |
//! | [`backtest`] | what a plan would have decided on samples that were seen before |
//! | [`dry_run`] | what a start would do with the agents that are here |
//! | [`explain`] | why a rollout went as it did, from its records alone |
//! | [`report`] | what a rollout has shown so far, from its records alone |
//! | [`offline`] | verbs that need the judge without a mesh |

mod causes;
mod figures;
mod high_water;
mod inbox;
mod relay;
mod shell;

pub mod assess;
pub mod backtest;
pub mod cdevents;
pub mod core;
pub mod dry_run;
pub mod explain;
pub mod log;
pub mod offline;
pub mod report;
pub mod room;

pub use inbox::read as read_inbox;
pub use shell::{CoordinatorError, Options, run};
