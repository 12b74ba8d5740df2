//! The rollback agent: moves a service between releases, and reads back where it is.
