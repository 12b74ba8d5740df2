//! The judge: pure, without clock, network, randomness or log.
