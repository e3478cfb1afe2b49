//! Why the process ends with an error, in words and as an exit status.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use aerostat_vmm::{BuildError, StateError};

use crate::console::target::TargetError;
use crate::sockets::SocketError;

/// The machine failed while it ran.
const FAILED: u8 = 1;
/// Arguments, or files that they name, are unusable.
pub const UNUSABLE: u8 = 2;
/// The time was up; as `timeout(1)` has it.
const TIMED_OUT: u8 = 124;

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The log file cannot be written.
    #[error("Cannot write to log file {}", path.display())]
    LogFile {
        /// As the user gave it.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A file cannot take the console's output.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// QMP cannot be served.
    #[error(transparent)]
    Qmp(#[from] SocketError),
    /// The machine cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The machine cannot be started.
    #[error("Cannot start the machine")]
    Start(#[from] StateError),
    /// The terminal refuses raw mode.
    #[error("Cannot set the terminal to raw mode")]
    Terminal(#[source] io::Error),
    /// A thread, signal or file descriptor could not be had.
    #[error("Cannot set up {what}")]
    Resource {
        /// What was needed.
        what: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The machine failed while it ran.
    #[error("{0}")]
    Machine(String),
    /// The guest panicked.
    #[error("The guest panicked{}", printed_last(.last))]
    Panicked {
        /// The last lines of its console.
        last: String,
    },
    /// The machine did not end in time.
    #[error(
        "The machine did not end within {}{}",
        humantime::format_duration(*.limit), printed_last(.last)
    )]
    TimedOut {
        /// What it was given.
        limit: Duration,
        /// The last lines of its console.
        last: String,
    },
    /// The machine ended before its console showed what it was to show.
    #[error("The machine ended before its console showed {text:?}{}", printed_last(.last))]
    NotShown {
        /// What was waited for.
        text: String,
        /// The last lines of its console.
        last: String,
    },
}

impl Failure {
    /// The exit status of the process.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::LogFile { .. }
            | Self::Target(_)
            | Self::Qmp(_)
            | Self::Build(_)
            | Self::Start(_)
            | Self::Terminal(_)
            | Self::Resource { .. } => UNUSABLE,
            Self::Machine(_) | Self::Panicked { .. } | Self::NotShown { .. } => FAILED,
            Self::TimedOut { .. } => TIMED_OUT,
        }
    }
}

/// What the guest printed last, to follow a message. Each line is marked as the guest's: programs
/// that read a log may take some lines for commands.
fn printed_last(lines: &str) -> String {
    if lines.is_empty() {
        return "; it printed nothing".to_owned();
    }
    let mut text = "; it printed last:".to_owned();
    for line in lines.lines() {
        let _ = write!(text, "\n  | {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_follow_the_message_each_with_a_mark() {
        let failure = Failure::TimedOut {
            limit: Duration::from_secs(90),
            last: "one\n::error::two".to_owned(),
        };
        assert_eq!(
            failure.to_string(),
            "The machine did not end within 1m 30s; it printed last:\n  | one\n  | ::error::two"
        );
        assert_eq!(failure.exit_status(), 124);
    }

    #[test]
    fn guest_that_printed_nothing_is_said_to() {
        let failure = Failure::NotShown {
            text: "ok\n".to_owned(),
            last: String::new(),
        };
        assert_eq!(
            failure.to_string(),
            "The machine ended before its console showed \"ok\\n\"; it printed nothing"
        );
        assert_eq!(failure.exit_status(), 1);
    }
}
