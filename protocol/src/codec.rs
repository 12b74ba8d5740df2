//! Bytes to values. Bounded before it parses, and never a panic.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest message that is decoded at all, in bytes. NATS itself stops at 1 MiB.
pub const MESSAGE_LEN_MAX: usize = 1024 * 1024;

/// Deepest nesting that is decoded. The library's own limit, 1,024, is more than a thread's stack holds.
const DEPTH_MAX: usize = 64;

/// Why bytes are not a value.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not the JSON that was expected.
    #[error("not a valid {what} in JSON")]
    Json {
        /// What was expected.
        what: &'static str,
        /// Where it went wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Not the MessagePack that was expected.
    #[error("not a valid {what} in MessagePack")]
    MessagePack {
        /// What was expected.
        what: &'static str,
        /// Where it went wrong.
        #[source]
        source: rmp_serde::decode::Error,
    },
    /// Longer than [`MESSAGE_LEN_MAX`].
    #[error("{what} of {len} bytes is over the limit of {MESSAGE_LEN_MAX}")]
    TooLong {
        /// What was expected.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
}

/// Why a value could not be written. Only a broken `Serialize` does this.
#[derive(Debug, thiserror::Error)]
#[error("could not encode a {what}")]
pub struct EncodeError {
    /// What was to be written.
    pub what: &'static str,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Reads a person's format.
///
/// # Errors
/// When `bytes` is too long or not a `T`.
pub fn from_json<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    check_len(what, bytes)?;
    serde_json::from_slice(bytes).map_err(|source| DecodeError::Json { what, source })
}

/// Writes a person's format.
///
/// # Errors
/// When `value` cannot be written.
pub fn to_json<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, EncodeError> {
    serde_json::to_vec(value).map_err(|source| EncodeError { what, source: source.into() })
}

/// Reads the agents' format.
///
/// # Errors
/// When `bytes` is too long or not a `T`.
pub fn from_msgpack<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    check_len(what, bytes)?;
    let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
    reader.set_max_depth(DEPTH_MAX);
    T::deserialize(&mut reader).map_err(|source| DecodeError::MessagePack { what, source })
}

/// Writes the agents' format: MessagePack with named fields, so that fields may be added.
///
/// # Errors
/// When `value` cannot be written.
pub fn to_msgpack<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, EncodeError> {
    rmp_serde::to_vec_named(value).map_err(|source| EncodeError { what, source: source.into() })
}

fn check_len(what: &'static str, bytes: &[u8]) -> Result<(), DecodeError> {
    let len = bytes.len();
    if len > MESSAGE_LEN_MAX { Err(DecodeError::TooLong { what, len }) } else { Ok(()) }
}
