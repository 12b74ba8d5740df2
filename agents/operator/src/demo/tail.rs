//! Shows what the console bridge of one alert agent writes, between the lines of its own log.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

/// How often to look for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Most bytes read at one look; the rest comes at the next.
const READ_MAX: u64 = 64 * 1024;

/// Follows the log at `path` for ever.
pub(super) async fn follow_console(path: PathBuf, tell: mpsc::Sender<String>) {
    let mut at = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        // The file may not be there yet; the next look finds it.
        let Ok(text) = read_from(&path, at) else { continue };
        let Some(end) = text.rfind('\n') else { continue };
        let whole = text.get(..=end).unwrap_or_default();
        at += whole.len() as u64;
        for line in whole.lines().filter(|line| is_alert(line)) {
            let (clock, rest) = line.split_once(' ').unwrap_or((line, ""));
            if tell.send(format!("{clock} console: {rest}")).await.is_err() {
                return;
            }
        }
    }
}

/// `HH:MM:SSZ [severity] ...`, as the console bridge writes it; log lines begin with a date.
fn is_alert(line: &str) -> bool {
    line.get(8..).is_some_and(|rest| rest.starts_with("Z ["))
}

fn read_from(path: &Path, at: u64) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut text = String::new();
    file.take(READ_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_the_bridge_are_shown() {
        assert!(is_alert("13:51:10Z [page] shop/2-error_rate opened: it failed"));
        for line in ["2026-05-05T13:51:10Z  INFO agent started", "          see why: x", "", "é"] {
            assert!(!is_alert(line), "`{line}`");
        }
    }
}
