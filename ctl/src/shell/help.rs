//! Help out of the server's schema.

use std::fmt::Write as _;

use super::schema::{Member, Schema};

/// Columns of the list of commands.
const WIDTH: usize = 80;

/// What all is about, and the names of all commands.
pub fn overview(schema: &Schema) -> String {
    let mut text = String::from(
        "COMMAND [KEY=VALUE...], COMMAND {JSON}, or a whole request as {JSON}; a.b=1 leads into an \
         object.\nhelp COMMAND shows its arguments, exit or Ctrl-D leaves the shell. Commands:\n",
    );
    let names: Vec<&str> = schema.commands().collect();
    let widest = names.iter().map(|name| name.len()).max().unwrap_or(0) + 2;
    let columns = (WIDTH / widest).max(1);
    for row in names.chunks(columns) {
        let line: String = row.iter().map(|name| format!("{name:<widest$}")).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    text
}

/// The arguments of a command, and what it returns.
pub fn command(schema: &Schema, name: &str) -> String {
    if !schema.has(name) {
        return format!("The machine has no command {name}: help lists them\n");
    }
    let Some(arguments) = schema.arguments(name) else {
        return format!("{name}: the machine does not say what arguments it takes\n");
    };
    let mut text = name.to_owned();
    for member in arguments.iter().filter(|member| member.only_with.is_none()) {
        let (open, close) = if member.is_optional {
            ("[", "]")
        } else {
            ("", "")
        };
        // Writing to a String cannot fail.
        let _ = write!(text, " {open}{}=…{close}", member.name);
    }
    text.push('\n');
    let widest = arguments.iter().map(|member| member.name.len()).max();
    for member in arguments {
        let widest = widest.unwrap_or(0);
        let notes = notes(member);
        let kind = schema.describe(member);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<widest$}  {kind}{notes}", member.name);
    }
    if let Some(returns) = schema.returns(name) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  returns {returns}");
    }
    text
}

fn notes(member: &Member) -> String {
    let optional = member.is_optional.then(|| "optional".to_owned());
    let only = member.only_with.as_ref().map(|case| format!("with {case}"));
    let notes: Vec<String> = optional.into_iter().chain(only).collect();
    if notes.is_empty() {
        String::new()
    } else {
        format!(" ({})", notes.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::tests::schema;
    use super::*;

    #[test]
    fn command_shows_arguments_and_result() {
        assert_eq!(
            command(&schema(), "add"),
            "add driver=… [read-only=…] [inner=…]\n  \
             driver     file|null\n  \
             read-only  boolean (optional)\n  \
             inner      {value: int} (optional)\n  \
             path       string (with driver=file)\n  \
             returns [int]\n"
        );
        assert_eq!(command(&schema(), "stop"), "stop\n  returns nothing\n");
    }

    #[test]
    fn unknown_command_is_answered() {
        assert!(command(&schema(), "x").starts_with("The machine has no command x"));
    }

    #[test]
    fn overview_lists_the_commands_in_columns() {
        let text = overview(&schema());
        assert!(text.ends_with("  add      balloon  stop\n"), "{text}");
    }
}
