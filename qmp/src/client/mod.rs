//! The client's side of QMP: a blocking connection to the Unix socket of any server that speaks
//! the protocol, QEMU's included.
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::{Duration, Instant};
//!
//! use aerostat_qmp::client::Client;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let deadline = Some(Instant::now() + Duration::from_secs(10));
//! let mut client = Client::connect(Path::new("/tmp/vm.sock"), deadline)?;
//! let status = client.execute("query-status", None, deadline)?;
//! println!("{}", status["status"]);
//! while let Some(event) = client.next_event(deadline)? {
//!     println!("{}: {}", event.name, event.data());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Requests get an `id`, by which their replies are known in whatever order they come; events that
//! come meanwhile wait in a queue. Everything that waits takes a [`Deadline`]. What comes is read by
//! the [`Framer`](crate::framer::Framer), so that numbers keep all their digits. A server that
//! serves one client at a time (QEMU) lets others connect and says nothing to them until the first
//! has gone: [`Pending::greeting`] can be asked again.

mod connection;
mod error;
mod message;

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Map, Value};

pub use connection::Deadline;
pub use error::{ClientError, ConnectError, Refusal};
pub use message::{Event, Greeting, Incoming, Reply};

use connection::MessageReader;

/// Arguments of a command.
pub type Arguments = Map<String, Value>;

/// A connection whose server has not spoken yet.
#[derive(Debug)]
pub struct Pending {
    stream: UnixStream,
    reader: MessageReader,
}

impl Pending {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    ///
    /// When nobody listens there, this user may not connect, or no place in the server's queue is
    /// free before the deadline.
    pub fn open(path: &Path, deadline: Deadline) -> Result<Self, ConnectError> {
        let stream = connection::open(path, deadline)?;
        let reading = stream.try_clone();
        let reading = reading.map_err(|source| ConnectError::System {
            path: path.to_owned(),
            source,
        })?;
        let reader = MessageReader::new(reading);
        Ok(Self { stream, reader })
    }

    /// What the server says first; `None` if it says nothing until the deadline.
    ///
    /// # Errors
    ///
    /// When the server closes the connection, or says something else.
    pub fn greeting(&mut self, deadline: Deadline) -> Result<Option<Greeting>, ClientError> {
        let message = self.reader.next(deadline)?;
        message.as_ref().map(Greeting::from_value).transpose()
    }

    /// Leaves the negotiation mode, without any capability.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer until the deadline.
    pub fn negotiate(self, greeting: Greeting, deadline: Deadline) -> Result<Client, ClientError> {
        let mut client = Client {
            sender: Sender {
                stream: self.stream,
                next_id: 1,
            },
            receiver: Receiver {
                reader: self.reader,
                kept: VecDeque::new(),
            },
            greeting,
            events: VecDeque::new(),
            replies: Vec::new(),
            given_up: Vec::new(),
        };
        client.execute("qmp_capabilities", None, deadline)?;
        Ok(client)
    }
}

/// A negotiated connection.
#[derive(Debug)]
pub struct Client {
    sender: Sender,
    receiver: Receiver,
    greeting: Greeting,
    /// Events that have come and were not taken, oldest first.
    events: VecDeque<Event>,
    /// Replies that have come and were not taken.
    replies: Vec<Reply>,
    /// Ids whose replies did not come in time and are passed over when they do.
    given_up: Vec<Value>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// There is one, but not to a server of QMP that takes another client.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Client {
    /// Connects to the socket at `path` and negotiates.
    ///
    /// # Errors
    ///
    /// As [`Pending::open`], [`Pending::greeting`] and [`Pending::negotiate`].
    pub fn connect(path: &Path, deadline: Deadline) -> Result<Self, OpenError> {
        let mut pending = Pending::open(path, deadline)?;
        let greeting = pending.greeting(deadline)?;
        let greeting = greeting.ok_or(ClientError::Timeout("greeting"))?;
        Ok(pending.negotiate(greeting, deadline)?)
    }

    /// What the server said first.
    #[must_use]
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// Runs a command and returns its value.
    ///
    /// # Errors
    ///
    /// When the server refuses, does not answer until the deadline, or has gone.
    pub fn execute(
        &mut self,
        command: &str,
        arguments: Option<Arguments>,
        deadline: Deadline,
    ) -> Result<Value, ClientError> {
        let id = self.send(command, arguments, deadline)?;
        loop {
            if let Some(reply) = self.take_reply(&id) {
                return Ok(reply.result?);
            }
            if !self.receive(deadline)? {
                self.given_up.push(id);
                return Err(ClientError::Timeout("reply"));
            }
        }
    }

    /// Sends a command without waiting for its reply. Returns its id, for [`Self::take_reply`].
    ///
    /// # Errors
    ///
    /// When the server has gone, or takes no bytes until the deadline.
    pub fn send(
        &mut self,
        command: &str,
        arguments: Option<Arguments>,
        deadline: Deadline,
    ) -> Result<Value, ClientError> {
        self.sender.send(command, arguments, deadline)
    }

    /// Sends a whole request as it is, with an id of its own unless it has one. Returns the id.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub fn send_request(
        &mut self,
        request: Arguments,
        deadline: Deadline,
    ) -> Result<Value, ClientError> {
        self.sender.send_request(request, deadline)
    }

    /// Waits for one message, which goes to the events or the replies; `false` if none comes until
    /// the deadline.
    ///
    /// # Errors
    ///
    /// When the server has gone, or sent what is not QMP.
    pub fn receive(&mut self, deadline: Deadline) -> Result<bool, ClientError> {
        match self.receiver.next(deadline) {
            Ok(Some(Incoming::Event(event))) => self.events.push_back(event),
            Ok(Some(Incoming::Reply(reply))) => self.keep(reply),
            Ok(None) => return Ok(false),
            Err(ClientError::Closed) => return Err(self.reason_of_end()),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// What the server said before it closed the connection, if it said why.
    fn reason_of_end(&mut self) -> ClientError {
        let is_reason = |reply: &Reply| reply.id.is_none() && reply.result.is_err();
        let at = self.replies.iter().position(is_reason);
        let reason = at.and_then(|at| self.replies.swap_remove(at).result.err());
        reason.map_or(ClientError::Closed, ClientError::Refused)
    }

    fn keep(&mut self, reply: Reply) {
        let is_its_own = |id: &Value| reply.id.as_ref() == Some(id);
        match self.given_up.iter().position(is_its_own) {
            Some(at) => drop(self.given_up.swap_remove(at)),
            None => self.replies.push(reply),
        }
    }

    /// The reply to the request with this id, if it has come. An error without an id counts as the
    /// reply to whatever is asked for first.
    pub fn take_reply(&mut self, id: &Value) -> Option<Reply> {
        let at = self.replies.iter().position(|reply| reply.answers(id))?;
        Some(self.replies.swap_remove(at))
    }

    /// The oldest event that has come and was not taken.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next event, from those that have come or will; `None` if none comes until the deadline.
    ///
    /// # Errors
    ///
    /// As [`Self::receive`].
    pub fn next_event(&mut self, deadline: Deadline) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(event) = self.take_event() {
                return Ok(Some(event));
            }
            if !self.receive(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Both directions apart, for two threads. What was not taken comes first from the receiver.
    #[must_use]
    pub fn into_halves(mut self) -> (Sender, Receiver) {
        let replies = self.replies.into_iter().map(Incoming::Reply);
        let events = self.events.into_iter().map(Incoming::Event);
        self.receiver.kept = replies.chain(events).collect();
        (self.sender, self.receiver)
    }
}

/// The direction to the server.
#[derive(Debug)]
pub struct Sender {
    stream: UnixStream,
    next_id: u64,
}

impl Sender {
    /// Sends a command. Returns its id.
    ///
    /// # Errors
    ///
    /// When the server has gone, or takes no bytes until the deadline.
    pub fn send(
        &mut self,
        command: &str,
        arguments: Option<Arguments>,
        deadline: Deadline,
    ) -> Result<Value, ClientError> {
        let id = self.new_id();
        let line = message::request(command, arguments, id.clone());
        connection::write(&mut self.stream, &line, deadline)?;
        Ok(id)
    }

    /// Sends a whole request as it is, with an id of its own unless it has one. Returns the id.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub fn send_request(
        &mut self,
        mut request: Arguments,
        deadline: Deadline,
    ) -> Result<Value, ClientError> {
        let id = request.get("id").cloned();
        let id = id.unwrap_or_else(|| self.new_id());
        request.insert("id".to_owned(), id.clone());
        let line = message::line(&request.into());
        connection::write(&mut self.stream, &line, deadline)?;
        Ok(id)
    }

    fn new_id(&mut self) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        id.into()
    }
}

/// The direction from the server.
#[derive(Debug)]
pub struct Receiver {
    reader: MessageReader,
    /// What came before the directions were parted.
    kept: VecDeque<Incoming>,
}

impl Receiver {
    /// The next reply or event; `None` if none comes until the deadline.
    ///
    /// # Errors
    ///
    /// When the server has gone, or sent what is not QMP.
    pub fn next(&mut self, deadline: Deadline) -> Result<Option<Incoming>, ClientError> {
        if let Some(message) = self.kept.pop_front() {
            return Ok(Some(message));
        }
        let message = self.reader.next(deadline)?;
        message.map(Incoming::from_value).transpose()
    }
}

#[cfg(test)]
mod tests;
