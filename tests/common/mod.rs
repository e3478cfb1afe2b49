//! Starts a machine and talks to it as its user does: console, QMP socket, process.
//!
//! The integration tests and the developer commands (`cargo xtask demo`) share these files, so
//! that the demo shows what the tests check. Nothing here panics: tests call `expect`.

#![allow(
    dead_code,
    reason = "each test binary uses its own part of what is shared"
)]

pub mod console;
pub mod host;
pub mod huge_pages;
pub mod machine;
pub mod qmp;
pub mod setup;
pub mod tiny;
pub mod typist;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

/// Environment variable with the factor by which every time-out grows, for slow machines.
pub const TIME_FACTOR: &str = "AEROSTAT_TIME_FACTOR";

/// Result of a step with a machine.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong with a machine under test.
#[derive(thiserror::Error)]
pub enum Error {
    /// The files that make a Linux guest are not there, or would not run here.
    #[error("Linux guests cannot run: {0}; run `cargo xtask test`, which provides what is missing")]
    NoLinux(String),
    /// Python with the clients that speak QMP is not there.
    #[error(
        "QMP clients cannot run: there is no {}; \
         run `cargo xtask test qmp_clients`, which provides what is missing",
        .0.display()
    )]
    NoClients(PathBuf),
    /// A system call or a file failed.
    #[error("Cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Something did not happen in time.
    #[error("No {what} within {:.0} s; what came instead ends with:\n{last}", limit.as_secs_f64())]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        limit: Duration,
        /// The end of what came instead.
        last: String,
    },
    /// The process ended, or closed the channel, before what was waited for.
    #[error("The machine closed its {channel} before {what}; it ends with:\n{last}")]
    Closed {
        /// Console or QMP socket.
        channel: &'static str,
        /// What was waited for.
        what: String,
        /// The end of what came.
        last: String,
    },
    /// A command in the guest failed.
    #[error("`{command}` failed in the guest with status {status}:\n{output}")]
    GuestCommand {
        /// The command line.
        command: String,
        /// Its exit status, as the shell printed it.
        status: String,
        /// What it printed.
        output: String,
    },
    /// A QMP command was answered with an error.
    #[error("QMP command {command}: {class}: {description}")]
    Qmp {
        /// The command.
        command: String,
        /// The error's class.
        class: String,
        /// The error's text.
        description: String,
    },
    /// What came over the QMP socket is no QMP.
    #[error("The QMP socket sent what is no QMP: {0}")]
    Protocol(String),
    /// The process ended in another way than expected.
    #[error("The machine's process ended with {status}, not 0; it said:\n{stderr}")]
    Exit {
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to its standard error.
        stderr: String,
    },
    /// A file that should hold a number does not.
    #[error("There is no {field} in {}", path.display())]
    Field {
        /// The field's name.
        field: String,
        /// The file.
        path: PathBuf,
    },
}

/// As for people, with all causes: `expect` prints this form, and a console log with escaped line
/// ends cannot be read.
impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(formatter, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// Adds to an I/O error what was tried.
pub trait Context<T> {
    /// Names `action`, a verb with its object.
    fn context(self, action: impl Into<String>) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::System {
            action: action.into(),
            source,
        })
    }
}

/// A time-out for a machine as fast as hardware, made longer where the environment says that this
/// one is not.
pub fn scaled(limit: Duration) -> Duration {
    let factor = std::env::var(TIME_FACTOR)
        .ok()
        .and_then(|text| text.parse::<u32>().ok());
    limit * factor.unwrap_or(1).max(1)
}

/// The last `count` lines of `text`.
fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Whether something becomes true within `limit` (scaled).
pub fn wait_until(limit: Duration, mut is_true: impl FnMut() -> bool) -> bool {
    /// More often would take the CPU from a slow guest.
    const PAUSE: Duration = Duration::from_millis(200);
    let deadline = Instant::now() + scaled(limit);
    while !is_true() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(PAUSE);
    }
    true
}
