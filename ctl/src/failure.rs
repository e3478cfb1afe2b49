//! Why the program did not do what it was asked for, and with which exit status it says so.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use aerostat_qmp::client::{ClientError, ConnectError};

use crate::request::ArgumentsError;
use crate::resize::Missed;

/// Exit status: the machine answered with an error.
const REFUSED: u8 = 1;
/// Exit status: wrong arguments, or no connection.
pub const UNUSABLE: u8 = 2;
/// Exit status: the guest did not reach its size.
const STALLED: u8 = 3;
/// Exit status: the time was up, as that of `timeout`.
const TIME_UP: u8 = 124;

/// Why the program did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments of a command are wrong.
    #[error(transparent)]
    Arguments(#[from] ArgumentsError),
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server has no place for this client, or says nothing to it.
    #[error("{} did not serve this client within {}: another may be connected; QEMU serves one at a time", socket.display(), humantime::format_duration(*.limit))]
    NotServed {
        /// The socket.
        socket: PathBuf,
        /// How long it was waited for.
        limit: Duration,
        /// Whether that is the time of `--timeout`.
        is_asked: bool,
    },
    /// A command failed, or the connection.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The guest did not reach its size.
    #[error(transparent)]
    Missed(#[from] Missed),
    /// The time was up while events were waited for.
    #[error("The time is up after {0} events")]
    EventsTimeUp(u64),
    /// Commands of the shell failed, or its connection, which was told there and then.
    #[error("Not all commands were done")]
    Told {
        /// The exit status of the worst of it.
        status: u8,
    },
    /// Standard output takes nothing.
    #[error("Cannot write to standard output")]
    Output(#[source] io::Error),
    /// Standard input, or the terminal, gives nothing.
    #[error("Cannot read what is typed")]
    Input(#[source] io::Error),
}

impl Failure {
    /// The exit status.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Client(ClientError::Refused(_)) => REFUSED,
            Self::Client(ClientError::Timeout(_))
            | Self::EventsTimeUp(_)
            | Self::NotServed { is_asked: true, .. } => TIME_UP,
            Self::Missed(missed) if missed.is_time_up() => TIME_UP,
            Self::Missed(_) => STALLED,
            Self::Told { status } => *status,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            _ => UNUSABLE,
        }
    }

    /// Whether nothing is to be said: a reader of standard output has seen enough, or it was told
    /// before.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.exit_status() == 0 || matches!(self, Self::Told { .. })
    }
}

/// An error and its causes, joined by colons.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
