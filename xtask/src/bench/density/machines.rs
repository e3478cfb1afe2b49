//! Many machines of one program, each in a process of its own, whose guests have halted.

use std::path::Path;
use std::time::Duration;

use crate::bench::program::{Ending, Guests, Program};
use crate::bench::running::Running;
use crate::error::Result;

/// Machines that are ended together, at the latest when this goes out of scope.
#[derive(Debug)]
pub struct Machines<'a> {
    program: &'a Program<'a>,
    guests: &'a Guests,
    /// For their sockets.
    directory: &'a Path,
    running: Vec<Running>,
}

impl<'a> Machines<'a> {
    /// None yet.
    pub fn new(program: &'a Program<'a>, guests: &'a Guests, directory: &'a Path) -> Self {
        Self {
            program,
            guests,
            directory,
            running: Vec::new(),
        }
    }

    /// Starts one more and waits for its guest's byte; the time from before its exec until then. Its
    /// standard output stays open, and costs the host a pipe that is empty.
    ///
    /// # Errors
    ///
    /// When it does not start, or its guest does not say its byte.
    pub fn start_one(&mut self) -> Result<Duration> {
        let number = self.running.len();
        let started = self
            .program
            .start(self.guests, Ending::Halt, self.directory, number)?;
        self.running.push(started.running);
        Ok(started.first_byte)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.running.len()
    }

    /// Their processes.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.running.iter().map(Running::pid)
    }
}

impl Drop for Machines<'_> {
    fn drop(&mut self) {
        // All end at once; each is then waited for when it is dropped.
        for running in &mut self.running {
            running.kill();
        }
    }
}
