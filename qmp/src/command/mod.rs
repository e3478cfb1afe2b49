//! The commands: one table from which dispatch, `query-commands` and `query-qmp-schema` come.
//!
//! An entry says as data what the command takes and returns; the handler sees only arguments that
//! have passed the checks of [`types`].

mod balloon;
mod chardev;
mod introspection;
mod machine;
mod qom;
mod run_state;
mod statistics;
mod table;
pub mod types;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::backend::{Backend, CommandError};
use crate::json::object;
use crate::monitor::Monitor;
use crate::resize::{Resize, Wish};
use crate::steering::Steering;
pub(crate) use machine::MEMORY_POLICY;
pub use statistics::Question;
pub use table::COMMANDS;
use types::{Arguments, Member, Type};

/// The name of the command that ends the negotiation.
pub const NEGOTIATION_COMMAND: &str = "qmp_capabilities";

/// What the names of commands begin with that QEMU does not have.
pub const EXTENSION_PREFIX: &str = "x-";

/// What a command does, by how it is answered.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    /// `qmp_capabilities`, which changes the session it came in by.
    Negotiate,
    /// Answered at once.
    Now(fn(&mut Context<'_>, &Arguments) -> Result<Value, CommandError>),
    /// Answered when what it waits for has come or never will; an error at once.
    Later(fn(&mut Context<'_>, &Arguments) -> Result<Wait, CommandError>),
}

/// What a command that is answered later waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// That the guest follows the balloon's target.
    Balloon(Wish),
    /// That the guest tells of its memory.
    Statistics(Question),
}

impl Wait {
    /// When the waiting ends at the latest.
    pub fn until(&self) -> Instant {
        match self {
            Self::Balloon(wish) => wish.until,
            Self::Statistics(question) => question.until,
        }
    }

    /// What the command returns, if the waiting has ended.
    pub fn result(
        &self,
        machine: &dyn Backend,
        resize: &Resize,
        now: Instant,
    ) -> Option<Result<Value, CommandError>> {
        match self {
            Self::Balloon(wish) => {
                let outcome = wish.outcome(resize, now)?;
                Some(Ok(balloon::wait_return(outcome, resize)))
            }
            Self::Statistics(question) => question.result(machine, now),
        }
    }
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// The name, matched exactly.
    pub name: &'static str,
    /// The arguments, in the order in which they are checked.
    pub arguments: &'static [Member],
    /// The type of the return.
    pub returns: Type,
    /// Whether `exec-oob` may run it.
    pub allow_oob: bool,
    /// What it does.
    pub handler: Handler,
}

/// What a command acts on.
#[expect(missing_debug_implementations, reason = "a Backend need not be Debug")]
pub struct Context<'a> {
    /// The machine.
    pub machine: &'a mut dyn Backend,
    /// The sockets of the server.
    pub monitors: &'a [Monitor],
    /// What the guest is asked for, and how it follows.
    pub steering: &'a mut Steering,
    /// The CPU that a line for people is about.
    pub monitor_cpu: usize,
    /// What the server has to do after the command.
    pub effects: Effects,
}

impl<'a> Context<'a> {
    /// A context in which nothing has happened yet.
    pub fn new(
        machine: &'a mut dyn Backend,
        monitors: &'a [Monitor],
        steering: &'a mut Steering,
    ) -> Self {
        Self {
            machine,
            monitors,
            steering,
            monitor_cpu: 0,
            effects: Effects::default(),
        }
    }
}

/// What the server has to do after a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Serve no further request of anyone.
    pub quit: bool,
    /// Cut off the clients of these monitors, by their index.
    pub yanked: BTreeSet<usize>,
}

/// The command of this name.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

/// The moment that `timeout-ms` stands for.
fn time_out(arguments: &Arguments) -> Result<Instant, CommandError> {
    let timeout = arguments.get("timeout-ms").and_then(Value::as_u64);
    let timeout = Duration::from_millis(timeout.unwrap_or_default());
    let until = Instant::now().checked_add(timeout);
    until.ok_or_else(|| CommandError::generic("Parameter 'timeout-ms' is too big"))
}

/// The return of a command that has nothing to tell.
fn nothing() -> Value {
    object([])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        for command in COMMANDS {
            assert!(std::ptr::eq(find(command.name).unwrap(), command));
        }
    }
}
