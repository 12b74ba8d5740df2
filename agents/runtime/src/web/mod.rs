//! How agents look at what answers over HTTP, and speak to platforms: what they may reach, what they
//! read out of an answer, and what its status means.
//!
//! What may be reached is in the agent's own configuration, never in a plan.
//!
//! | module | room |
//! |---|---|
//! | `allow`, `dial`, `target` | what may be looked at, and how it is reached |
//! | `control` | what tells a sick agent from a sick service |
//! | `exchange` | one request, one answer, bounded |
//! | `question`, `condition` | what is asked, and what must hold of the answer, pure |
//! | `by_hand` | the same, as a person writes it on a command line |
//! | `answer`, `number`, `json_path` | what is read out of an answer, pure |
//! | `reply`, `rest` | one exchange of a client; a platform's JSON API |
//! | `redaction` | what never becomes evidence |
//! | `flaws` | what is wrong in settings |

mod allow;
mod answer;
mod by_hand;
mod condition;
mod control;
mod dial;
mod exchange;
mod flaws;
mod json_path;
mod number;
mod question;
mod redaction;
mod reply;
mod rest;
mod target;

pub use allow::{Allow, Entry, EntryError};
pub use answer::{Answer, texts};
pub use by_hand::ByHand;
pub use condition::{Condition, ConditionError};
pub use control::{ControlLooks, ControlTarget};
pub use dial::{Dialer, Stream};
pub use exchange::{Failure, HEAD_LEN_MAX, Phases, Received, ask, body, broken, secrets};
pub use flaws::{Flaws, escaped};
pub use json_path::{JsonPath, PathError};
pub use number::{Number, Source, Take};
pub use question::Question;
pub use redaction::{CUT, fixed, is_sensitive, redact, without_query_values};
pub use reply::{Reply, ReplyError, chain, reply};
pub use rest::{AccountError, Rest, RestError};
pub use target::{Mark, Origin, Target, headers};
