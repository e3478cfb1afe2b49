//! Standard input to the guest's serial port, at the pace at which the guest reads.
//!
//! Standard input can be a terminal or pipe, which the event loop watches; or a file or
//! `/dev/null`, which cannot be watched and is simply read whenever the guest wants more.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use aerostat_devices::serial::SerialPort;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::stdio::{raw_stdin, stdin};

use super::escape::{Command, EscapeFilter, HELP};
use super::output::ConsoleOutput;
use crate::machine::MachineHandle;

/// Bytes read at a time, and the most that wait for the guest.
const CHUNK: usize = 4096;

/// How standard input is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Watched by the event loop.
    Watched,
    /// To be watched again once the guest has taken what waits.
    Held,
    /// A file: always readable.
    File,
    /// At its end.
    Ended,
}

/// The subscriber for standard input.
pub struct ConsoleInput {
    serial: Arc<SerialPort>,
    output: ConsoleOutput,
    machine: MachineHandle,
    escape: EscapeFilter,
    waiting: VecDeque<u8>,
    source: Source,
}

impl ConsoleInput {
    /// Connects standard input to `serial`; help goes to `output`, which is standard output alone
    /// and no other place that has the guest's output, and quitting to `machine`.
    pub fn new(serial: Arc<SerialPort>, output: ConsoleOutput, machine: MachineHandle) -> Self {
        Self {
            serial,
            output,
            machine,
            escape: EscapeFilter::default(),
            waiting: VecDeque::new(),
            source: Source::Watched,
        }
    }

    fn watch(&self) -> Events {
        Events::new(&raw_stdin(), EventSet::IN)
    }

    /// Reads once, and passes on what was read.
    fn read(&mut self) {
        let mut chunk = [0; CHUNK];
        match rustix::io::read(stdin(), &mut chunk) {
            Ok(0) => self.source = Source::Ended,
            Ok(length) => self.take(&chunk[..length]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => {
                log::warn!("No more console input: {}", io::Error::from(error));
                self.source = Source::Ended;
            }
        }
    }

    fn take(&mut self, typed: &[u8]) {
        let commands = self
            .escape
            .filter(typed, |byte| self.waiting.push_back(byte));
        for command in commands {
            match command {
                Command::Help => self.output.push(HELP.as_bytes()),
                Command::Quit => self.machine.quit_from_console(),
            }
        }
        self.deliver();
    }

    fn deliver(&mut self) {
        while !self.waiting.is_empty() {
            let taken = self.serial.receive(self.waiting.make_contiguous());
            if taken == 0 {
                return;
            }
            self.waiting.drain(..taken);
        }
    }

    /// Starts or stops to watch standard input, as what waits and what was met demand.
    fn settle(&mut self, before: Source, ops: &mut EventOps<'_>) {
        if self.source == Source::Watched && !self.waiting.is_empty() {
            self.source = Source::Held;
        } else if self.source == Source::Held && self.waiting.is_empty() {
            self.source = Source::Watched;
        }
        let result = match (before, self.source) {
            (Source::Watched, Source::Held | Source::Ended) => ops.remove(self.watch()),
            (Source::Held, Source::Watched) => ops.add(self.watch()),
            _ => Ok(()),
        };
        if let Err(error) = result {
            log::warn!("No more console input: {error}");
            self.source = Source::Ended;
        }
    }

    /// Reads a file until the guest has enough for now.
    fn read_file(&mut self) {
        while self.source == Source::File && self.waiting.is_empty() {
            self.read();
        }
    }
}

impl MutEventSubscriber for ConsoleInput {
    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        let before = self.source;
        if events.fd() == self.serial.input_wanted().as_raw_fd() {
            let _ = self.serial.input_wanted().read();
            self.deliver();
            self.read_file();
        } else {
            self.read();
        }
        self.settle(before, ops);
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(self.serial.input_wanted(), EventSet::IN)) {
            log::warn!("Console input will stall: {error}");
        }
        // epoll refuses files and /dev/null (EPERM).
        if ops.add(self.watch()).is_err() {
            self.source = Source::File;
            self.read_file();
        }
    }
}
