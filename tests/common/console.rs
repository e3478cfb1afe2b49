//! The guest's console: what it printed, and a shell behind it.
//!
//! A thread of its own collects the output, so that the guest never waits for its reader.

use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Context, Error, Result, last_lines, scaled};

/// Lines of the console that go into an error.
const ERROR_LINES: usize = 15;
/// Time for a command in the guest's shell that does next to nothing.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    output: Mutex<Output>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both directions of a guest's console.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    input: Option<ChildStdin>,
    /// Where the next search starts: after what the last one found.
    cursor: usize,
    commands: u32,
}

impl Console {
    /// Takes over the standard streams of a machine.
    pub fn new(input: ChildStdin, mut output: ChildStdout) -> Self {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error ends the output as its end does: the process is gone.
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                writer.lock().bytes.extend_from_slice(&buffer[..count]);
                writer.changed.notify_all();
            }
            writer.lock().closed = true;
            writer.changed.notify_all();
        });
        Self {
            shared,
            input: Some(input),
            cursor: 0,
            commands: 0,
        }
    }

    /// Waits until all that the machine printed is read, whose process has ended; for at most
    /// `limit`.
    pub fn wait_closed(&self, limit: Duration) {
        let is_open = |output: &mut Output| !output.closed;
        // Beyond the limit what is there counts.
        drop(
            self.shared
                .changed
                .wait_timeout_while(self.shared.lock(), limit, is_open),
        );
    }

    /// All that the guest has printed so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().bytes).into_owned()
    }

    /// Waits until the guest prints `text` after what was last waited for, and returns what came
    /// before it.
    ///
    /// # Errors
    ///
    /// When it does not come within `limit` (scaled), or the console is closed.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let limit = scaled(limit);
        let deadline = Instant::now() + limit;
        let mut output = self.shared.lock();
        loop {
            if let Some(at) = find(&output.bytes[self.cursor..], text.as_bytes()) {
                let found = &output.bytes[self.cursor..self.cursor + at];
                let before = String::from_utf8_lossy(found).into_owned();
                self.cursor += at + text.len();
                return Ok(before);
            }
            let what = format!("`{text}` on the console");
            let last = || last_lines(&String::from_utf8_lossy(&output.bytes), ERROR_LINES);
            if output.closed {
                return Err(Error::Closed {
                    channel: "console",
                    what,
                    last: last(),
                });
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(Error::Timeout {
                    what,
                    limit,
                    last: last(),
                });
            }
            output = self
                .shared
                .changed
                .wait_timeout(output, remaining)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Types `text` as it is.
    ///
    /// # Errors
    ///
    /// When the machine no longer takes input.
    pub fn send(&mut self, text: &str) -> Result<()> {
        let input = self.input.as_mut().ok_or_else(|| Error::Closed {
            channel: "console",
            what: format!("`{text}` was typed"),
            last: String::new(),
        })?;
        input
            .write_all(text.as_bytes())
            .and_then(|()| input.flush())
            .context("type on the console")
    }

    /// Closes the input, as a terminal that goes away.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Runs a command in the guest's shell and returns what it printed.
    ///
    /// # Errors
    ///
    /// When it ends with another status than 0, or not in time.
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.run_for(command, COMMAND_LIMIT)
    }

    /// As [`Self::run`], for a command that takes its time.
    ///
    /// # Errors
    ///
    /// When it ends with another status than 0, or not within `limit` (scaled).
    pub fn run_for(&mut self, command: &str, limit: Duration) -> Result<String> {
        self.commands += 1;
        let number = self.commands;
        // The quotes keep the marks apart from their echo: only the shell joins them.
        self.send(&format!(
            "echo '<<''{number}>'; {{ {command}; }} 2>&1; echo '>>''{number}:'$?'.'\n"
        ))?;
        self.wait_for(&format!("<<{number}>"), limit)?;
        let output = self.wait_for(&format!(">>{number}:"), limit)?;
        let status = self.wait_for(".", limit)?;
        let output = output.replace('\r', "").trim_matches('\n').to_owned();
        if status == "0" {
            return Ok(output);
        }
        Err(Error::GuestCommand {
            command: command.to_owned(),
            status,
            output,
        })
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
