//! `aerostat`: a KVM machine whose memory is steered over QMP.
//!
//! This crate joins the pieces: the command line, the machine of `aerostat-vmm`, the server of
//! `aerostat-qmp`, and the console.

mod cli;
mod console;
mod deadline;
mod event_loop;
mod logging;
mod machine;
mod run;
mod signals;

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

use cli::{Cli, one_line};
use run::RunError;

/// The machine failed while it ran.
const FAILED: u8 = 1;
/// Arguments, or files that they name, are unusable.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::parse_arguments() {
        Ok(cli) => cli,
        Err(error) => {
            return match one_line(&error) {
                Some(line) => complain(&line, UNUSABLE),
                None => {
                    // Help and version; a reader that has gone away does not matter.
                    let _ = error.print();
                    ExitCode::SUCCESS
                }
            };
        }
    };
    match run::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ RunError::Failed(_)) => complain(&chain(&error), FAILED),
        Err(error) => complain(&chain(&error), UNUSABLE),
    }
}

fn complain(message: &str, status: u8) -> ExitCode {
    eprintln!("aerostat: {message}");
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
