//! From arguments to the machine's end, in order: log, signals, socket, machine, loop.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use aerostat_qmp::{BindError, Listener, Server};
use aerostat_vmm::{BuildError, MachineIo, StateError};

use crate::cli::{Cli, SerialArgument};
use crate::console::input::ConsoleInput;
use crate::console::output::ConsoleOutput;
use crate::console::terminal::RawMode;
use crate::event_loop::{EventLoop, SharedServer};
use crate::logging;
use crate::machine::{Ending, GuestWatch, MachineHandle, Policy, balloon_sink, crash_loaded_sink};
use crate::signals::{SignalEvents, Signals};

/// How long clients and console may take to hear the last of the machine.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The log file cannot be written.
    #[error("Cannot write to log file {}", path.display())]
    LogFile {
        /// As the user gave it.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The file for the console cannot be written.
    #[error("Cannot write the console to {}", path.display())]
    SerialFile {
        /// As the user gave it.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// QMP cannot be served.
    #[error(transparent)]
    Qmp(#[from] BindError),
    /// The machine cannot be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The machine cannot be started.
    #[error("Cannot start the machine")]
    Start(#[from] StateError),
    /// The terminal refuses raw mode.
    #[error("Cannot set the terminal to raw mode")]
    Terminal(#[source] io::Error),
    /// A thread, signal or file descriptor could not be had.
    #[error("Cannot set up {what}")]
    Resource {
        /// What was needed.
        what: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The machine failed while it ran.
    #[error("{0}")]
    Failed(String),
}

fn resource(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Resource { what, source }
}

/// Runs the machine until it ends.
///
/// # Errors
/// Why it could not start, or how it failed.
pub fn run(cli: &Cli) -> Result<(), RunError> {
    start_log(cli)?;
    let signals = Signals::take().map_err(resource("signals"))?;
    let (sender, receiver) = aerostat_qmp::events::channel().map_err(resource("events"))?;
    let listener = Listener::bind(&cli.qmp)?;
    let output = console_output(&cli.serial)?;

    let config = cli.machine();
    let policy = Policy {
        no_reboot: cli.no_reboot,
        no_shutdown: cli.no_shutdown,
        on_panic: cli.on_panic,
        on_error: cli.on_error,
        on_term: cli.on_term,
    };
    let serial = output.clone().map(|output| Box::new(output) as _);
    let balloon = balloon_sink(config.memory, sender.clone());
    let machine = aerostat_vmm::build(
        &config,
        MachineIo {
            serial,
            balloon,
            crash_loaded: crash_loaded_sink(sender.clone()),
        },
    )?;
    let serial = machine.serial().cloned();
    let machine = MachineHandle::new(machine, policy, sender);

    let server = Server::new(listener, receiver, machine.clone()).map_err(resource("QMP"))?;
    let server = Rc::new(RefCell::new(server));
    let mut event_loop = EventLoop::new(machine.clone())
        .map_err(|error| resource("the event loop")(io::Error::other(error)))?;
    event_loop.add(server.clone());
    event_loop.add(SignalEvents::new(signals, machine.clone()));
    event_loop.add(GuestWatch::new(machine.clone()));

    let _raw_mode = match (&cli.serial, serial, output.clone()) {
        (SerialArgument::Stdio, Some(serial), Some(output)) => {
            let raw_mode = RawMode::enter(rustix::stdio::stdin()).map_err(RunError::Terminal)?;
            event_loop.add(ConsoleInput::new(serial, output, machine.clone()));
            Some(raw_mode)
        }
        _ => None,
    };
    if !cli.paused {
        machine.start()?;
    }
    let ending = event_loop.run();
    say_last_words(&server, output.as_ref());
    match ending {
        Ending::InOrder => Ok(()),
        Ending::Failed(reason) => Err(RunError::Failed(reason)),
        other => Err(RunError::Failed(format!("{other:?}"))),
    }
}

fn start_log(cli: &Cli) -> Result<(), RunError> {
    logging::start(cli.verbose, cli.log_file.as_deref()).map_err(|source| RunError::LogFile {
        path: cli.log_file.clone().unwrap_or_default(),
        source,
    })
}

/// The console's output, unless there is no serial port.
fn console_output(serial: &SerialArgument) -> Result<Option<ConsoleOutput>, RunError> {
    let output = match serial {
        SerialArgument::Off => return Ok(None),
        SerialArgument::Stdio => ConsoleOutput::spawn(io::stdout()),
        SerialArgument::File(path) => {
            let file = File::create(path).map_err(|source| RunError::SerialFile {
                path: path.clone(),
                source,
            })?;
            ConsoleOutput::spawn(file)
        }
    };
    output.map(Some).map_err(resource("the console"))
}

/// Lets clients and console have what they have not read yet.
fn say_last_words(server: &SharedServer, output: Option<&ConsoleOutput>) {
    server.borrow_mut().finish(LAST_WORDS);
    if let Some(output) = output {
        output.finish(LAST_WORDS);
    }
}
