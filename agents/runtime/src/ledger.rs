//! One lever's actions.
