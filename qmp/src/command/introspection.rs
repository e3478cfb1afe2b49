//! What the server says of itself.

use serde_json::Value;

use super::types::Arguments;
use super::{COMMANDS, Context};
use crate::backend::CommandError;
use crate::json::object;
use crate::message::version;
use crate::{hmp, schema};

type Return = Result<Value, CommandError>;

pub(super) fn query_version(_: &mut Context<'_>, _: &Arguments) -> Return {
    Ok(version())
}

pub(super) fn query_commands(_: &mut Context<'_>, _: &Arguments) -> Return {
    let names = COMMANDS
        .iter()
        .map(|command| object([("name", command.name.into())]));
    Ok(names.collect())
}

pub(super) fn query_qmp_schema(_: &mut Context<'_>, _: &Arguments) -> Return {
    Ok(schema::schema())
}

/// A command for people; what goes wrong in it is text, not an error.
pub(super) fn human_monitor_command(context: &mut Context<'_>, arguments: &Arguments) -> Return {
    let index = arguments.get("cpu-index").and_then(Value::as_i64);
    let cpus = context.machine.cpus().len();
    let index = usize::try_from(index.unwrap_or(0)).ok();
    let index = index.filter(|&index| index == 0 || index < cpus);
    context.monitor_cpu =
        index.ok_or_else(|| CommandError::generic("Parameter 'cpu-index' expects a CPU number"))?;
    let line = arguments.get("command-line").and_then(Value::as_str);
    Ok(hmp::run(context, line.unwrap_or_default()).into())
}
