//! The operator's verbs: start, watch, command, list, up, demo.
//!
//! This crate asks and shows. It never decides: what a command led to is read from what the
//! coordinators wrote. Results go to standard output, everything else to standard error.
//!
//! | module | what |
//! |---|---|
//! | `args` | flags that every verb shares |
//! | `error` | what went wrong, what to try, with which exit code |
//! | `ask` | a command, from the publish to its outcome |
//! | `alert`, `command`, `rollout`, `replay`, `report`, `agents`, `plan`, `backtest`, `health` | the verbs |
//! | `verb` | all of these, and what the judge does for them |
//! | `doctor` | what is wrong with the mesh, and what would mend it |
//! | `drill` | a take-back, rehearsed and timed |
//! | `dry_run` | what a start would do |
//! | `init` | the files of a first rollout |
//! | `join` | an agent that is invited, and joins |
//! | `assess` | one look at a release, and the way back, without a mesh |
//! | `follow` | one rollout until it ends: events above, the live block below |
//! | `screen`, `keys`, `out` | the terminal, and pipes |
//! | `render` | facts to text, pure |
//! | `children`, `up`, `demo` | processes on this machine |

mod agents;
mod alert;
mod args;
mod ask;
mod assess;
mod backtest;
mod children;
mod command;
mod demo;
mod doctor;
mod drill;
mod dry_run;
mod error;
mod follow;
mod health;
mod init;
mod join;
mod keys;
mod out;
mod plan;
mod render;
mod replay;
mod report;
mod rollout;
mod screen;
mod up;
mod verb;

pub use agents::AgentsVerb;
pub use alert::AckArgs;
pub use args::{AgentArgs, AgentRole, CoordinatorArgs, Mesh};
pub use assess::{AssessArgs, RollbackVerb};
pub use backtest::{Asked as Samples, BacktestArgs};
pub use command::CommandVerb;
pub use demo::DemoArgs;
pub use doctor::DoctorArgs;
pub use drill::DrillArgs;
pub use error::{EXITS, VerbError, complain, exit};
pub use health::HealthArgs;
pub use init::InitArgs;
pub use join::{InviteArgs, JoinArgs};
pub use out::{CompletionsArgs, ManArgs, completions, man};
pub use plan::PlanVerb;
pub use replay::{Asked, AuditVerb, ExplainArgs, Heads, Log, ReplayArgs};
pub use report::{EvidenceArgs, ReportArgs};
pub use rollout::{RolloutVerb, StartArgs, WatchArgs, Which};
pub use up::UpArgs;
pub use verb::{Judge, Told, Verb};
