//! The commands: one table from which dispatch and `query-commands` come.
//!
//! An entry says as data what the command takes and returns; the handler sees only arguments that
//! have passed the checks of [`types`].

pub mod types;

use serde_json::Value;

use crate::backend::{Backend, CommandError, RunState};
use crate::json::object;
use crate::message::version;
use types::{Arguments, Member, Type};

/// What a command does, by what it acts on.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    /// `qmp_capabilities`, which changes the session it came in by.
    Negotiate,
    /// Acts on the machine or asks it.
    Machine(fn(&mut dyn Backend, &Arguments) -> Result<Value, CommandError>),
    /// Acts on the machine, and no request is served after it.
    Quit(fn(&mut dyn Backend)),
}

/// One command.
#[derive(Debug)]
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

/// The name of the command that ends the negotiation.
pub const NEGOTIATION_COMMAND: &str = "qmp_capabilities";

const NOTHING: Type = Type::Object(&[]);

const fn command(
    name: &'static str,
    arguments: &'static [Member],
    returns: Type,
    handler: Handler,
) -> Command {
    Command {
        name,
        arguments,
        returns,
        allow_oob: false,
        handler,
    }
}

/// Every command there is.
pub static COMMANDS: &[Command] = &[
    command(
        NEGOTIATION_COMMAND,
        &[Member::optional(
            "enable",
            Type::Array(&Type::Enum(&["oob"])),
        )],
        NOTHING,
        Handler::Negotiate,
    ),
    command(
        "query-version",
        &[],
        VERSION,
        Handler::Machine(query_version),
    ),
    command(
        "query-commands",
        &[],
        Type::Array(&Type::Object(&[Member::required("name", Type::Str)])),
        Handler::Machine(query_commands),
    ),
    command(
        "query-name",
        &[],
        Type::Object(&[Member::optional("name", Type::Str)]),
        Handler::Machine(query_name),
    ),
    command(
        "query-kvm",
        &[],
        Type::Object(&[
            Member::required("enabled", Type::Bool),
            Member::required("present", Type::Bool),
        ]),
        Handler::Machine(query_kvm),
    ),
    command(
        "query-cpus-fast",
        &[],
        Type::Array(&CPU),
        Handler::Machine(query_cpus_fast),
    ),
    command(
        "query-status",
        &[],
        Type::Object(&[
            Member::required("running", Type::Bool),
            Member::required("status", Type::Enum(RunState::NAMES)),
        ]),
        Handler::Machine(query_status),
    ),
    command("stop", &[], NOTHING, Handler::Machine(stop)),
    command("cont", &[], NOTHING, Handler::Machine(cont)),
    command("system_reset", &[], NOTHING, Handler::Machine(system_reset)),
    command(
        "system_powerdown",
        &[],
        NOTHING,
        Handler::Machine(system_powerdown),
    ),
    command("quit", &[], NOTHING, Handler::Quit(quit)),
    command(
        "balloon",
        &[Member::required("value", Type::Int)],
        NOTHING,
        Handler::Machine(balloon),
    ),
    command(
        "query-balloon",
        &[],
        Type::Object(&[Member::required("actual", Type::Int)]),
        Handler::Machine(query_balloon),
    ),
];

const VERSION: Type = Type::Object(&[
    Member::required(
        "qemu",
        Type::Object(&[
            Member::required("major", Type::Int),
            Member::required("minor", Type::Int),
            Member::required("micro", Type::Int),
        ]),
    ),
    Member::required("package", Type::Str),
]);

/// What QEMU calls the architecture of the CPUs (`SysEmuTarget`).
const TARGET: &str = "x86_64";

const CPU: Type = Type::Object(&[
    Member::required("cpu-index", Type::Int),
    Member::required("qom-path", Type::Str),
    Member::required("thread-id", Type::Int),
    Member::required(
        "props",
        Type::Object(&[
            Member::required("socket-id", Type::Int),
            Member::required("core-id", Type::Int),
            Member::required("thread-id", Type::Int),
        ]),
    ),
    Member::required("target", Type::Enum(&[TARGET])),
]);

/// The command of this name.
pub fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

fn nothing() -> Value {
    object([])
}

fn query_version(_: &mut dyn Backend, _: &Arguments) -> Result<Value, CommandError> {
    Ok(version())
}

fn query_commands(_: &mut dyn Backend, _: &Arguments) -> Result<Value, CommandError> {
    let names = COMMANDS
        .iter()
        .map(|command| object([("name", command.name.into())]));
    Ok(names.collect())
}

fn query_name(machine: &mut dyn Backend, _: &Arguments) -> Result<Value, CommandError> {
    Ok(match machine.name() {
        Some(name) => object([("name", name.into())]),
        None => nothing(),
    })
}

fn query_kvm(machine: &mut dyn Backend, _: &Arguments) -> Result<Value, CommandError> {
    let kvm = machine.kvm();
    Ok(object([
        ("enabled", kvm.enabled.into()),
        ("present", kvm.present.into()),
    ]))
}

/// The guest sees each virtual CPU as a core with one thread, and all of them in one socket.
fn query_cpus_fast(machine: &mut dyn Backend, _: &Arguments) -> Result<Value, CommandError> {
    let cpus = machine.cpus().into_iter().enumerate().map(|(index, cpu)| {
        let props = object([
            ("socket-id", 0.into()),
            ("core-id", index.into()),
            ("thread-id", 0.into()),
        ]);
        object([
            ("cpu-index", index.into()),
            (
                "qom-path",
                format!("/machine/unattached/device[{index}]").into(),
            ),
            ("thread-id", cpu.thread_id.into()),
            ("props", props),
            ("target", TARGET.into()),
        ])
    });
    Ok(cpus.collect())
}

fn query_status(machine: &mut dyn Backend, _: &Arguments) -> Result<Value, CommandError> {
    let status = machine.status();
    Ok(object([
        ("running", status.is_running().into()),
        ("status", status.name().into()),
    ]))
}

fn stop(machine: &mut dyn Backend, _: &Arguments) -> Result<Value, CommandError> {
    machine.stop().map(|()| nothing())
}

fn cont(machine: &mut dyn Backend, _: &Arguments) -> Result<Value, CommandError> {
    machine.cont().map(|()| nothing())
}

fn system_reset(machine: &mut dyn Backend, _: &Arguments) -> Result<Value, CommandError> {
    machine.reset().map(|()| nothing())
}

fn system_powerdown(machine: &mut dyn Backend, _: &Arguments) -> Result<Value, CommandError> {
    machine.power_down();
    Ok(nothing())
}

fn quit(machine: &mut dyn Backend) {
    machine.quit();
}

/// `value` is the size in bytes that the guest shall have left, not the size of the balloon.
fn balloon(machine: &mut dyn Backend, arguments: &Arguments) -> Result<Value, CommandError> {
    // A machine without a balloon says so whatever the value.
    machine.balloon_actual()?;
    match arguments.get("value").and_then(Value::as_u64) {
        None | Some(0) => Err(CommandError::generic("Parameter 'value' expects a size")),
        Some(guest_bytes) => machine.set_balloon(guest_bytes).map(|()| nothing()),
    }
}

fn query_balloon(machine: &mut dyn Backend, _: &Arguments) -> Result<Value, CommandError> {
    let actual = machine.balloon_actual()?;
    Ok(object([("actual", actual.into())]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use crate::testing::Machine;

    #[test]
    fn names_are_distinct() {
        for command in COMMANDS {
            assert!(std::ptr::eq(find(command.name).unwrap(), command));
        }
    }

    #[test]
    fn queries_return_the_type_they_declare() {
        for command in COMMANDS
            .iter()
            .filter(|command| command.arguments.is_empty())
        {
            let Handler::Machine(handler) = command.handler else {
                continue;
            };
            let returned = handler(&mut Machine::default(), &Arguments::new()).unwrap();
            assert_eq!(types::check(&command.returns, "return", &returned), Ok(()));
        }
    }

    #[test]
    fn cpus_are_the_cores_of_one_socket_in_the_order_of_objects() {
        let mut machine = Machine {
            vcpu_threads: vec![4001, 4002],
            ..Machine::default()
        };
        let cpus = query_cpus_fast(&mut machine, &Arguments::new()).unwrap();
        let mut text = Vec::new();
        json::write(&cpus, &mut text);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "[{\"thread-id\": 4001, \
             \"props\": {\"core-id\": 0, \"thread-id\": 0, \"socket-id\": 0}, \
             \"qom-path\": \"/machine/unattached/device[0]\", \
             \"cpu-index\": 0, \"target\": \"x86_64\"}, \
             {\"thread-id\": 4002, \
             \"props\": {\"core-id\": 1, \"thread-id\": 0, \"socket-id\": 0}, \
             \"qom-path\": \"/machine/unattached/device[1]\", \
             \"cpu-index\": 1, \"target\": \"x86_64\"}]"
        );
    }

    #[test]
    fn reset_leaves_a_stopped_machine_in_prelaunch() {
        let mut machine = Machine::default();
        for (before, after) in [
            (RunState::Running, RunState::Running),
            (RunState::Paused, RunState::Prelaunch),
            (RunState::Prelaunch, RunState::Prelaunch),
        ] {
            machine.status = before;
            assert_eq!(system_reset(&mut machine, &Arguments::new()), Ok(nothing()));
            assert_eq!(machine.status, after);
        }
    }

    #[test]
    fn powerdown_is_asked_for_each_time_whatever_the_run_state() {
        let mut machine = Machine::default();
        for status in [RunState::Prelaunch, RunState::Running, RunState::Paused] {
            machine.status = status;
            system_powerdown(&mut machine, &Arguments::new()).unwrap();
        }
        assert_eq!(machine.power_downs, 3);
    }

    #[test]
    fn balloon_without_device_is_reported_before_the_value() {
        let mut machine = Machine {
            balloon: false,
            ..Machine::default()
        };
        let arguments = Arguments::from_iter([("value".to_owned(), 0.into())]);
        assert_eq!(
            balloon(&mut machine, &arguments),
            Err(CommandError::no_balloon())
        );
    }

    #[test]
    fn balloon_of_no_size_changes_nothing() {
        let mut machine = Machine::default();
        for value in [0, -1, i64::MIN] {
            let arguments = Arguments::from_iter([("value".to_owned(), value.into())]);
            let error = balloon(&mut machine, &arguments).unwrap_err();
            assert_eq!(error.to_string(), "Parameter 'value' expects a size");
        }
        assert_eq!(machine.target_bytes, None);
    }
}
