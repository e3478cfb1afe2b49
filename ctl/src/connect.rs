//! The connection to the machine, with the time that all may take.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use aerostat_qmp::client::{Arguments, Client, ClientError, Deadline, Pending};
use serde_json::Value;

use crate::failure::Failure;

/// How long a connection may take where nothing else is said.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// After this time without a greeting it is said why that may be.
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
/// When nobody listens, what listens does not speak QMP, or says nothing in time.
pub fn connect(socket: &Path, timeout: Option<Duration>) -> Result<Session, Failure> {
    let begun = Instant::now();
    let limit = timeout.unwrap_or(CONNECT_LIMIT);
    let deadline = Some(begun + limit);
    let mut pending = Pending::open(socket, deadline)?;
    let mut greeting = pending.greeting(Some(begun + SILENCE.min(limit)))?;
    if greeting.is_none() && limit > SILENCE {
        eprintln!(
            "aerostat-ctl: Waiting for {} to greet: another client may be connected; \
             QEMU serves one at a time",
            socket.display()
        );
        greeting = pending.greeting(deadline)?;
    }
    let greeting = greeting.ok_or_else(|| Failure::Silent {
        socket: socket.to_owned(),
        limit,
    })?;
    Ok(Session {
        client: pending.negotiate(greeting, deadline)?,
        timeout,
        deadline: timeout.map(|timeout| begun + timeout),
    })
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

/// Prints a line at once.
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
