//! What the program says: results on standard output, everything else on standard error.

use std::fmt::Display;
use std::io::{self, Write};

use crate::failure::Failure;

/// Prints a line of the result at once.
///
/// # Errors
///
/// When standard output takes nothing.
pub fn print(line: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .map_err(Failure::Output)
}

/// Says something beside the result. That nobody reads it does not matter.
pub fn tell(message: impl Display) {
    let _ = writeln!(io::stderr(), "aerostat-ctl: {message}");
}
