//! The commands of QEMU's object model.

use serde_json::Value;

use super::types::Arguments;
use super::{Context, nothing};
use crate::backend::CommandError;
use crate::qom::{Tree, types};

type Return = Result<Value, CommandError>;

fn text<'a>(arguments: &'a Arguments, name: &str) -> &'a str {
    arguments
        .get(name)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub(super) fn qom_list(context: &mut Context<'_>, arguments: &Arguments) -> Return {
    Tree::of(context.machine).list(text(arguments, "path"))
}

pub(super) fn qom_get(context: &mut Context<'_>, arguments: &Arguments) -> Return {
    Tree::of(context.machine).get(text(arguments, "path"), text(arguments, "property"))
}

pub(super) fn qom_set(context: &mut Context<'_>, arguments: &Arguments) -> Return {
    let tree = Tree::of(context.machine);
    let value = arguments.get("value").unwrap_or(&Value::Null);
    let change = tree.set(text(arguments, "path"), text(arguments, "property"), value)?;
    if let Some(change) = change {
        change.apply(context.machine)?;
    }
    Ok(nothing())
}

pub(super) fn qom_list_types(_: &mut Context<'_>, arguments: &Arguments) -> Return {
    let with_abstract = arguments.get("abstract") == Some(&Value::Bool(true));
    let implements = arguments.get("implements").and_then(Value::as_str);
    Ok(types::list(implements, with_abstract))
}

pub(super) fn qom_list_properties(_: &mut Context<'_>, arguments: &Arguments) -> Return {
    types::properties(text(arguments, "typename"))
}

pub(super) fn device_list_properties(_: &mut Context<'_>, arguments: &Arguments) -> Return {
    types::device_properties(text(arguments, "typename"))
}
