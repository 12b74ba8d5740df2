//! A small file that remembers how far each log went, should the log itself forget.
//!
//! NATS can rewind a stream silently (a damaged block loses its tail); the next sequence number
//! would then be reused. What is remembered here is our own ordinal and hash.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bellwether_protocol::id::{Ordinal, Service};
use bellwether_protocol::record::Hash;

/// How far logs went.
#[derive(Debug)]
pub(crate) struct HighWater {
    path: PathBuf,
    marks: BTreeMap<Service, (Ordinal, Hash)>,
}

impl HighWater {
    /// Reads the file of a coordinator's directory; none yet is an empty one.
    pub(crate) fn load(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("high-water.json");
        let marks = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, marks })
    }

    pub(crate) fn marks(&self) -> BTreeMap<Service, (Ordinal, Hash)> {
        self.marks.clone()
    }

    /// Remembers one record. The file is replaced as a whole, so that a crash leaves the old or the new one.
    pub(crate) fn remember(&mut self, service: Service, ordinal: Ordinal, hash: Hash) -> io::Result<()> {
        self.marks.insert(service, (ordinal, hash));
        let next = self.path.with_extension("next");
        std::fs::write(&next, serde_json::to_vec(&self.marks)?)?;
        std::fs::rename(&next, &self.path)
    }
}
