//! From options to the machine's end, in order: log, signals, sockets, console, machine, loop.

use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use aerostat_devices::Backing;
use aerostat_qmp::Server;

use crate::afterwards::Afterwards;
use crate::assembly::{Assembly, assemble, resource};
use crate::bus_error;
use crate::cli::{Options, SerialArgument};
use crate::console::Console;
use crate::console::expectation::ExpectedText;
use crate::console::input::ConsoleInput;
use crate::console::output::ConsoleOutput;
use crate::console::target::Target;
use crate::console::terminal::RawMode;
use crate::deadline::Deadline;
use crate::event_loop::{EventLoop, SharedServer};
use crate::expected::Expected;
use crate::failure::Failure;
use crate::logging;
use crate::machine::{Ending, GuestWatch};
use crate::signals::{self, SignalEvents, Signals};
use crate::sockets;

/// How long clients and console may take to hear the last of the machine.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs the machine until it ends; the exit status of the process, which began at `begun`.
///
/// # Errors
/// Why it could not start, or how it failed.
pub fn run(options: &Options, begun: Instant) -> Result<u8, Failure> {
    start_log(options)?;
    let signals = Signals::take().map_err(resource("signals"))?;
    let mut consoles = Consoles::default();
    let outside = || {
        // Whoever has the sockets may write the console's files.
        let listeners = sockets::listen(options)?;
        consoles = Consoles::open(options)?;
        Ok((listeners, consoles.all.clone()))
    };
    let assembly = match assemble(options, begun, outside) {
        // By one of the signals, which end a machine in order, or since its time is over.
        Err(Failure::Build(error)) if error.is_interruption() => {
            let ending = match options.timeout {
                Some(limit) if !signals::is_one_pending() => Ending::TimedOut(limit),
                _ => Ending::InOrder,
            };
            return outcome(ending, options, &consoles);
        }
        assembly => assembly?,
    };
    let Assembly {
        machine,
        server,
        serial,
        ram_addresses,
        mmio: _,
    } = assembly;
    if let Backing::HugeTlb(_) = options.ram.backing {
        bus_error::tell(ram_addresses).map_err(resource("signals"))?;
    }
    let awaits_clients = server.as_ref().is_some_and(Server::awaits_clients);
    let raw_mode = match (&serial, &consoles.standard) {
        (Some(_), Some(_)) => RawMode::enter(rustix::stdio::stdin()).map(Some),
        _ => Ok(None),
    };
    let _raw_mode = raw_mode.map_err(Failure::Terminal)?;
    // First of all: whatever it does, and whoever asks for it, waits until the rest is there.
    if !options.paused && !awaits_clients {
        machine.start()?;
    }
    let server = server.map(|server| Rc::new(RefCell::new(server)));
    let mut event_loop = EventLoop::new(machine.clone())
        .map_err(|error| resource("the event loop")(io::Error::other(error)))?;
    if let Some(server) = &server {
        event_loop.add(server.clone());
    }
    event_loop.add(SignalEvents::new(signals, machine.clone()));
    event_loop.add(GuestWatch::new(machine.clone()));
    event_loop.add(Afterwards::new().map_err(resource("a timer"))?);
    if let Some(limit) = options.timeout {
        let deadline = Deadline::new(limit, machine.clone());
        event_loop.add(deadline.map_err(resource("a timer"))?);
    }
    if let Some(console) = consoles.expecting() {
        event_loop.add(Expected::new(console.clone(), machine.clone()));
    }
    if let (Some(serial), Some(output)) = (serial, consoles.standard.clone()) {
        event_loop.add(ConsoleInput::new(serial, output, machine.clone()));
    }
    let ending = event_loop.run();
    machine.abandon();
    say_last_words(server.as_ref(), consoles.all.as_ref());
    // The process ends: the host takes back memory, CPUs, threads and files all at once, and sooner.
    std::mem::forget((machine, event_loop, server));
    outcome(ending, options, &consoles)
}

/// What the process says of the way in which its machine ended.
fn outcome(ending: Ending, options: &Options, consoles: &Consoles) -> Result<u8, Failure> {
    let last = || consoles.all.as_ref().map(Console::last_lines);
    let last = || last().unwrap_or_default();
    if let Some(text) = &options.expect {
        // The guest may have printed it and ended at once.
        let shown = consoles.expecting().is_some_and(Expected::was_shown);
        return match ending {
            _ if shown => Ok(0),
            Ending::TimedOut(limit) => Err(Failure::TimedOut {
                limit,
                last: last(),
            }),
            Ending::Failed(reason) => Err(Failure::Machine(reason)),
            Ending::InOrder | Ending::Status(_) | Ending::Panicked => Err(Failure::NotShown {
                text: text.clone(),
                last: last(),
            }),
        };
    }
    match ending {
        Ending::InOrder => Ok(0),
        Ending::Status(status) => Ok(status),
        Ending::Failed(reason) => Err(Failure::Machine(reason)),
        Ending::Panicked => Err(Failure::Panicked { last: last() }),
        Ending::TimedOut(limit) => Err(Failure::TimedOut {
            limit,
            last: last(),
        }),
    }
}

fn start_log(options: &Options) -> Result<(), Failure> {
    let file = options.log_file.as_deref();
    logging::start(options.verbose, options.boot_timer, file).map_err(|source| Failure::LogFile {
        path: file.unwrap_or(Path::new("")).to_owned(),
        source,
    })
}

/// Where the guest's console is.
#[derive(Default)]
struct Consoles {
    /// All outputs together; `None` without a serial port.
    all: Option<Console>,
    /// Standard output, if it is among them.
    standard: Option<ConsoleOutput>,
}

impl Consoles {
    fn open(options: &Options) -> Result<Self, Failure> {
        let mut standard = None;
        let mut outputs = Vec::new();
        for argument in &options.serial {
            let target = match argument {
                SerialArgument::Stdio => Target::Stdout,
                SerialArgument::File(path) => Target::file(path)?,
            };
            let output = ConsoleOutput::new(target);
            if *argument == SerialArgument::Stdio {
                standard = Some(output.clone());
            }
            outputs.push(output);
        }
        if outputs.is_empty() {
            let all = None;
            return Ok(Self { all, standard });
        }
        let expected = options.expect.as_deref().map(str::parse::<ExpectedText>);
        let expected = expected
            .transpose()
            .map_err(|error| resource("the expected text")(io::Error::other(error)))?;
        let all = Console::new(outputs, expected.as_ref()).map_err(resource("the console"))?;
        Ok(Self {
            all: Some(all),
            standard,
        })
    }

    /// The console, if a text is expected on it.
    fn expecting(&self) -> Option<&Console> {
        self.all
            .as_ref()
            .filter(|console| console.expected().is_some())
    }
}

/// Lets clients and console have what they have not read yet.
fn say_last_words(server: Option<&SharedServer>, console: Option<&Console>) {
    if let Some(server) = server {
        server.borrow_mut().finish(LAST_WORDS);
    }
    if let Some(console) = console {
        console.finish(LAST_WORDS);
    }
}
