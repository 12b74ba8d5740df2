//! A small file that remembers how far each log went, should the log itself forget.
//!
//! NATS can rewind a stream silently (a damaged block loses its tail); the next sequence number
//! would then be reused. What is remembered here is our own ordinal and hash.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bellwether_protocol::id::{Ordinal, Service};
use bellwether_protocol::record::Hash;

/// How far logs went.
#[derive(Debug)]
pub(crate) struct HighWater {
    path: PathBuf,
    marks: BTreeMap<Service, (Ordinal, Hash)>,
    /// Whether the logs have been read: until then a mark is only noted.
    is_kept: bool,
}

impl HighWater {
    /// Reads the file of a coordinator's directory; none yet is an empty one. So is one that is torn, for it says
    /// nothing of any log: that is warned of, and the file is kept beside.
    pub(crate) fn load(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join("high-water.json");
        let marks = match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(marks) => marks,
                Err(error) => {
                    let beside = path.with_extension("torn");
                    std::fs::rename(&path, &beside)?;
                    tracing::warn!(file = %beside.display(), %error, "could not read how far the logs went: what they lost is not seen");
                    BTreeMap::new()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, marks, is_kept: false })
    }

    pub(crate) fn marks(&self) -> BTreeMap<Service, (Ordinal, Hash)> {
        self.marks.clone()
    }

    /// Keeps the marks from now on: all logs have been read, which would else be written record by record.
    pub(crate) fn keep(&mut self) -> io::Result<()> {
        self.is_kept = true;
        self.save()
    }

    /// Remembers one record. A mark never goes back: a log that is read anew passes each record again, and one that
    /// has lost its end must be told apart from a whole one at the next start too.
    pub(crate) fn remember(&mut self, service: Service, ordinal: Ordinal, hash: Hash) -> io::Result<()> {
        if self.marks.get(&service).is_some_and(|(known, _)| *known >= ordinal) {
            return Ok(());
        }
        self.marks.insert(service, (ordinal, hash));
        if self.is_kept { self.save() } else { Ok(()) }
    }

    /// Replaces the file as a whole, synced, so that a crash or a loss of power leaves the old or the new one.
    fn save(&self) -> io::Result<()> {
        let next = self.path.with_extension("next");
        let mut file = File::create(&next)?;
        file.write_all(&serde_json::to_vec(&self.marks)?)?;
        file.sync_all()?;
        std::fs::rename(&next, &self.path)?;
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(dir: &Path) -> io::Result<BTreeMap<Service, (Ordinal, Hash)>> {
        HighWater::load(dir).map(|found| found.marks())
    }

    #[test]
    fn a_mark_never_goes_back_and_a_torn_file_is_none() -> Result<(), Box<dyn std::error::Error>> {
        let dir = std::env::temp_dir().join(format!("bellwether-high-water-{}", std::process::id()));
        // What a failed run with the same number left behind must not fail this one too.
        let _ = std::fs::remove_dir_all(&dir);
        let (service, hash): (Service, Hash) = ("shop".parse()?, Hash::of(b"one"));
        let mut high_water = HighWater::load(&dir)?;
        high_water.keep()?;
        high_water.remember(service.clone(), Ordinal(7), hash)?;
        // The log lost its end, and is read anew.
        let mut again = HighWater::load(&dir)?;
        again.remember(service.clone(), Ordinal(5), Hash::default())?;
        again.keep()?;
        assert_eq!(marks(&dir)?, BTreeMap::from([(service, (Ordinal(7), hash))]));
        for torn in ["", "{\"shop\""] {
            std::fs::write(&again.path, torn)?;
            assert_eq!(marks(&dir)?, BTreeMap::new(), "{torn:?}");
        }
        std::fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
