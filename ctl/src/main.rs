//! `aerostat-ctl`: steers a machine over its QMP socket, for people: one command, a resize that is
//! waited for, what state it is in, its events, a shell. It speaks to Aerostat and to QEMU; what a
//! server lacks is left out or done otherwise.
//!
//! Results go to standard output, everything else to standard error.

mod amount;
mod cli;
mod command;
mod connect;
mod events;
mod failure;
mod json;
mod output;
mod request;
mod resize;
mod shell;
mod status;

use std::process::ExitCode;

use cli::{Command, CommandLine};
use connect::connect;
use failure::{Failure, UNUSABLE};
use output::tell;

fn main() -> ExitCode {
    match CommandLine::read(std::env::args_os()) {
        Ok(line) => finish(run(line)),
        Err(error) if cli::is_answer(&error) => {
            // A reader that has gone away does not matter.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        Err(error) => {
            tell(cli::one_line(&error));
            ExitCode::from(UNUSABLE)
        }
    }
}

fn run(line: CommandLine) -> Result<(), Failure> {
    // Wrong arguments are told before anything is sent.
    let open = || connect(&line.socket, line.timeout);
    match line.command {
        Command::Resize(options) => resize::run(&mut open()?, &options),
        Command::Status(options) => status::run(&mut open()?, options.json),
        Command::Events(options) => events::run(&mut open()?, &options),
        Command::Shell => shell::run(open()?),
        Command::Qmp(words) => {
            let request = request::from_words(&words)?;
            command::run(&mut open()?, request)
        }
    }
}

fn finish(outcome: Result<(), Failure>) -> ExitCode {
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    if !failure.is_silent() {
        tell(failure::chain(&failure));
    }
    ExitCode::from(failure.exit_status())
}
