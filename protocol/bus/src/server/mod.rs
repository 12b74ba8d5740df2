//! A local `nats-server`: found, installed, started on loopback, supervised.
//!
//! Only `demo` and the tests install one, and they print a line when they do. Production connects
//! to servers that others run.

mod install;
mod local;

pub use install::{InstallError, VERSION, cached, find, install};
pub(crate) use local::LOCAL_NAME;
pub use local::{HUB_DOMAIN, Link, LocalServer, ServerOptions, StartServerError};
