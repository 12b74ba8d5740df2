//! The probe agent: looks at services from where their users are.
