//! Where lines come from. Nothing here grows without bound: not a line, and not what one reading takes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};

use crate::found::Missing;
use crate::hear::Ear;

/// Longest line that patterns see, in bytes; the rest of it is dropped.
const LINE_LEN_MAX: usize = 16 * 1024;
/// How much one reading takes, in bytes; the rest waits for the next.
const TAKE_LEN_MAX: usize = 4 * 1024 * 1024;

/// Lines as they come.
#[derive(Debug)]
pub(crate) struct Lines {
    from: From,
    cutter: Cutter,
}

#[derive(Debug)]
enum From {
    Command { argv: Vec<String>, running: Option<(Child, ChildStdout)> },
    File(Tail),
    Subject(Box<Ear>),
}

impl Lines {
    /// What is appended to a file from now on, over its rotation.
    pub(crate) fn file(path: &Path) -> Self {
        Self::new(From::File(Tail { path: path.to_owned(), open: None, is_first: true }))
    }

    /// What a command writes to its standard output. It is started again when it ends.
    pub(crate) fn command(argv: &[String]) -> Self {
        Self::new(From::Command { argv: argv.to_vec(), running: None })
    }

    /// What is said on a subject; a message may hold several lines.
    pub(crate) fn subject(ear: Ear) -> Self {
        Self::new(From::Subject(Box::new(ear)))
    }

    fn new(from: From) -> Self {
        Self { from, cutter: Cutter::default() }
    }

    /// Hands over every line that is there; never waits for one.
    pub(crate) async fn take(&mut self, mut each: impl FnMut(&str)) -> Result<(), Missing> {
        let Self { from, cutter } = self;
        match from {
            From::File(tail) => tail.take(|bytes| cutter.cut(bytes, &mut each)),
            From::Subject(ear) => {
                for body in ear.take().await? {
                    cutter.cut(&body, &mut each);
                    cutter.end(&mut each);
                }
                Ok(())
            }
            From::Command { argv, running } => {
                let ended = match running {
                    Some((_, stdout)) => drain(stdout, |bytes| cutter.cut(bytes, &mut each)).await,
                    None => false,
                };
                if ended {
                    cutter.end(&mut each);
                    *running = None;
                    return Err(Missing("the command ended; it is started again".to_owned()));
                }
                if running.is_none() {
                    *running = Some(start(argv)?);
                }
                Ok(())
            }
        }
    }
}

fn start(argv: &[String]) -> Result<(Child, ChildStdout), Missing> {
    let (program, args) = argv.split_first().ok_or_else(|| Missing("the command is empty".to_owned()))?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| Missing(format!("`{program}` did not start: {error}")))?;
    let stdout = child.stdout.take().ok_or_else(|| Missing(format!("`{program}` has no output")))?;
    Ok((child, stdout))
}

/// Reads what is there; tells whether the writer has ended.
async fn drain(from: &mut ChildStdout, mut each: impl FnMut(&[u8])) -> bool {
    let mut buffer = vec![0; 64 * 1024];
    let mut taken = 0;
    while taken < TAKE_LEN_MAX {
        // Ready or not: what is not there yet is left for the next reading.
        let read = tokio::time::timeout(std::time::Duration::from_millis(1), from.read(&mut buffer)).await;
        match read {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(len)) => {
                each(buffer.get(..len).unwrap_or_default());
                taken += len;
            }
            Err(_) => return false,
        }
    }
    false
}

/// The end of a file that may be rotated: renamed and created anew, or copied and truncated.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    open: Option<Open>,
    is_first: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Device and inode: which file it is, whatever its name.
    id: (u64, u64),
    at: u64,
}

impl Tail {
    fn take(&mut self, mut each: impl FnMut(&[u8])) -> Result<(), Missing> {
        // What was there when the look began is not news; a file that comes later is, from its beginning.
        let was_first = std::mem::take(&mut self.is_first);
        let missing = |error: io::Error| Missing(format!("{}: {error}", self.path.display()));
        let named = std::fs::metadata(&self.path);
        let named =
            named.and_then(|named| if named.is_file() { Ok(named) } else { Err(io::ErrorKind::InvalidInput.into()) });
        let id = named.as_ref().ok().map(|named| (named.dev(), named.ino()));
        let mut left = TAKE_LEN_MAX;
        if let Some(open) = &mut self.open {
            // Even when the name leads elsewhere by now: what was written before the rename comes first.
            left -= open.read(left, &mut each).map_err(missing)?;
            if id == Some(open.id) || left == 0 {
                return Ok(());
            }
        }
        named.map_err(missing)?;
        each(b"\n");
        let open = self.open.insert(Open::new(&self.path, was_first).map_err(missing)?);
        open.read(left, &mut each).map_err(missing)?;
        Ok(())
    }
}

impl Open {
    fn new(path: &Path, from_end: bool) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let of = file.metadata()?;
        let at = if from_end { file.seek(SeekFrom::End(0))? } else { 0 };
        Ok(Self { file, id: (of.dev(), of.ino()), at })
    }

    fn read(&mut self, len_max: usize, each: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        if self.file.metadata()?.len() < self.at {
            self.at = self.file.seek(SeekFrom::Start(0))?;
            each(b"\n");
        }
        let mut buffer = vec![0; 64 * 1024];
        let mut taken = 0;
        while taken < len_max {
            let room = buffer.len().min(len_max - taken);
            let len = self.file.read(buffer.get_mut(..room).unwrap_or_default())?;
            if len == 0 {
                break;
            }
            each(buffer.get(..len).unwrap_or_default());
            taken += len;
            self.at = self.at.saturating_add(u64::try_from(len).unwrap_or(0));
        }
        Ok(taken)
    }
}

/// Cuts bytes into lines.
#[derive(Debug, Default)]
struct Cutter {
    partial: Vec<u8>,
}

impl Cutter {
    fn cut(&mut self, bytes: &[u8], each: &mut impl FnMut(&str)) {
        let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let room = LINE_LEN_MAX.saturating_sub(self.partial.len());
            self.partial.extend(part.iter().take(room));
            if parts.peek().is_some() {
                self.end(each);
            }
        }
    }

    /// What is left is a line, unless it is empty.
    fn end(&mut self, each: &mut impl FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        if !line.trim().is_empty() {
            each(line.trim_end_matches('\r'));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    async fn taken(lines: &mut Lines) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        lines.take(|line| all.push(line.to_owned())).await.map_err(|missing| missing.0)?;
        Ok(all)
    }

    fn append(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn a_file_is_followed_over_both_kinds_of_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.log");
        let mut lines = Lines::file(&path);
        assert!(taken(&mut lines).await.is_err(), "it is not there yet");
        append(&path, "old\n");
        assert_eq!(taken(&mut lines).await, Ok(vec!["old".into()]));
        let mut lines = Lines::file(&path);
        assert_eq!(taken(&mut lines).await, Ok(vec![]), "what was there before is not news");
        append(&path, "one\ntwo\r\n\nhal");
        assert_eq!(taken(&mut lines).await, Ok(vec!["one".into(), "two".into()]));
        append(&path, "f\n");
        assert_eq!(taken(&mut lines).await, Ok(vec!["half".into()]));

        // Renamed and created anew: what was written before the rename is read first, and ends there.
        append(&path, "last");
        fs::rename(&path, dir.path().join("app.log.1")).unwrap();
        append(&path, "first\n");
        assert_eq!(taken(&mut lines).await, Ok(vec!["last".into(), "first".into()]));
        append(&path, "next\nlost");
        assert_eq!(taken(&mut lines).await, Ok(vec!["next".into()]));

        // Copied and truncated: what had no end yet is a line.
        fs::copy(&path, dir.path().join("app.log.2")).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        append(&path, "new\n");
        assert_eq!(taken(&mut lines).await, Ok(vec!["lost".into(), "new".into()]));

        // Between the rename and the new file there is no file; what comes then is read whole.
        append(&path, "end\n");
        fs::rename(&path, dir.path().join("app.log.3")).unwrap();
        assert!(taken(&mut lines).await.is_err());
        append(&path, "begin\n");
        assert_eq!(taken(&mut lines).await, Ok(vec!["begin".into()]));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(taken(&mut lines).await.is_err(), "a directory is no log");
    }

    #[tokio::test]
    async fn long_lines_are_cut_and_long_files_are_read_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.log");
        append(&path, "");
        let mut lines = Lines::file(&path);
        assert_eq!(taken(&mut lines).await, Ok(vec![]));
        append(&path, &format!("{}\nshort\n", "x".repeat(3 * LINE_LEN_MAX)));
        let lens: Vec<usize> = taken(&mut lines).await.unwrap().iter().map(String::len).collect();
        assert_eq!(lens, [LINE_LEN_MAX, 5]);
        append(&path, &"0123456789\n".repeat(TAKE_LEN_MAX / 10));
        let mut counts = Vec::new();
        while counts.last() != Some(&0) {
            counts.push(taken(&mut lines).await.unwrap().len());
        }
        assert_eq!((counts.len(), counts.iter().sum::<usize>()), (3, TAKE_LEN_MAX / 10));
    }

    #[tokio::test]
    async fn a_command_is_read_and_started_again() {
        let argv = ["sh", "-c", "echo one; echo two; printf three"].map(str::to_owned);
        let mut lines = Lines::command(&argv);
        let mut all = Vec::new();
        let mut ends = 0;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while ends < 2 && tokio::time::Instant::now() < deadline {
            ends += usize::from(lines.take(|line| all.push(line.to_owned())).await.is_err());
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(all, ["one", "two", "three", "one", "two", "three"]);
        let mut gone = Lines::command(&["bellwether-no-such-program".to_owned()]);
        assert!(taken(&mut gone).await.unwrap_err().contains("did not start"));
    }
}
