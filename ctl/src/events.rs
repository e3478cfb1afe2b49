//! Events as they come.

use aerostat_qmp::client::ClientError;

use crate::cli::EventsOptions;
use crate::connect::Session;
use crate::failure::Failure;
use crate::output::print;

/// How names of events begin that a client of Aerostat gets once it has used an extension.
const EXTENSION: &str = "X_";

/// Prints events until there were as many as asked for, or the machine has gone.
///
/// # Errors
///
/// When the connection fails, or the time is up.
pub fn run(session: &mut Session, options: &EventsOptions) -> Result<(), Failure> {
    let names: Vec<String> = options
        .names
        .iter()
        .map(|name| name.to_ascii_uppercase())
        .collect();
    if names.is_empty() || names.iter().any(|name| name.starts_with(EXTENSION)) {
        session.ask("x-query-balloon")?;
    }
    let mut printed = 0;
    while options.count.is_none_or(|count| printed < count) {
        let event = match session.client.next_event(session.deadline) {
            Ok(Some(event)) => event,
            Ok(None) => return Err(Failure::EventsTimeUp(printed)),
            // Who counts wants to know that something is missing.
            Err(ClientError::Closed) if options.count.is_none() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if names.is_empty() || names.contains(&event.name) {
            print(&event.message.to_string())?;
            printed += 1;
        }
    }
    Ok(())
}
