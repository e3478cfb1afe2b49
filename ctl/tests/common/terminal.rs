//! A terminal: the side that a person sits at, and the side that the program has.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::LIMIT;

/// A person's terminal with the program on it.
#[derive(Debug)]
pub struct Terminal {
    person: File,
    program: OwnedFd,
    seen: String,
}

impl Terminal {
    /// A new terminal.
    pub fn new() -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("terminal");
        grantpt(&person).expect("grant");
        unlockpt(&person).expect("unlock");
        let name = ptsname(&person, Vec::new()).expect("name");
        let program = File::options()
            .read(true)
            .write(true)
            .open(name.into_string().expect("name"))
            .expect("open");
        Self {
            person: person.into(),
            program: program.into(),
            seen: String::new(),
        }
    }

    /// A stream of the program on this terminal.
    pub fn end(&self) -> Stdio {
        self.program.try_clone().expect("clone").into()
    }

    /// Starts the program with all streams on this terminal.
    pub fn start(&self, mut command: Command) -> Running {
        command
            .stdin(self.end())
            .stdout(self.end())
            .stderr(self.end());
        Running(command.spawn().expect("start"))
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) {
        self.person.write_all(text.as_bytes()).expect("type");
    }

    /// Waits until `text` is shown after what was last waited for, and gives what came before it.
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.seen.find(text) {
                let before = self.seen[..at].to_owned();
                self.seen.drain(..at + text.len());
                return before;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("time");
            let mut readable = [PollFd::new(&self.person, PollFlags::IN)];
            let ready = poll(&mut readable, Some(&left)).expect("poll");
            assert_ne!(ready, 0, "no {text:?} in {:?}", self.seen);
            let mut bytes = [0; 4096];
            let count = self.person.read(&mut bytes).expect("read");
            self.seen
                .push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }
}

/// A process that is ended at the latest when this goes out of scope.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    /// Waits for its end.
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().expect("wait") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the process does not end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
