//! Types of arguments and returns as data, and the check of a value against them.
//!
//! Order and texts are those of QEMU's input visitor: members in the order of their declaration,
//! then what is left over; nested names are dotted, list elements are `name[0]`.

use serde_json::{Map, Value};

use crate::backend::CommandError;

/// The arguments of a request, by name.
pub type Arguments = Map<String, Value>;

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub enum Type {
    /// An integer that fits in an `i64`. Never a double, even a whole one.
    Int,
    /// An integer that is at least 0 and fits in a `u64`.
    Uint,
    /// A value of any type.
    Any,
    /// `true` or `false`.
    Bool,
    /// A string.
    Str,
    /// One of these strings.
    Enum(&'static [&'static str]),
    /// An array with elements of this type.
    Array(&'static Type),
    /// An object with these members and no others.
    Object(&'static [Member]),
}

/// A member of an object, or an argument.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The key.
    pub name: &'static str,
    /// The type of its value.
    pub ty: Type,
    /// Whether it may be absent.
    pub optional: bool,
}

impl Member {
    /// A member that must be there.
    pub const fn required(name: &'static str, ty: Type) -> Self {
        Self {
            name,
            ty,
            optional: false,
        }
    }

    /// A member that may be absent.
    pub const fn optional(name: &'static str, ty: Type) -> Self {
        Self {
            name,
            ty,
            optional: true,
        }
    }
}

/// Checks the arguments of a command.
///
/// # Errors
///
/// The first fault, in QEMU's words.
pub fn check_arguments(members: &[Member], arguments: &Arguments) -> Result<(), CommandError> {
    check_members(members, None, arguments)
}

/// Checks `value`, which the error calls `path`.
///
/// # Errors
///
/// The first fault, in QEMU's words.
pub fn check(ty: &Type, path: &str, value: &Value) -> Result<(), CommandError> {
    match (ty, value) {
        (Type::Int, Value::Number(number)) if number.is_i64() => Ok(()),
        (Type::Uint, Value::Number(number)) if number.is_u64() => Ok(()),
        (Type::Uint, _) => Err(CommandError::Generic(format!(
            "Parameter '{path}' expects uint64"
        ))),
        (Type::Any, _) => Ok(()),
        (Type::Bool, Value::Bool(_)) | (Type::Str, Value::String(_)) => Ok(()),
        (Type::Enum(names), Value::String(name)) => {
            if names.contains(&name.as_str()) {
                return Ok(());
            }
            // QEMU names only the member here, and an element of a list has no name.
            let member = path.rsplit('.').next().unwrap_or(path);
            let member = if member.ends_with(']') {
                "null"
            } else {
                member
            };
            let fault = format!("Parameter '{member}' does not accept value '{name}'");
            Err(CommandError::Generic(fault))
        }
        (Type::Array(element), Value::Array(elements)) => {
            let mut elements = elements.iter().enumerate();
            elements
                .try_for_each(|(index, value)| check(element, &format!("{path}[{index}]"), value))
        }
        (Type::Object(members), Value::Object(object)) => {
            check_members(members, Some(path), object)
        }
        _ => Err(CommandError::Generic(format!(
            "Invalid parameter type for '{path}', expected: {}",
            expected(ty)
        ))),
    }
}

fn check_members(
    members: &[Member],
    path: Option<&str>,
    object: &Map<String, Value>,
) -> Result<(), CommandError> {
    let full = |name: &str| path.map_or(name.to_owned(), |path| format!("{path}.{name}"));
    for member in members {
        match object.get(member.name) {
            Some(value) => check(&member.ty, &full(member.name), value)?,
            None if member.optional => {}
            None => {
                let fault = format!("Parameter '{}' is missing", full(member.name));
                return Err(CommandError::Generic(fault));
            }
        }
    }
    let known = |key: &str| members.iter().any(|member| member.name == key);
    match object.keys().find(|key| !known(key)) {
        Some(key) => {
            let fault = format!("Parameter '{}' is unexpected", full(key));
            Err(CommandError::Generic(fault))
        }
        None => Ok(()),
    }
}

/// What QEMU calls the type in an error.
fn expected(ty: &Type) -> &'static str {
    match ty {
        Type::Int | Type::Uint => "integer",
        Type::Any => "value",
        Type::Bool => "boolean",
        Type::Str | Type::Enum(_) => "string",
        Type::Array(_) => "array",
        Type::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MEMBERS: &[Member] = &[
        Member::required("first", Type::Int),
        Member::optional(
            "second",
            Type::Object(&[Member::required("inner", Type::Bool)]),
        ),
        Member::optional("list", Type::Array(&Type::Enum(&["a", "b"]))),
    ];

    fn checked(arguments: &Value) -> Result<(), CommandError> {
        check_arguments(MEMBERS, arguments.as_object().unwrap())
    }

    fn fault(arguments: &Value) -> String {
        checked(arguments).unwrap_err().to_string()
    }

    #[test]
    fn absent_optional_members_are_fine() {
        assert_eq!(checked(&json!({"first": 1})), Ok(()));
    }

    #[test]
    fn missing_member_wins_over_an_unknown_one() {
        assert_eq!(fault(&json!({"x": null})), "Parameter 'first' is missing");
        assert_eq!(
            fault(&json!({"first": 1, "x": null})),
            "Parameter 'x' is unexpected"
        );
    }

    #[test]
    fn double_and_large_unsigned_are_no_integers() {
        for value in [json!(1.0), json!(1_u64 << 63), Value::Null] {
            assert_eq!(
                fault(&json!({"first": value})),
                "Invalid parameter type for 'first', expected: integer"
            );
        }
    }

    #[test]
    fn nested_names_are_dotted_and_indexed() {
        assert_eq!(
            fault(&json!({"first": 1, "second": {"inner": null}})),
            "Invalid parameter type for 'second.inner', expected: boolean"
        );
        assert_eq!(
            fault(&json!({"first": 1, "list": ["a", null]})),
            "Invalid parameter type for 'list[1]', expected: string"
        );
        assert_eq!(
            fault(&json!({"first": 1, "list": ["c"]})),
            "Parameter 'null' does not accept value 'c'"
        );
    }
}
