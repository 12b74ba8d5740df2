//! References to secrets. A configuration file never holds a secret, only where to find it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};

/// Where a secret is: `env:NAME` or `file:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// In an environment variable.
    Env(String),
    /// In a file; white space around it does not count.
    File(PathBuf),
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It is there, but holds nothing.
    #[error("the secret {0} is empty")]
    Empty(SecretRef),
    /// The file cannot be read.
    #[error("cannot read the secret {reference}")]
    File {
        /// Which.
        reference: SecretRef,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The variable is not set.
    #[error("the secret {0} is not set: set this environment variable for the agent")]
    NotSet(SecretRef),
    /// The text names no place.
    #[error("a secret is written `env:NAME` or `file:PATH`, never in the file itself")]
    Shape,
}

impl SecretRef {
    /// Fetches the secret.
    ///
    /// # Errors
    /// When it is not there, or empty; names the place, never the secret.
    pub fn resolve(&self) -> Result<SecretString, SecretError> {
        let text = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::NotSet(self.clone()))?,
            Self::File(path) => {
                let wrong = |source| SecretError::File { reference: self.clone(), source };
                read_bounded(path).map_err(wrong)?
            }
        };
        let trimmed = text.trim();
        if trimmed.is_empty() { Err(SecretError::Empty(self.clone())) } else { Ok(trimmed.to_owned().into()) }
    }
}

/// Largest secret, in bytes; a NATS credentials file is about 1 KiB.
const SECRET_LEN_MAX: u64 = 64 * 1024;

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    std::io::Read::read_to_string(&mut std::io::Read::take(file, SECRET_LEN_MAX), &mut text)?;
    Ok(text)
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl FromStr for SecretRef {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            // The text may be the secret itself, so it is not repeated.
            _ => Err(SecretError::Shape),
        }
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn secrets_are_found_or_their_place_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("token");
        let reference: SecretRef = format!("file:{}", path.display()).parse().expect("a reference");
        let error = reference.resolve().expect_err("no file yet").to_string();
        assert!(error.contains("token"), "{error}");
        std::fs::write(&path, "hunter2\n").expect("written");
        assert_eq!(reference.resolve().expect("there").expose_secret(), "hunter2");
        std::fs::write(&path, "\n").expect("written");
        assert!(matches!(reference.resolve(), Err(SecretError::Empty(_))));
        let missing: SecretRef = "env:BELLWETHER_TEST_NOT_SET".parse().expect("a reference");
        assert!(matches!(missing.resolve(), Err(SecretError::NotSet(_))));
    }

    #[test]
    fn a_secret_in_the_file_is_refused_and_not_repeated() {
        for text in ["hunter2", "env:", "file:", "vault:x"] {
            let error = text.parse::<SecretRef>().expect_err("accepted");
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
