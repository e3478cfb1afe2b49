//! What can go wrong in a developer command, in the words its user reads.
//!
//! The chain of causes is printed once, in `main`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Result of a developer command's step.
pub type Result<T> = std::result::Result<T, Error>;

/// A step that failed: what, with which value, and where it helps, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("Cannot {action} {}", path.display())]
    File {
        /// What was tried, as a verb: "read", "create".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A program could not be started.
    #[error("Cannot start `{command}`")]
    Start {
        /// The command line.
        command: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("`{command}` failed ({status}){}", detail(output))]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed, where that was captured.
        output: String,
    },
    /// A system call failed.
    #[error("Cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A JSON text has another form than expected.
    #[error("{what} is not the expected JSON")]
    Json {
        /// Whose output it is.
        what: &'static str,
        /// The parser's answer.
        #[source]
        source: serde_json::Error,
    },
    /// The kernel image cannot be used.
    #[error("Kernel image {}: {reason}", path.display())]
    Kernel {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Packages are missing and cannot be installed by this user.
    #[error("Missing packages; install them as root and try again:\n\n    {command}\n")]
    Packages {
        /// The command to run.
        command: String,
    },
    /// The outer machine of the nested set-up failed.
    #[error("Outer machine: {reason}\n--- last lines of its console ---\n{console}")]
    Outer {
        /// What went wrong.
        reason: String,
        /// The end of its console output.
        console: String,
    },
    /// The virtual machine under demonstration or test failed.
    #[error(transparent)]
    Machine(#[from] crate::harness::Error),
    /// A check of the command itself did not hold.
    #[error("{0}")]
    Check(String),
}

fn detail(output: &str) -> String {
    if output.trim().is_empty() {
        String::new()
    } else {
        format!(":\n{}", output.trim_end())
    }
}

/// Adds the file's name and the action to an I/O error.
pub trait FileContext<T> {
    /// Names `action` (a verb) and `path` in the error.
    fn file(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> FileContext<T> for io::Result<T> {
    fn file(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::File {
            action,
            path: path.to_owned(),
            source,
        })
    }
}
