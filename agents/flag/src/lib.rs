//! The flag agent: the built-in flag store, served over OFREP.
