//! The terminal: lines that stay above, a block below that is redrawn, keys without Enter.
//!
//! Without a terminal, or with `--plain`, there is no block and no escape sequence, only lines.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// Columns and rows when the terminal does not say.
const SIZE: (usize, usize) = (80, 24);

/// Where a rollout is shown.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    block: Vec<String>,
}

impl Screen {
    /// Columns and rows.
    pub(crate) fn size() -> (usize, usize) {
        match tcgetwinsize(io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => SIZE,
        }
    }

    /// Prints lines that stay, above the block if there is one.
    pub(crate) fn above(&mut self, lines: &[String]) -> io::Result<()> {
        let block = std::mem::take(&mut self.block);
        let erase = erase(block.len());
        self.write(&erase, lines, block)
    }

    /// Replaces the block.
    pub(crate) fn draw(&mut self, block: Vec<String>) -> io::Result<()> {
        if block == self.block {
            return Ok(());
        }
        let erase = erase(self.block.len());
        self.write(&erase, &[], block)
    }

    // One write, so that no half of a frame is seen.
    fn write(&mut self, erase: &str, lines: &[String], block: Vec<String>) -> io::Result<()> {
        let mut text = erase.to_owned();
        for line in lines.iter().chain(&block) {
            text.push_str(line);
            text.push('\n');
        }
        self.block = block;
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

fn erase(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}A\r\x1b[J") }
}

/// Keys as they are pressed. The terminal is as it was again when this is dropped.
#[derive(Debug)]
pub(crate) struct Keyboard {
    before: Termios,
    done: Arc<AtomicBool>,
    keys: mpsc::Receiver<u8>,
}

/// Keys that wait while a command is being published.
const KEYS_WAITING: usize = 64;
/// How often the reading thread looks whether it is still wanted.
const POLL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

impl Keyboard {
    /// Reads keys from standard input; `None` when that is no terminal.
    pub(crate) fn open() -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        // Ctrl-C stays a signal, and a newline still returns the carriage.
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        let (sender, keys) = mpsc::channel(KEYS_WAITING);
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        // A thread of its own that polls: a blocking read could not be ended, and would hold up exit.
        std::thread::spawn(move || read_keys(&sender, &stop));
        Some(Self { before, done, keys })
    }

    /// The next key. Loses nothing when cancelled.
    pub(crate) async fn next(&mut self) -> u8 {
        match self.keys.recv().await {
            Some(key) => key,
            // Standard input has ended; there will be no more keys.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        // Nothing can be done when this fails: the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn read_keys(sender: &mpsc::Sender<u8>, stop: &AtomicBool) {
    let stdin = io::stdin();
    let mut bytes = [0; KEYS_WAITING];
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut ready, Some(&POLL)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        let Ok(count @ 1..) = rustix::io::read(&stdin, &mut bytes) else { return };
        for key in bytes.iter().take(count) {
            if sender.blocking_send(*key).is_err() {
                return;
            }
        }
    }
}
