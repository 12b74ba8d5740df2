//! What every agent shares.
