//! The words that every room of Bellwether uses, and how they are written down.
//!
//! This crate never does I/O, never reads a clock, and knows no async runtime. Decoding never
//! panics, whatever the bytes. MessagePack (named fields) carries samples, heartbeats and
//! assignments; JSON carries whatever a person reads or writes.
//!
//! | module | words |
//! |---|---|
//! | [`id`] | newtyped ids and the tokens of subjects |
//! | [`time`] | instants and spans, in milliseconds |
//! | [`ratio`] | ratios in parts per billion, so that decisions compare integers |
//! | [`subject`] | every subject, stream and bucket name; the only place with subject literals |
//! | [`plan`] | the operator's file, typed |
//! | [`assignment`], [`sample`], [`presence`] | what agents are told to watch, what they saw, that they are there |
//! | [`command`], [`action`], [`alert`] | what people ask, what agents are told to do, what people are told |
//! | [`record`], [`reason`] | one decision, and why |
//! | [`status`] | the projection that `rollout status` and `watch` read |
//! | [`assessment`] | what a few looks say of what runs now |
//! | [`backtest`] | what a plan would have decided |
//! | [`dry_run`] | what a start would do |
//! | [`explanation`] | what a rollout came to, and why |
//! | [`report`] | all of that for people to read, and the evidence behind each number |
//! | [`power`] | what a plan's looks can show |
//! | [`cdevent`] | what a rollout has come to, in the words of others |
//! | [`cloud_event`] | what says beside a message what it is, to those outside |
//! | `asyncapi` | all of it as one document |
//! | [`codec`] | bytes to values, bounded |

pub mod action;
pub mod alert;
pub mod assessment;
pub mod assignment;
pub mod asyncapi;
pub mod backtest;
pub mod cdevent;
pub mod cloud_event;
pub mod codec;
pub mod command;
pub mod dry_run;
pub mod explanation;
pub mod id;
pub mod plan;
pub mod power;
pub mod presence;
pub mod pushed;
pub mod ratio;
pub mod reason;
pub mod record;
pub mod report;
pub mod sample;
pub mod status;
pub mod subject;
pub mod time;
