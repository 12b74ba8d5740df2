//! Standard output that may be closed early, as `| head` does.

use std::fmt;
use std::io::{self, Write};

/// As the shell reports a program that a closed pipe has ended (128 + SIGPIPE).
const CLOSED: i32 = 141;

/// Writes to standard output. Ends the program when nobody reads it any more.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    if let Err(error) = out.write_fmt(text).and_then(|()| out.flush())
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        std::process::exit(CLOSED);
    }
}

/// One line to standard output; unlike `println!` it does not panic on a closed pipe.
macro_rules! outln {
    ($($text:tt)*) => {
        $crate::out::print(format_args!("{}\n", format_args!($($text)*)))
    };
}
pub(crate) use outln;

/// Print a completion script
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// For which shell
    shell: clap_complete::Shell,
}

/// Prints the completion script of the whole command line for a shell.
pub fn completions(CompletionsArgs { shell }: CompletionsArgs, command: &mut clap::Command) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(shell, command, "bellwether", &mut script);
    print(format_args!("{}", String::from_utf8_lossy(&script)));
    crate::error::exit::DONE
}

/// Write man pages
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The folder to write them into
    dir: std::path::PathBuf,
}

/// Writes a man page for each verb.
///
/// # Errors
/// When one cannot be written.
pub fn man(ManArgs { dir }: &ManArgs, command: clap::Command) -> Result<u8, crate::error::VerbError> {
    crate::up::make_dir(dir)?;
    let written = clap_mangen::generate_to(command.disable_help_subcommand(true), dir);
    written.map_err(|source| crate::error::VerbError::File { doing: "write", path: dir.clone(), source })?;
    outln!("wrote {0}: man {0}/bellwether.1", dir.display());
    Ok(crate::error::exit::DONE)
}
