//! Streams and buckets: what they are set to, created where missing, and read back.
//!
//! Servers silently ignore settings that they do not know, so each asset is read back after it
//! was created and each setting that we rely on is compared.

use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamError, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, PersistenceMode};
use bellwether_protocol::codec::MESSAGE_LEN_MAX;
use bellwether_protocol::subject::{Bucket, Prefix, Stream};

use crate::connect::Bus;
use crate::kv;

/// Why an asset is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// It could not be created, changed or looked at.
    #[error("cannot {doing} stream `{asset}`")]
    Api {
        /// Create, update or read.
        doing: &'static str,
        /// The asset.
        asset: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It exists with another setting, and the server did not take ours.
    #[error(
        "stream `{asset}` has {setting} = {got}, but needs {want}: change it with an administrator's credentials, or use another prefix"
    )]
    Differs {
        /// The asset.
        asset: String,
        /// Which setting.
        setting: &'static str,
        /// What we need.
        want: String,
        /// What it has.
        got: String,
    },
    /// It is not there, and was not to be created.
    #[error("there is no stream `{asset}`")]
    Missing {
        /// The asset.
        asset: String,
    },
}

impl Bus {
    /// Creates every stream and bucket that is missing, brings the others to our settings, and
    /// reads all of them back. Harmless when repeated. One replica each; see [`Bus::provision_replicated`].
    ///
    /// # Errors
    /// When an asset cannot be brought to what we need; names the asset and the setting.
    pub async fn provision(&self) -> Result<(), ProvisionError> {
        self.provision_replicated(1).await
    }

    /// As [`Bus::provision`], with `replicas` copies of each asset (3 or 5 on a cluster).
    ///
    /// # Errors
    /// As [`Bus::provision`].
    pub async fn provision_replicated(&self, replicas: usize) -> Result<(), ProvisionError> {
        let streams = Stream::ALL.into_iter().map(|stream| stream_config(self.prefix(), stream));
        let buckets = Bucket::ALL.into_iter().map(|bucket| bucket_config(self.prefix(), bucket));
        for config in streams.chain(buckets) {
            self.provision_one(Config { num_replicas: replicas, ..config }).await?;
        }
        Ok(())
    }

    /// Reads every stream and bucket back and changes none: how many there must be, and what is wrong with
    /// which.
    pub async fn look_over(&self) -> (usize, Vec<ProvisionError>) {
        let streams = Stream::ALL.into_iter().map(|stream| stream_config(self.prefix(), stream));
        let buckets = Bucket::ALL.into_iter().map(|bucket| bucket_config(self.prefix(), bucket));
        let mut wrong = Vec::new();
        for want in streams.chain(buckets) {
            wrong.extend(self.look_at(want).await.err());
        }
        (Stream::ALL.len() + Bucket::ALL.len(), wrong)
    }

    async fn look_at(&self, want: Config) -> Result<(), ProvisionError> {
        let mut stream = match self.jetstream.get_stream(&want.name).await {
            Ok(stream) => stream,
            Err(error) if is_not_found(&error) => return Err(ProvisionError::Missing { asset: want.name }),
            Err(source) => return Err(api("read", &want, source)),
        };
        let got = &stream.info().await.map_err(|source| api("read", &want, source))?.config;
        match difference(&want, got) {
            None => Ok(()),
            Some((setting, want_value, got)) => {
                Err(ProvisionError::Differs { asset: want.name, setting, want: want_value, got })
            }
        }
    }

    async fn provision_one(&self, want: Config) -> Result<(), ProvisionError> {
        let got = match self.jetstream.get_stream(&want.name).await {
            Ok(mut stream) => {
                let got = stream.info().await.map_err(|source| api("read", &want, source))?.config.clone();
                if difference(&want, &got).is_none() {
                    return Ok(());
                }
                let merged = merge(&want, got);
                self.jetstream.update_stream(merged).await.map_err(|source| api("update", &want, source))?.config
            }
            Err(error) if is_not_found(&error) => {
                let created = self.jetstream.create_stream(want.clone()).await;
                let created: Result<_, CreateStreamError> = created;
                created.map_err(|source| api("create", &want, source))?.cached_info().config.clone()
            }
            Err(source) => return Err(api("read", &want, source)),
        };
        match difference(&want, &got) {
            None => Ok(()),
            Some((setting, want_value, got_value)) => {
                Err(ProvisionError::Differs { asset: want.name, setting, want: want_value, got: got_value })
            }
        }
    }
}

fn is_not_found(error: &async_nats::jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(inner)
        if inner.error_code() == async_nats::jetstream::ErrorCode::STREAM_NOT_FOUND)
}

fn api<E: std::error::Error + Send + Sync + 'static>(doing: &'static str, want: &Config, source: E) -> ProvisionError {
    ProvisionError::Api { doing, asset: want.name.clone(), source: Box::new(source) }
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
const MIB: i64 = 1024 * 1024;

/// How far back ids are remembered where a repeat would do harm. Longer than any retry of ours.
const DUPLICATES: Duration = HOUR;

fn stream_config(prefix: &Prefix, stream: Stream) -> Config {
    let base = Config {
        name: prefix.stream(stream),
        subjects: prefix.captured(stream),
        duplicate_window: DUPLICATES,
        discard: DiscardPolicy::Old,
        max_bytes: -1,
        max_message_size: i32::try_from(MESSAGE_LEN_MAX).unwrap_or(i32::MAX),
        allow_direct: true,
        ..Config::default()
    };
    match stream {
        Stream::Actions => Config { max_age: HOUR, max_bytes: 64 * MIB, ..base },
        Stream::Alerts => Config { max_age: 7 * DAY, max_bytes: 256 * MIB, ..base },
        // The truth is never thrown away to make room: a full log refuses, explicitly.
        Stream::Decisions => {
            Config { max_bytes: 1024 * MIB, discard: DiscardPolicy::New, deny_delete: true, deny_purge: true, ..base }
        }
        // What a person asked is not thrown away to make room either.
        Stream::Inbox => {
            Config { max_age: 30 * DAY, max_bytes: 512 * MIB, discard: DiscardPolicy::New, deny_delete: true, ..base }
        }
        // Agents keep the last minutes themselves and send them again, so speed may come first.
        Stream::Samples => Config {
            max_age: HOUR,
            max_bytes: 1024 * MIB,
            duplicate_window: 2 * MINUTE,
            persist_mode: Some(PersistenceMode::Async),
            allow_direct: false,
            ..base
        },
    }
}

/// As the NATS convention has it, so that any client sees an ordinary bucket.
fn bucket_config(prefix: &Prefix, bucket: Bucket) -> Config {
    let name = prefix.bucket(bucket);
    let (history, max_age) = match bucket {
        Bucket::Assignments | Bucket::Status => (1, Duration::ZERO),
        Bucket::Flags => (16, Duration::ZERO),
        Bucket::Claims => (1, Duration::from_secs(15)),
        Bucket::Invites => (1, 8 * DAY),
        // Who fell silent is told of for a day; who is there is told by the time of the entry.
        Bucket::Presence | Bucket::Told => (1, DAY),
    };
    Config {
        name: kv::stream_name(&name),
        subjects: vec![kv::subject(&name, ">")],
        max_messages_per_subject: history,
        max_age,
        max_bytes: 64 * MIB,
        max_message_size: i32::try_from(MESSAGE_LEN_MAX).unwrap_or(i32::MAX),
        // The server keeps every id of this time in memory, and a presence has a new one every 5 s.
        duplicate_window: if max_age.is_zero() { 2 * MINUTE } else { max_age.min(2 * MINUTE) },
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        ..Config::default()
    }
}

/// Our settings over what the asset has: what we do not care for stays as an administrator set it.
fn merge(want: &Config, got: Config) -> Config {
    let want = want.clone();
    Config {
        subjects: want.subjects,
        max_messages_per_subject: want.max_messages_per_subject,
        max_age: want.max_age,
        max_bytes: want.max_bytes,
        max_message_size: want.max_message_size,
        duplicate_window: want.duplicate_window,
        discard: want.discard,
        allow_rollup: want.allow_rollup,
        allow_direct: want.allow_direct,
        deny_delete: want.deny_delete,
        deny_purge: want.deny_purge,
        // Whoever asked for more copies knows better than an agent that only checks.
        num_replicas: want.num_replicas.max(got.num_replicas),
        ..got
    }
}

/// The first setting that differs: its name, what we want, what the asset has.
fn difference(want: &Config, got: &Config) -> Option<(&'static str, String, String)> {
    // A server tells its default mode as an absent one.
    let is_async = |config: &Config| matches!(config.persist_mode, Some(PersistenceMode::Async));
    let settings = [
        ("subjects", want.subjects.join(","), got.subjects.join(",")),
        ("storage", format!("{:?}", want.storage), format!("{:?}", got.storage)),
        ("retention", format!("{:?}", want.retention), format!("{:?}", got.retention)),
        ("discard", format!("{:?}", want.discard), format!("{:?}", got.discard)),
        ("max_age", format!("{:?}", want.max_age), format!("{:?}", got.max_age)),
        ("max_bytes", want.max_bytes.to_string(), got.max_bytes.to_string()),
        ("max_msg_size", want.max_message_size.to_string(), got.max_message_size.to_string()),
        ("max_msgs_per_subject", per_subject(want), per_subject(got)),
        ("duplicate_window", format!("{:?}", want.duplicate_window), format!("{:?}", got.duplicate_window)),
        ("allow_rollup_hdrs", want.allow_rollup.to_string(), got.allow_rollup.to_string()),
        ("allow_direct", want.allow_direct.to_string(), got.allow_direct.to_string()),
        ("deny_delete", want.deny_delete.to_string(), got.deny_delete.to_string()),
        ("deny_purge", want.deny_purge.to_string(), got.deny_purge.to_string()),
        ("persist_mode async", is_async(want).to_string(), is_async(got).to_string()),
        ("num_replicas", got.num_replicas.max(want.num_replicas).to_string(), got.num_replicas.to_string()),
    ];
    settings.into_iter().find(|(_, want, got)| want != got)
}

/// Without a limit, the server tells -1 for the 0 it was given.
fn per_subject(config: &Config) -> String {
    config.max_messages_per_subject.max(0).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_compared() {
        let want = stream_config(&Prefix::default(), Stream::Decisions);
        assert_eq!(difference(&want, &want.clone()), None);
        let lax = Config { deny_delete: false, ..want.clone() };
        assert_eq!(difference(&want, &lax), Some(("deny_delete", "true".into(), "false".into())));
        assert_eq!(difference(&want, &merge(&want, lax)), None);
    }

    #[test]
    fn the_log_never_forgets_and_its_writes_are_synchronous() {
        let log = stream_config(&Prefix::default(), Stream::Decisions);
        assert!(log.max_age.is_zero() && log.deny_purge && log.discard == DiscardPolicy::New);
        assert!(log.persist_mode.is_none());
    }
}
