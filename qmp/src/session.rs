//! One client's session: negotiation, then commands (QMP specification, "Capabilities
//! Negotiation"). Bytes in, replies out; pure, so it knows no socket.
//!
//! The caller alternates [`Session::next_message`] and [`Session::execute`], one message at a
//! time, so that what a command sets off can be told before its reply is sent.

use serde_json::Value;

use crate::backend::{Backend, CommandError};
use crate::command::types::{Arguments, check_arguments};
use crate::command::{self, Handler, NEGOTIATION_COMMAND};
use crate::framer::Framer;
use crate::json::{JsonError, object};
use crate::message::{Received, Reply, Request};

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

/// What follows from a message.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// To be sent to the client.
    pub reply: Reply,
    /// The command was `quit`: nothing more is to be read from anyone.
    pub quit: bool,
}

/// The state of one client.
///
/// ```
/// use aerostat_qmp::session::Session;
/// # use aerostat_qmp::{Backend, CommandError, CpuInfo, KvmInfo, RunState};
/// # struct Machine;
/// # impl Backend for Machine {
/// #     fn name(&self) -> Option<String> { None }
/// #     fn kvm(&self) -> KvmInfo { KvmInfo { enabled: true, present: true } }
/// #     fn cpus(&self) -> Vec<CpuInfo> { Vec::new() }
/// #     fn status(&self) -> RunState { RunState::Running }
/// #     fn stop(&mut self) -> Result<(), CommandError> { Ok(()) }
/// #     fn cont(&mut self) -> Result<(), CommandError> { Ok(()) }
/// #     fn reset(&mut self) -> Result<(), CommandError> { Ok(()) }
/// #     fn power_down(&mut self) {}
/// #     fn quit(&mut self) {}
/// #     fn set_balloon(&mut self, _: u64) -> Result<(), CommandError> { Ok(()) }
/// #     fn balloon_actual(&self) -> Result<u64, CommandError> { Ok(0) }
/// # }
/// let mut session = Session::default();
/// let mut input: &[u8] = b"{'execute': 'qmp_capabilities', 'id': 1}";
/// let message = session.next_message(&mut input).expect("a whole message");
/// let mut out = Vec::new();
/// session.execute(message, &mut Machine).reply.write(&mut out);
/// assert_eq!(out, b"{\"return\": {}, \"id\": 1}\r\n");
/// assert!(session.is_negotiated());
/// ```
#[derive(Debug, Default)]
pub struct Session {
    framer: Framer,
    mode: Mode,
}

impl Session {
    /// Whether the negotiation is complete. Only then does the client get events.
    pub fn is_negotiated(&self) -> bool {
        self.mode != Mode::Negotiation
    }

    /// How many bytes of memory the message takes that is not complete yet.
    pub fn held_bytes(&self) -> usize {
        self.framer.held_bytes()
    }

    /// Takes bytes from the front of `input` up to the end of the next message; `None` if that is
    /// not in there.
    pub fn next_message(&mut self, input: &mut &[u8]) -> Option<Message> {
        self.framer.next_message(input)
    }

    /// Does what a message asks for.
    pub fn execute(&mut self, message: Message, machine: &mut dyn Backend) -> Outcome {
        let value = match message {
            Ok(value) => value,
            Err(error) => {
                let result = Err(CommandError::Generic(error.to_string()));
                return Outcome {
                    reply: Reply { id: None, result },
                    quit: false,
                };
            }
        };
        let allow_oob = self.mode == Mode::Command { oob: true };
        let Received { id, request } = Received::from_value(value, allow_oob);
        let mut quit = false;
        let result = request.and_then(|request| self.dispatch(&request, machine, &mut quit));
        Outcome {
            reply: Reply { id, result },
            quit,
        }
    }

    fn dispatch(
        &mut self,
        request: &Request,
        machine: &mut dyn Backend,
        quit: &mut bool,
    ) -> Result<Value, CommandError> {
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
        match command.handler {
            Handler::Negotiate => self.negotiate(&request.arguments),
            Handler::Machine(handler) => handler(machine, &request.arguments),
            Handler::Quit(handler) => {
                handler(machine);
                *quit = true;
                Ok(object([]))
            }
        }
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
