//! One client's session: negotiation, then commands (QMP specification, "Capabilities
//! Negotiation"). Bytes in, replies out; it knows no socket. Only the commands' clock is not given
//! to it.
//!
//! The caller alternates [`Session::next_message`] and [`Session::execute`], one message at a
//! time, so that what a command sets off can be told before its reply is sent. Commands that take
//! time are answered by [`Session::due`].

use std::time::Instant;

use serde_json::Value;

use crate::backend::{Backend, CommandError};
use crate::command::types::{Arguments, check_arguments};
use crate::command::{self, Context, EXTENSION_PREFIX, Handler, NEGOTIATION_COMMAND, Wait};
use crate::framer::Framer;
use crate::json::{self, JsonError, object};
use crate::message::{Received, Reply, Request};
use crate::resize::Resize;

/// How far the negotiation has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// Only `qmp_capabilities` is a command.
    #[default]
    Negotiation,
    /// All commands; `exec-oob` too if the client asked for it.
    Command { oob: bool },
}

/// A message as the framer found it.
pub type Message = Result<Value, JsonError>;

/// How a message is answered.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// By this, to be sent now.
    Now(Reply),
    /// By one that [`Session::due`] will give.
    Later,
}

/// How many commands of one client may wait to be answered later.
pub const MAX_WAITING: usize = 16;

/// Most bytes of the `id` of a command that is answered later, as it is written: it is kept until then.
pub const MAX_WAITING_ID_BYTES: usize = 4096;

/// A command that is answered later.
#[derive(Debug)]
struct Waiting {
    id: Value,
    wait: Wait,
}

/// The state of one client.
///
/// ```
/// use aerostat_qmp::session::{Answer, Session};
/// let mut session = Session::default();
/// let mut input: &[u8] = b"{'execute': 'qmp_capabilities', 'id': 1}";
/// let message = session.next_message(&mut input).expect("a whole message");
/// # use aerostat_qmp::{Backend, command::Context};
/// # fn executed(session: &mut Session, message: aerostat_qmp::session::Message, context: &mut Context<'_>) {
/// let Answer::Now(reply) = session.execute(message, context) else {
///     return; // Session::due gives the reply when it is time.
/// };
/// let mut out = Vec::new();
/// reply.write(&mut out);
/// assert_eq!(out, b"{\"return\": {}, \"id\": 1}\r\n");
/// assert!(session.is_negotiated());
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Session {
    framer: Framer,
    mode: Mode,
    knows_extensions: bool,
    waiting: Vec<Waiting>,
}

impl Session {
    /// Whether the negotiation is complete. Only then does the client get events.
    pub fn is_negotiated(&self) -> bool {
        self.mode != Mode::Negotiation
    }

    /// How many bytes of memory the message takes that is not complete yet. What waits to be answered
    /// takes few, at most [`MAX_WAITING`] times [`MAX_WAITING_ID_BYTES`].
    pub fn held_bytes(&self) -> usize {
        self.framer.held_bytes()
    }

    /// Takes bytes from the front of `input` up to the end of the next message; `None` if that is
    /// not in there.
    pub fn next_message(&mut self, input: &mut &[u8]) -> Option<Message> {
        self.framer.next_message(input)
    }

    /// Whether the client has shown that it knows what QEMU does not have, by using it.
    pub fn knows_extensions(&self) -> bool {
        self.knows_extensions
    }

    /// Does what a message asks for.
    pub fn execute(&mut self, message: Message, context: &mut Context<'_>) -> Answer {
        let value = match message {
            Ok(value) => value,
            Err(error) => {
                let result = Err(CommandError::Generic(error.to_string()));
                return Answer::Now(Reply { id: None, result });
            }
        };
        let allow_oob = self.mode == Mode::Command { oob: true };
        let Received { id, request } = Received::from_value(value, allow_oob);
        let done = request.and_then(|request| self.dispatch(&request, id.as_ref(), context));
        match done.transpose() {
            Some(result) => Answer::Now(Reply { id, result }),
            None => Answer::Later,
        }
    }

    /// What the command returns; nothing if it is answered later.
    fn dispatch(
        &mut self,
        request: &Request,
        id: Option<&Value>,
        context: &mut Context<'_>,
    ) -> Result<Option<Value>, CommandError> {
        let name = &request.command;
        if self.mode == Mode::Negotiation && name != NEGOTIATION_COMMAND {
            return Err(CommandError::CommandNotFound(format!(
                "Expecting capabilities negotiation with '{NEGOTIATION_COMMAND}'"
            )));
        }
        let Some(command) = command::find(name) else {
            let fault = format!("The command {name} has not been found");
            return Err(CommandError::CommandNotFound(fault));
        };
        if request.out_of_band && !command.allow_oob {
            let fault = format!("The command {name} does not support OOB");
            return Err(CommandError::Generic(fault));
        }
        check_arguments(command.arguments, &request.arguments)?;
        self.knows_extensions |= name.starts_with(EXTENSION_PREFIX);
        match command.handler {
            Handler::Negotiate => self.negotiate(&request.arguments).map(Some),
            Handler::Now(handler) => handler(context, &request.arguments).map(Some),
            Handler::Later(handler) => {
                let id = self.admit(id)?;
                let wait = handler(context, &request.arguments)?;
                self.waiting.push(Waiting { id, wait });
                Ok(None)
            }
        }
    }

    /// The `id` of a command that is answered later, if there may be one more. Its reply is known
    /// by its `id` alone, since replies to later commands overtake it.
    fn admit(&self, id: Option<&Value>) -> Result<Value, CommandError> {
        let id = id.ok_or_else(|| {
            CommandError::generic("A command that is answered later needs an 'id'")
        })?;
        let mut written = Vec::new();
        json::write(id, &mut written);
        if written.len() > MAX_WAITING_ID_BYTES {
            return Err(CommandError::Generic(format!(
                "The 'id' of a command that is answered later may have {MAX_WAITING_ID_BYTES} bytes"
            )));
        }
        if self.waiting.iter().any(|waiting| waiting.id == *id) {
            return Err(CommandError::generic(
                "Another command with this 'id' has not been answered yet",
            ));
        }
        if self.waiting.len() >= MAX_WAITING {
            return Err(CommandError::Generic(format!(
                "{MAX_WAITING} commands of this client have not been answered yet"
            )));
        }
        Ok(id.clone())
    }

    /// Whether commands wait to be answered.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When [`Self::due`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting
            .iter()
            .map(|waiting| waiting.wait.until())
            .min()
    }

    /// The replies whose time has come, oldest command first.
    pub fn due(&mut self, machine: &dyn Backend, resize: &Resize, now: Instant) -> Vec<Reply> {
        let mut replies = Vec::new();
        self.waiting.retain(|waiting| {
            let Some(result) = waiting.wait.result(machine, resize, now) else {
                return true;
            };
            replies.push(Reply {
                id: Some(waiting.id.clone()),
                result,
            });
            false
        });
        replies
    }

    /// Gives up all commands that wait, since the machine ends.
    pub fn give_up(&mut self) -> Vec<Reply> {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let reply = |Waiting { id, .. }| Reply {
            id: Some(id),
            result: Err(CommandError::generic("The machine has ended")),
        };
        waiting.map(reply).collect()
    }

    /// `qmp_capabilities`. The only capability is `oob`, so a list that has passed the check of
    /// its type and is not empty asks for that.
    fn negotiate(&mut self, arguments: &Arguments) -> Result<Value, CommandError> {
        if self.is_negotiated() {
            return Err(CommandError::CommandNotFound(
                "Capabilities negotiation is already complete, command ignored".to_owned(),
            ));
        }
        let enable = arguments.get("enable");
        let oob = matches!(enable, Some(Value::Array(names)) if !names.is_empty());
        self.mode = Mode::Command { oob };
        Ok(object([]))
    }
}

#[cfg(test)]
mod tests;
