//! The operator's verbs: start, watch, command, demo, up.
