//! Small JSON files that are either as they were or as they are to be, whatever happens in between.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest file that is read back, in bytes.
const FILE_LEN_MAX: u64 = 4 * 1024 * 1024;

/// Replaces `path`: written beside it, synced, renamed, and the directory synced.
///
/// # Errors
/// When it cannot be written; then it is as it was.
pub fn save<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let beside = path.with_extension("partial");
    let mut file = File::create(&beside)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads what [`save`] wrote; `None` when it was never written.
///
/// # Errors
/// When it cannot be read, or is not a `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(file, FILE_LEN_MAX), &mut bytes)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_loaded() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("one.json");
        assert_eq!(load::<u64>(&path)?, None);
        save(&path, &7_u64)?;
        save(&path, &8_u64)?;
        assert_eq!(load::<u64>(&path)?, Some(8));
        std::fs::write(&path, "{")?;
        assert!(load::<u64>(&path).is_err());
        Ok(())
    }
}
