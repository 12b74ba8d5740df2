//! Standard output that may be closed early, as `| head` does.

use std::fmt;
use std::io::{self, Write};

/// As the shell reports a program that a closed pipe has ended (128 + SIGPIPE).
const CLOSED: i32 = 141;

/// Writes to standard output. Ends the program when nobody reads it any more.
pub fn print(text: fmt::Arguments<'_>) {
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
