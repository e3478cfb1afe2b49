//! Commands out of a pipe or a file, one a line. A line that is wrong or refused does not end the
//! script.

use std::io::{self, BufRead, ErrorKind};
use std::time::{Duration, Instant};

use aerostat_qmp::client::{Arguments, Client, ClientError, Deadline};
use serde_json::Value;

use super::QUIT_LIMIT;
use super::help;
use super::line::Line;
use super::schema::Schema;
use crate::connect::Session;
use crate::failure::{self, Failure, UNUSABLE};
use crate::output::{print, tell};
use crate::request::ArgumentsError;

/// After the last line, events that are under way get this time; after `quit`, what the machine says
/// until it has gone.
const LAST_EVENTS: Duration = Duration::from_millis(50);

/// Runs the lines of standard input.
///
/// # Errors
///
/// When the connection fails, a reply does not come in time, standard output takes nothing, or a line
/// failed.
pub fn run(session: Session, schema: &Schema) -> Result<(), Failure> {
    let Session {
        mut client,
        timeout,
        ..
    } = session;
    let mut worst = 0;
    let mut last_events = LAST_EVENTS;
    for (number, line) in (1..).zip(io::stdin().lock().split(b'\n')) {
        let line = line.map_err(Failure::Input)?;
        print_events(&mut client, Some(Instant::now()))?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let line = std::str::from_utf8(&line).map_err(|_| ArgumentsError::NotText);
        let line = line.and_then(Line::parse);
        let is_quit = line.as_ref().is_ok_and(Line::is_quit);
        let failure = match line {
            Ok(Line::Exit) => break,
            Ok(Line::Empty) => Ok(()),
            Ok(Line::Help(None)) => print(help::overview(schema).trim_end()),
            Ok(Line::Help(Some(name))) => print(help::command(schema, &name).trim_end()),
            Ok(Line::Command(request)) => client
                .send(&request.command, request.arguments, deadline)
                .map_err(Failure::from)
                .and_then(|id| finish(&mut client, &id, deadline)),
            Ok(Line::Raw(request)) => send_raw(&mut client, request, deadline),
            Err(error) => Err(error.into()),
        };
        let Err(failure) = failure else {
            last_events = if is_quit { QUIT_LIMIT } else { LAST_EVENTS };
            continue;
        };
        if let Failure::Output(error) = failure {
            return Err(match error.kind() {
                // Who has seen enough does not want to be told, but not all was done.
                ErrorKind::BrokenPipe => Failure::Told { status: UNUSABLE },
                _ => Failure::Output(error),
            });
        }
        tell(format_args!("Line {number}: {}", failure::chain(&failure)));
        worst = worst.max(failure.exit_status());
        if !matches!(
            failure,
            Failure::Arguments(_) | Failure::Client(ClientError::Refused(_))
        ) {
            return Err(Failure::Told { status: worst });
        }
    }
    print_events(&mut client, Some(Instant::now() + last_events))?;
    match worst {
        0 => Ok(()),
        status => Err(Failure::Told { status }),
    }
}

fn send_raw(client: &mut Client, request: Arguments, deadline: Deadline) -> Result<(), Failure> {
    let id = client.send_request(request, deadline)?;
    finish(client, &id, deadline)
}

/// Waits for a reply and prints it, and the events that came before it.
fn finish(client: &mut Client, id: &Value, deadline: Deadline) -> Result<(), Failure> {
    loop {
        while let Some(event) = client.take_event() {
            print(&event.message.to_string())?;
        }
        if let Some(reply) = client.take_reply(id) {
            let value = reply.result.map_err(ClientError::from)?;
            return print(&format!("{value:#}"));
        }
        if !client.receive(deadline)? {
            return Err(ClientError::Timeout("reply").into());
        }
    }
}

/// Prints the events that come until the deadline. That the machine has gone shows with the next
/// command, if there is one.
fn print_events(client: &mut Client, deadline: Deadline) -> Result<(), Failure> {
    loop {
        match client.next_event(deadline) {
            Ok(Some(event)) => print(&event.message.to_string())?,
            Ok(None) | Err(ClientError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
