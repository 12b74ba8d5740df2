//! One YAML file per agent. Unknown keys are errors, and errors name file, line and column.

use std::path::{Path, PathBuf};

use bellwether_protocol::id::{AgentName, Region};
use bellwether_protocol::subject::Prefix;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, de};

use crate::secret::SecretRef;

/// The `agent:` key of every agent's file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Where it is.
    pub region: Region,
    /// Its name, unique within its region and role.
    pub name: AgentName,
    /// How it reaches NATS.
    pub nats: NatsConfig,
    /// Where it keeps its ledger and its spool. Must outlive the process.
    pub state_dir: PathBuf,
    /// The first token of every subject. Default `bw`.
    #[serde(default, deserialize_with = "prefix")]
    pub prefix: Prefix,
}

/// How an agent reaches NATS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsConfig {
    /// Where, such as `nats://127.0.0.1:4222`; several, separated by commas.
    pub url: String,
    /// The JetStream domain that holds Bellwether's streams, where the server keeps one; behind a leaf node, the hub's.
    #[serde(default)]
    pub domain: Option<String>,
    /// Who we are: a `.creds` file, or a secret that holds an nkey seed (`SU…`), `user:password`, or a token.
    #[serde(default)]
    pub credentials: Option<SecretRef>,
    /// `file:PATH` of the authorities, in PEM, of which one has signed the server's certificate; with it the connection
    /// is over TLS or not at all. Default: those of this machine, where the server asks for TLS.
    #[serde(default, deserialize_with = "file_reference")]
    pub ca: Option<PathBuf>,
}

/// Why a file is not a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is over [`FILE_LEN_MAX`].
    #[error("{path} is over {FILE_LEN_MAX} bytes")]
    TooLong {
        /// Which.
        path: String,
    },
    /// It is not what is expected.
    #[error("{place}: {message}")]
    Yaml {
        /// File, line and column.
        place: String,
        /// What is wrong.
        message: String,
    },
}

/// Largest file, in bytes. An agent's own is a few KiB.
pub const FILE_LEN_MAX: u64 = 1024 * 1024;

/// Reads an agent's file.
///
/// # Errors
/// When it cannot be read, or is not a `T`; names file, line and column.
pub fn load_config<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    parse_config(&path.display().to_string(), &read_text(path)?)
}

/// Reads a file that a person wrote.
///
/// # Errors
/// When it cannot be read, is no text, or is over [`FILE_LEN_MAX`].
pub fn read_text(path: &Path) -> Result<String, ConfigError> {
    let shown = path.display().to_string();
    let io = |source| ConfigError::Io { path: shown.clone(), source };
    if std::fs::metadata(path).map_err(io)?.len() > FILE_LEN_MAX {
        return Err(ConfigError::TooLong { path: shown });
    }
    std::fs::read_to_string(path).map_err(io)
}

/// Reads the text of an agent's file; `path` is only for errors.
///
/// # Errors
/// When it is not a `T`; names file, line and column.
pub fn parse_config<T: DeserializeOwned>(path: &str, text: &str) -> Result<T, ConfigError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_aliases: 64,
            max_anchors: 64,
            max_depth: 32,
            max_documents: 1,
            max_nodes: 20_000,
            max_events: 60_000,
            max_total_scalar_bytes: 1024 * 1024,
        },
        strict_booleans: true,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let place = match error.location() {
            Some(at) if at.line() > 0 => format!("{path}:{}:{}", at.line(), at.column()),
            _ => path.to_owned(),
        };
        // Some messages end with the place, which is said already.
        let message = error.to_string();
        let message = message.split_once(" at line ").map_or(message.as_str(), |(message, _)| message).to_owned();
        ConfigError::Yaml { place, message }
    })
}

fn prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
}

/// A file that is written `file:PATH`, as secrets are.
///
/// # Errors
/// When it is written otherwise.
pub fn file_reference<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let path = text.strip_prefix("file:").filter(|path| !path.is_empty());
    path.map(|path| Some(path.into())).ok_or_else(|| de::Error::custom("a file is written `file:PATH`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        agent: AgentConfig,
    }

    const GOOD: &str = "agent:\n  region: sjc\n  name: probe-1\n  state_dir: /var/lib/bw\n  nats:\n    url: nats://127.0.0.1:4222\n    credentials: env:NATS\n";

    #[test]
    fn a_good_file_is_read() {
        let file: File = parse_config("probe.yaml", GOOD).expect("read");
        assert_eq!(file.agent.region.as_str(), "sjc");
        assert_eq!(file.agent.prefix, Prefix::default());
        assert_eq!(file.agent.nats.credentials, Some(SecretRef::Env("NATS".into())));
    }

    #[test]
    fn errors_name_the_place() {
        let check = |text: &str, place: &str, word: &str| {
            let error = parse_config::<File>("probe.yaml", text).expect_err("accepted").to_string();
            assert!(error.starts_with(place) && error.contains(word) && !error.contains(" at line "), "{error}");
        };
        check(&GOOD.replace("name: probe-1", "name: probe.1"), "probe.yaml:3:9: ", "probe.1");
        check(&format!("{GOOD}  color: red\n"), "probe.yaml:8:3: ", "color");
        check(&format!("{GOOD}---\nagent: 1\n"), "probe.yaml", "document");
        check("agent: [", "probe.yaml:", "");
    }
}
