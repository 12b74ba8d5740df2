//! A whole run: the sum of its windows, those apart of which our own lag made nothing. Pure.

use std::time::Duration;

use bellwether_protocol::time::{Span, Timestamp};

use crate::window::{Counts, Window};

/// A whole run.
#[derive(Debug)]
pub(crate) struct Tally {
    lag_max: Option<Duration>,
    /// The sum of the windows that say something.
    pub(crate) sound: Window,
    /// The sum of those that do not.
    pub(crate) void: Window,
    /// How many windows there were, and how many of them were void.
    pub(crate) windows: u64,
    pub(crate) voids: u64,
    /// Why the first of them was.
    pub(crate) why: Option<String>,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new(lag_max: Option<Duration>) -> Self {
        let empty = || Window::new(Timestamp::from_ms(i64::MAX), Span::from_secs(1));
        Self { lag_max, sound: empty(), void: empty(), windows: 0, voids: 0, why: None }
    }

    /// Adds one window; says why it is void, if it is.
    pub(crate) fn add(&mut self, window: Window) -> Option<String> {
        self.windows += 1;
        let why = window.void(self.lag_max);
        match &why {
            Some(why) => {
                self.voids += 1;
                self.why.get_or_insert_with(|| why.clone());
                self.void.merge(window);
            }
            None => self.sound.merge(window),
        }
        why
    }

    /// Arrivals of which nothing is known: those in void windows, and those that were not waited for.
    pub(crate) fn unknown(&self) -> u64 {
        self.void.counts.planned + self.sound.counts.unfinished
    }

    /// All arrivals.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.sound.counts;
        counts.merge(self.void.counts);
        counts
    }
}
