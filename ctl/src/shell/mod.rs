//! The shell: commands as they are typed, or as they come out of a pipe.
//!
//! On a terminal there are a line editor, completion out of the server's schema, and events above
//! the prompt; without one each line of standard input is a command of a script.

mod complete;
mod editor;
mod help;
mod history;
mod line;
mod schema;
mod script;
mod terminal;

use std::io::{self, IsTerminal};
use std::time::Duration;

use aerostat_qmp::client::ClientError;

use crate::connect::Session;
use crate::failure::Failure;

use schema::Schema;

/// How long a machine may take to go after `quit`.
const QUIT_LIMIT: Duration = Duration::from_secs(2);

/// Runs the shell until its input ends or the machine has gone.
///
/// # Errors
///
/// When the connection or the terminal fails; for a script, also when a command failed.
pub fn run(mut session: Session) -> Result<(), Failure> {
    let schema = schema(&mut session)?;
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        terminal::run(session, schema)
    } else {
        script::run(session, &schema)
    }
}

/// What the server says about its commands, or at least their names.
fn schema(session: &mut Session) -> Result<Schema, ClientError> {
    if let Some(schema) = session.ask("query-qmp-schema")? {
        return Ok(Schema::new(&schema));
    }
    let names = session.ask("query-commands")?.unwrap_or_default();
    Ok(Schema::of_names(&names))
}
