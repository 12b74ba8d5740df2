//! How something that takes a while is shown: to a person at a terminal, to a log, or to a program.

use std::io::IsTerminal;

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One JSON object per event.
    Json,
    /// One line per event.
    Lines,
    /// Lines above a live block.
    Live,
}

impl Mode {
    /// What was asked for; a live block only where standard output is a terminal that can redraw.
    pub fn choose(json: bool, plain: bool) -> Self {
        let is_dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        match (json, plain || is_dumb || !std::io::stdout().is_terminal()) {
            (true, _) => Self::Json,
            (false, true) => Self::Lines,
            (false, false) => Self::Live,
        }
    }
}
