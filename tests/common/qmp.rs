//! A small QMP client: one line a message, answers matched by their id, events kept in a queue.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Context, Error, Result, scaled};

/// Time for the answer to any command; none of them waits for the guest.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Time for a machine to open its socket.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two tries to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Pause between two looks at the balloon: more often would take the CPU from a slow guest.
const POLL_PAUSE: Duration = Duration::from_millis(200);

/// A negotiated connection.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    events: VecDeque<Value>,
    next_id: u64,
}

impl Client {
    /// Connects to the socket at `path`, waiting for it to appear, and negotiates.
    ///
    /// # Errors
    ///
    /// When nothing listens there in time, or what listens does not speak QMP.
    pub fn connect(path: &Path) -> Result<Self> {
        let deadline = Instant::now() + scaled(CONNECT_LIMIT);
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return Self::negotiate(stream),
                Err(_) if Instant::now() < deadline => thread::sleep(CONNECT_PAUSE),
                Err(error) => return Err(error).context(format!("connect to {}", path.display())),
            }
        }
    }

    /// Connects to the socket at `path`, which must be there, and negotiates.
    ///
    /// # Errors
    ///
    /// When nothing listens there, or what listens does not speak QMP.
    pub fn connect_now(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).context(format!("connect to {}", path.display()))?;
        Self::negotiate(stream)
    }

    fn negotiate(stream: UnixStream) -> Result<Self> {
        let mut client = Self {
            stream,
            received: Vec::new(),
            events: VecDeque::new(),
            next_id: 1,
        };
        let greeting = client.message("greeting", Instant::now() + scaled(ANSWER_LIMIT))?;
        if greeting.get("QMP").is_none() {
            return Err(Error::Protocol(greeting.to_string()));
        }
        client.execute("qmp_capabilities")?;
        Ok(client)
    }

    /// Runs a command without arguments and returns its value.
    ///
    /// # Errors
    ///
    /// When the machine answers with an error or not at all.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        self.request(command, json!({ "execute": command }))
    }

    /// Runs a command with arguments and returns its value.
    ///
    /// # Errors
    ///
    /// When the machine answers with an error or not at all.
    pub fn execute_with(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.request(
            command,
            json!({ "execute": command, "arguments": arguments }),
        )
    }

    /// Asks for the guest to have `bytes` of memory left.
    ///
    /// # Errors
    ///
    /// As [`Self::execute`].
    pub fn balloon(&mut self, bytes: u64) -> Result<()> {
        self.execute_with("balloon", &json!({ "value": bytes }))
            .map(drop)
    }

    /// The bytes that the guest has left, as it last said.
    ///
    /// # Errors
    ///
    /// As [`Self::execute`], and when the answer has no such number.
    pub fn balloon_actual(&mut self) -> Result<u64> {
        let answer = self.execute("query-balloon")?;
        answer["actual"]
            .as_u64()
            .ok_or_else(|| Error::Protocol(answer.to_string()))
    }

    /// Waits until the guest has exactly `bytes` left.
    ///
    /// # Errors
    ///
    /// When it does not get there within `limit` (scaled).
    pub fn wait_for_actual(&mut self, bytes: u64, limit: Duration) -> Result<()> {
        let limit = scaled(limit);
        let deadline = Instant::now() + limit;
        loop {
            let actual = self.balloon_actual()?;
            if actual == bytes {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let what = format!("balloon at {bytes} bytes");
                return Err(Error::Timeout {
                    what,
                    limit,
                    last: format!("actual: {actual}"),
                });
            }
            thread::sleep(POLL_PAUSE);
        }
    }

    /// The run state: "running", "paused" and so on.
    ///
    /// # Errors
    ///
    /// As [`Self::execute`], and when the answer has no such text.
    pub fn status(&mut self) -> Result<String> {
        let answer = self.execute("query-status")?;
        answer["status"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| Error::Protocol(answer.to_string()))
    }

    /// Waits for a run state.
    ///
    /// # Errors
    ///
    /// When the machine does not get there within `limit` (scaled).
    pub fn wait_for_status(&mut self, wanted: &str, limit: Duration) -> Result<()> {
        let limit = scaled(limit);
        let deadline = Instant::now() + limit;
        loop {
            let status = self.status()?;
            if status == wanted {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let what = format!("run state {wanted}");
                let last = format!("status: {status}");
                return Err(Error::Timeout { what, limit, last });
            }
            thread::sleep(CONNECT_PAUSE);
        }
    }

    /// The next event of this name, from those that came already or will; events of other names
    /// stay in the queue.
    ///
    /// # Errors
    ///
    /// When none comes within `limit` (scaled).
    pub fn wait_event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let deadline = Instant::now() + scaled(limit);
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name)
                && let Some(event) = self.events.remove(at)
            {
                return Ok(event);
            }
            let message = self.message(&format!("event {name}"), deadline)?;
            self.events.push_back(message);
        }
    }

    /// Names of the events that have come and were not taken yet, oldest first, each with its
    /// reason or action, if it has one, behind a blank.
    pub fn take_event_names(&mut self) -> Vec<String> {
        let name = |event: Value| {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let data = &event["data"];
            let detail = text(&data["reason"]).or_else(|| text(&data["action"]));
            let words = text(&event["event"]).into_iter().chain(detail);
            words.collect::<Vec<_>>().join(" ")
        };
        self.take_events().into_iter().map(name).collect()
    }

    /// Events that have come and were not taken yet, oldest first.
    pub fn take_events(&mut self) -> Vec<Value> {
        self.events.drain(..).collect()
    }

    fn request(&mut self, command: &str, mut request: Value) -> Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        request["id"] = id.into();
        let mut line = request.to_string();
        line.push('\n');
        self.stream
            .write_all(line.as_bytes())
            .context(format!("send QMP command {command}"))?;
        let deadline = Instant::now() + scaled(ANSWER_LIMIT);
        loop {
            let mut message = self.message(&format!("answer to {command}"), deadline)?;
            if message.get("event").is_some() {
                self.events.push_back(message);
            } else if message["id"] == id {
                return answer(command, &mut message);
            }
        }
    }

    /// The next message of any kind.
    fn message(&mut self, what: &str, deadline: Instant) -> Result<Value> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line)
                    .map_err(|_| Error::Protocol(String::from_utf8_lossy(&line).into_owned()));
            }
            self.receive(what, deadline)?;
        }
    }

    fn receive(&mut self, what: &str, deadline: Instant) -> Result<()> {
        let last = String::from_utf8_lossy(&self.received).into_owned();
        let timeout = || Error::Timeout {
            what: what.to_owned(),
            limit: scaled(ANSWER_LIMIT),
            last: last.clone(),
        };
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(timeout());
        }
        self.stream
            .set_read_timeout(Some(remaining))
            .context("set the QMP socket's time-out")?;
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(Error::Closed {
                channel: "QMP socket",
                what: what.to_owned(),
                last,
            }),
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(timeout())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error).context("read from the QMP socket"),
        }
    }
}

fn answer(command: &str, message: &mut Value) -> Result<Value> {
    if let Some(error) = message.get("error") {
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        return Err(Error::Qmp {
            command: command.to_owned(),
            class: text("class"),
            description: text("desc"),
        });
    }
    match message.get_mut("return") {
        Some(value) => Ok(value.take()),
        None => Err(Error::Protocol(message.to_string())),
    }
}
