//! The configuration file: reading it, within bounds, and saying where it is wrong.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Command;

use super::entries::{Entry, entries};

/// The largest file that is read. A kernel command line of 2 KiB and a few paths need 1% of it;
/// what is larger was named by mistake.
const MAX_BYTES: u64 = 1 << 20;

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct FileError {
    path: PathBuf,
    #[source]
    problem: Problem,
}

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be opened or read.
    #[error("Cannot read the configuration")]
    Unreadable(#[source] io::Error),
    /// It is larger than [`MAX_BYTES`].
    #[error("more than 1 MiB is no configuration")]
    TooLarge,
    /// It is no UTF-8.
    #[error("not a text in UTF-8 (line {line})")]
    NotText {
        /// Where the first wrong byte is.
        line: usize,
    },
    /// It is no TOML.
    #[error("{message} (line {line}, column {column})")]
    Syntax {
        /// What the parser says.
        message: String,
        /// Where, counted from 1.
        line: usize,
        /// Where, in characters counted from 1.
        column: usize,
    },
    /// No option has this name.
    #[error(
        "unknown key {key:?}{} (line {line})",
        nearest.as_ref().map_or(
            ": the keys are the long options of aerostat --help".to_owned(),
            |nearest| format!(": did you mean {nearest:?}?")
        )
    )]
    UnknownKey {
        /// As it stands in the file.
        key: String,
        /// The key that may have been meant.
        nearest: Option<String>,
        /// Where.
        line: usize,
    },
    /// A value of a type that the option cannot have.
    #[error("{key}: {found} cannot stand here: write {needed} (line {line})")]
    WrongType {
        /// The option.
        key: String,
        /// What stands there.
        found: &'static str,
        /// What can.
        needed: &'static str,
        /// Where.
        line: usize,
    },
    /// A value that the option refuses.
    #[error("{key}: {value:?}: {reason} (line {line})")]
    WrongValue {
        /// The option.
        key: String,
        /// The value, as the command line would carry it.
        value: String,
        /// What the option says.
        reason: String,
        /// Where.
        line: usize,
    },
}

/// What the file at `path` says, as arguments for `command`. Relative paths in it count from its
/// directory, or from the working directory when it is no regular file but, say, a pipe.
///
/// # Errors
/// When it cannot be read, or something in it cannot be used; the first such thing in the file.
pub fn read(path: &Path, command: &mut Command) -> Result<Vec<Entry>, FileError> {
    let file_error = |problem| FileError {
        path: path.to_owned(),
        problem,
    };
    let (bytes, is_regular) =
        read_bounded(path).map_err(|error| file_error(Problem::Unreadable(error)))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(file_error(Problem::TooLarge));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let (line, _) = position(&bytes, error.valid_up_to());
        file_error(Problem::NotText { line })
    })?;
    let directory = path.parent().filter(|_| is_regular);
    entries(text, directory.unwrap_or(Path::new("")), command).map_err(file_error)
}

/// The content, up to one byte past the limit, and whether the file is a regular one.
fn read_bounded(path: &Path) -> io::Result<(Vec<u8>, bool)> {
    let file = File::open(path)?;
    let is_regular = file.metadata()?.is_file();
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes, is_regular))
}

/// Line and column of the byte at `offset`, counted from 1; columns in characters.
pub fn position(text: &[u8], offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line = before.split(|byte| *byte == b'\n');
    let last = line.clone().next_back().unwrap_or_default();
    let column = String::from_utf8_lossy(last).chars().count() + 1;
    (line.count(), column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_from_1_and_in_characters() {
        let text = "ab\nµ = 1\n".as_bytes();
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 2), (1, 3));
        assert_eq!(position(text, 3), (2, 1));
        assert_eq!(position(text, 5), (2, 2));
        assert_eq!(position(text, text.len()), (3, 1));
        assert_eq!(position(text, usize::MAX), (3, 1));
        assert_eq!(position(b"", 0), (1, 1));
    }
}
