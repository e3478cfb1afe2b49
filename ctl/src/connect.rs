//! The connection to the machine, with the time that all may take.

use std::path::Path;
use std::time::{Duration, Instant};

use aerostat_qmp::client::{
    Arguments, Client, ClientError, ConnectError, Deadline, Greeting, Pending,
};
use serde_json::Value;

use crate::failure::Failure;
use crate::output::tell;

/// How long a connection may take where nothing else is said.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// After this time without a place or a greeting it is said why that may be.
const SILENCE: Duration = Duration::from_secs(3);

/// A negotiated connection.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub client: Client,
    /// The time that was given by `--timeout`.
    pub timeout: Option<Duration>,
    /// When that time is up.
    pub deadline: Deadline,
}

/// Connects to the socket and negotiates.
///
/// # Errors
///
/// When nobody listens, what listens does not speak QMP, or does not serve this client in time.
pub fn connect(socket: &Path, timeout: Option<Duration>) -> Result<Session, Failure> {
    let begun = Instant::now();
    let limit = timeout.unwrap_or(CONNECT_LIMIT);
    let deadline = begun + limit;
    let patience = begun + SILENCE.min(limit);
    let mut waiting = Waiting::new(socket);
    let mut greeting = waiting.greeting(patience)?;
    if greeting.is_none() && patience < deadline {
        tell(format_args!(
            "Waiting for {}: another client may be connected; QEMU serves one at a time",
            socket.display()
        ));
        greeting = waiting.greeting(deadline)?;
    }
    let client = match greeting {
        None => None,
        Some((pending, greeting)) => match pending.negotiate(greeting, Some(deadline)) {
            Ok(client) => Some(client),
            Err(ClientError::Timeout(_)) => None,
            Err(error) => return Err(error.into()),
        },
    };
    let client = client.ok_or_else(|| Failure::NotServed {
        socket: socket.to_owned(),
        limit,
        is_asked: timeout.is_some(),
    })?;
    Ok(Session {
        client,
        timeout,
        deadline: timeout.map(|_| deadline),
    })
}

/// A client that the server has not greeted.
struct Waiting<'a> {
    socket: &'a Path,
    /// The connection, once there is a place for it.
    pending: Option<Pending>,
}

impl<'a> Waiting<'a> {
    fn new(socket: &'a Path) -> Self {
        let pending = None;
        Self { socket, pending }
    }

    /// The connection and what the server says first; `None` if it has no place for this client
    /// until the deadline, or does not greet it.
    fn greeting(&mut self, deadline: Instant) -> Result<Option<(Pending, Greeting)>, Failure> {
        let pending = match self.pending.take() {
            Some(pending) => Ok(pending),
            None => Pending::open(self.socket, Some(deadline)),
        };
        let mut pending = match pending {
            Ok(pending) => pending,
            Err(ConnectError::Full(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match pending.greeting(Some(deadline))? {
            Some(greeting) => Ok(Some((pending, greeting))),
            None => {
                self.pending = Some(pending);
                Ok(None)
            }
        }
    }
}

impl Session {
    /// Runs a command and returns its value.
    ///
    /// # Errors
    ///
    /// When the machine refuses, has gone, or does not answer in time.
    pub fn execute(
        &mut self,
        command: &str,
        arguments: Option<Arguments>,
    ) -> Result<Value, ClientError> {
        self.client.execute(command, arguments, self.deadline)
    }

    /// As [`Self::execute`], without arguments; `None` if the machine refuses: it lacks the command,
    /// or the device that the command is about.
    ///
    /// # Errors
    ///
    /// When the machine has gone, or does not answer in time.
    pub fn ask(&mut self, command: &str) -> Result<Option<Value>, ClientError> {
        match self.execute(command, None) {
            Ok(value) => Ok(Some(value)),
            Err(ClientError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
