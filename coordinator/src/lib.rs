//! The shell around the judge: readers, log, relay, wake-ups, assignments, status, replay.
