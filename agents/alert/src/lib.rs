//! The alert agent: tells people, once per incident, durably.
