//! What can go wrong between a client and its server.

use std::io;
use std::path::PathBuf;

use serde_json::Value;
use thiserror::Error;

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The path names nothing.
    #[error("There is no socket {}: is the machine running, and was it started with this path?", .0.display())]
    Missing(PathBuf),
    /// The path names something else.
    #[error("{} is not a socket: give the path of the machine's QMP socket", .0.display())]
    NoSocket(PathBuf),
    /// The socket is left over from a process that has ended.
    #[error("Nobody listens on {}: its machine has ended", .0.display())]
    NobodyListens(PathBuf),
    /// This user may not connect.
    #[error("No permission to connect to {}: try as the user who started the machine", .0.display())]
    Permission(PathBuf),
    /// The path does not fit in a socket's address.
    #[error("The path {} is too long for a socket: change to its directory and use its name", .0.display())]
    TooLong(PathBuf),
    /// So many clients wait already that not even the connection is made.
    #[error("{} takes no further clients: others wait for it already", .0.display())]
    Full(PathBuf),
    /// Another answer of the system.
    #[error("Cannot connect to {}", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

/// Why a command has no result.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The server's answer is an error.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The time was up. The connection can be used further; a late reply is passed over.
    #[error("No {0} came in time")]
    Timeout(&'static str),
    /// The server has closed the connection.
    #[error("The server closed the connection")]
    Closed,
    /// What came is not QMP.
    #[error("The other side does not speak QMP: it sent {0}")]
    NotQmp(String),
    /// The system's answer to reading or writing.
    #[error("The connection failed")]
    Io(#[from] io::Error),
}

/// A server's error as an answer to a command.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{class}: {desc}")]
pub struct Refusal {
    /// The class: `CommandNotFound`, `DeviceNotActive`, `GenericError` and so on.
    pub class: String,
    /// The text for people.
    pub desc: String,
}

impl Refusal {
    /// Whether the server lacks the command.
    #[must_use]
    pub fn is_unknown_command(&self) -> bool {
        self.class == "CommandNotFound"
    }
}

/// Characters of foreign input that go into an error.
const QUOTED: usize = 60;

impl ClientError {
    /// The error for a message that has no place in QMP.
    pub(super) fn not_qmp(message: &Value) -> Self {
        Self::NotQmp(quote(&message.to_string()))
    }
}

/// The beginning of what came, on one line.
pub(super) fn quote(text: &str) -> String {
    let mut quoted: String = text.chars().take(QUOTED).collect();
    if quoted.len() < text.len() {
        quoted.push('…');
    }
    format!("{quoted:?}")
}
