//! `aerostat`: a KVM machine whose memory is steered over QMP.
//!
//! This crate joins the pieces: the command line, the machine of `aerostat-vmm`, the server of
//! `aerostat-qmp`, and the console. It is a library only so that tests can have the machine as QMP
//! sees it in their own process.

mod afterwards;
mod allocator;
pub mod assembly;
mod bus_error;
mod check;
pub mod cli;
mod console;
mod deadline;
pub mod event_loop;
mod expected;
mod failure;
mod group;
mod logging;
pub mod machine;
mod populating;
mod run;
mod signals;
pub mod sockets;
mod timer;

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Instant;

use cli::{Options, Request};
use failure::UNUSABLE;

/// The whole program: reads the command line, does what it says, and gives the exit status.
#[must_use]
pub fn main() -> ExitCode {
    let begun = Instant::now();
    match cli::request(std::env::args_os()) {
        Ok(Request::Run(options)) => run(&options, begun),
        Ok(Request::Check { options, file }) => match check::check(&options, &file) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&chain(&error), UNUSABLE),
        },
        Ok(Request::Show(text)) => {
            // A reader that has gone away does not matter.
            let _ = text.print();
            ExitCode::SUCCESS
        }
        Err(error) => complain(&chain(&error), UNUSABLE),
    }
}

fn run(options: &Options, begun: Instant) -> ExitCode {
    match run::run(options, begun) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => complain(&chain(&failure), failure.exit_status()),
    }
}

fn complain(message: &str, status: u8) -> ExitCode {
    // Nobody may be there to read it; the status tells as well.
    let _ = writeln!(io::stderr(), "aerostat: {message}");
    ExitCode::from(status)
}

/// An error and its causes, joined by colons.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        // Some errors of libraries repeat their cause.
        if !text.ends_with(&part) {
            let _ = write!(text, ": {part}");
        }
        cause = error.source();
    }
    text
}
