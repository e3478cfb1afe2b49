//! A person at the QMP socket: types text, reads lines.

use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use super::machine::Machine;
use super::{Context, Result, scaled};

/// How long a line may take to come.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A connection on which lines are typed and read as they are.
#[derive(Debug)]
pub struct Typist {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Typist {
    /// Connects and reads the greeting.
    ///
    /// # Errors
    ///
    /// When the machine does not open its socket, or says nothing.
    pub fn sit_down(machine: &Machine) -> Result<(Self, String)> {
        // Waits for the socket.
        drop(machine.qmp()?);
        let stream = UnixStream::connect(machine.socket()).context("connect")?;
        let limit = Some(scaled(LIMIT));
        stream.set_read_timeout(limit).context("set a time-out")?;
        let lines = BufReader::new(stream.try_clone().context("clone the socket")?);
        let mut typist = Self { stream, lines };
        let greeting = typist.line()?;
        Ok((typist, greeting))
    }

    /// Types.
    ///
    /// # Errors
    ///
    /// When nobody is there to read.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        let written = self.stream.write_all(text.as_bytes());
        written.context("write to the QMP socket")
    }

    /// Says that nothing more will be typed.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub fn fall_silent(&mut self) -> Result<()> {
        let shut = self.stream.shutdown(Shutdown::Write);
        shut.context("shut down the QMP socket")
    }

    /// The next line with its end; empty when the connection was closed.
    ///
    /// # Errors
    ///
    /// When none comes in time.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line);
        read.context("read from the QMP socket")?;
        Ok(line)
    }

    /// The next line as JSON.
    ///
    /// # Errors
    ///
    /// When none comes in time, or it is no JSON.
    pub fn message(&mut self) -> Result<Value> {
        let line = self.line()?;
        let value = serde_json::from_str(&line);
        value
            .map_err(io::Error::other)
            .context(format!("understand {line:?}"))
    }
}
