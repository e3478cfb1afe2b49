//! The machine's character devices, and the way to be rid of a client that holds one up.

use serde_json::Value;

use super::types::Arguments;
use super::{Context, nothing};
use crate::backend::CommandError;
use crate::json::object;
use crate::monitor;

type Return = Result<Value, CommandError>;

/// What a yank acts on (`YankInstanceType`): of QEMU's kinds the only one that exists here.
pub(super) const CHARDEV: &str = "chardev";

pub(super) fn query_chardev(context: &mut Context<'_>, _: &Arguments) -> Return {
    let device = |label: String, filename: String| {
        object([
            ("label", label.into()),
            ("filename", filename.into()),
            ("frontend-open", true.into()),
        ])
    };
    let monitors = context.monitors.iter().enumerate();
    let monitors = monitors.map(|(index, socket)| device(monitor::label(index), socket.filename()));
    let consoles = context.machine.info().consoles.into_iter().enumerate();
    let consoles = consoles.map(|(index, target)| device(format!("serial{index}"), target));
    Ok(monitors.chain(consoles).collect())
}

pub(super) fn query_yank(context: &mut Context<'_>, _: &Arguments) -> Return {
    let instances = (0..context.monitors.len()).map(|index| {
        object([
            ("type", CHARDEV.into()),
            ("id", monitor::label(index).into()),
        ])
    });
    Ok(instances.collect())
}

/// Cuts off the clients of the monitors that are named. As in QEMU, all must exist before one is
/// touched.
pub(super) fn yank(context: &mut Context<'_>, arguments: &Arguments) -> Return {
    let instances = arguments.get("instances").and_then(Value::as_array);
    let index_of = |instance: &Value| {
        let id = instance["id"].as_str()?;
        (0..context.monitors.len()).find(|&index| monitor::label(index) == id)
    };
    let yanked: Option<Vec<_>> = instances.into_iter().flatten().map(index_of).collect();
    let yanked =
        yanked.ok_or_else(|| CommandError::DeviceNotFound("Instance not found".to_owned()))?;
    context.effects.yanked.extend(yanked);
    Ok(nothing())
}
