//! Words for stdout: `println!` for a reader that may leave early, as in `z4 demo | head`.
//!
//! `println!` panics when its pipe is closed. Here a closed pipe is no error: who left has what they wanted, and the
//! run still ends in good order, its server stopped and its folder removed.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _};

/// Prints a line as `println!` does.
macro_rules! say {
    () => { $crate::say::line(format_args!("")) };
    ($($words:tt)*) => { $crate::say::line(format_args!($($words)*)) };
}
pub(crate) use say;

/// Prints `words` and a line break. What cannot be printed for any reason but a closed pipe is reported on stderr.
pub(crate) fn line(words: Arguments<'_>) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{words}")
        && error.kind() != ErrorKind::BrokenPipe
    {
        let _ = writeln!(std::io::stderr(), "stdout cannot be written: {error}");
    }
}
