//! The machine's character devices, and the way to be rid of a client that holds one up.

use serde_json::Value;

use super::types::Arguments;
use super::{Context, nothing};
use crate::backend::CommandError;
use crate::json::object;
use crate::monitor;

type Return = Result<Value, CommandError>;

/// What a yank acts on (`YankInstanceType`): of QEMU's kinds the only one that exists here.
const CHARDEV: &str = "chardev";
/// All of QEMU's kinds, each with the member that says which of them.
const YANK_KEYS: [(&str, Option<&str>); 3] = [
    ("block-node", Some("node-name")),
    (CHARDEV, Some("id")),
    ("migration", None),
];
/// Their names.
pub(super) const YANK_TYPES: &[&str] = &["block-node", CHARDEV, "migration"];

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
    let instances: Vec<_> = instances.into_iter().flatten().collect();
    for (index, instance) in instances.iter().enumerate() {
        check_instance(index, instance)?;
    }
    let index_of = |instance: &Value| {
        let id = instance["id"].as_str()?;
        (0..context.monitors.len()).find(|&index| monitor::label(index) == id)
    };
    let yanked: Option<Vec<_>> = instances.into_iter().map(index_of).collect();
    let yanked =
        yanked.ok_or_else(|| CommandError::DeviceNotFound("Instance not found".to_owned()))?;
    context.effects.yanked.extend(yanked);
    Ok(nothing())
}

/// Which members an instance has depends on its type.
fn check_instance(index: usize, instance: &Value) -> Result<(), CommandError> {
    let key = YANK_KEYS
        .iter()
        .find(|(kind, _)| instance["type"] == *kind)
        .and_then(|(_, key)| *key);
    let fault = |name: &str, what: &str| {
        let text = format!("Parameter 'instances[{index}].{name}' is {what}");
        Err(CommandError::Generic(text))
    };
    if let Some(key) = key
        && instance.get(key).is_none()
    {
        return fault(key, "missing");
    }
    let others = YANK_KEYS.iter().filter_map(|(_, other)| *other);
    match others
        .filter(|other| Some(*other) != key)
        .find(|other| instance.get(other).is_some())
    {
        Some(other) => fault(other, "unexpected"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Machine, run};

    /// With a machine that has one monitor.
    fn yank_of(instances: Value) -> Result<Value, String> {
        let yanked = run(&mut Machine::default(), yank, [("instances", instances)]);
        yanked.map_err(|error| format!("{}: {error}", error.class()))
    }

    #[test]
    fn instances_of_all_kinds_of_qemu_are_known_and_one_is_there() {
        let chardev = json!({"type": "chardev", "id": "compat_monitor0"});
        assert_eq!(yank_of(json!([chardev, chardev])), Ok(json!({})));
        for (instance, fault) in [
            (
                json!({"type": "migration"}),
                "DeviceNotFound: Instance not found",
            ),
            (
                json!({"type": "block-node", "node-name": "x"}),
                "DeviceNotFound: Instance not found",
            ),
            (
                json!({"type": "chardev", "id": "compat_monitor1"}),
                "DeviceNotFound: Instance not found",
            ),
            (
                json!({"type": "block-node"}),
                "GenericError: Parameter 'instances[1].node-name' is missing",
            ),
            (
                json!({"type": "chardev"}),
                "GenericError: Parameter 'instances[1].id' is missing",
            ),
            (
                json!({"type": "migration", "id": "x"}),
                "GenericError: Parameter 'instances[1].id' is unexpected",
            ),
        ] {
            assert_eq!(yank_of(json!([chardev, instance])), Err(fault.to_owned()));
        }
    }
}
