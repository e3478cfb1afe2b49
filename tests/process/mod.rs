//! A machine's process on standard streams of the test's choice.

#![allow(
    dead_code,
    reason = "each test binary uses its own part of what is shared"
)]

use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use aerostat_tiny_guest::{Script, script_elf};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::qmp::Client;
use crate::common::scaled;
use crate::common::setup::binary_under_test;

/// How long anything that is waited for may take.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The files of a machine with the scripted guest.
pub struct Files(pub TempDir);

impl Files {
    pub fn new(script: Script) -> Self {
        let directory = TempDir::new().expect("temporary directory");
        let write = |name: &str, content: Vec<u8>| {
            std::fs::write(directory.path().join(name), content).expect("write");
        };
        write("kernel", script_elf());
        write("script", script.into_initrd());
        Self(directory)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(binary_under_test().expect("binary"));
        command
            .args([
                "--kernel", "kernel", "--initrd", "script", "--mem", "64M", "--qmp", "q",
            ])
            .current_dir(self.path());
        command
    }

    pub fn qmp(&self) -> Client {
        Client::connect(&self.path().join("q")).expect("connect")
    }
}

/// The files of a guest that says `ready` and does nothing more.
pub fn ready() -> Files {
    Files::new(Script::new().puts("ready\n"))
}

/// A process that is ended at the latest when this goes out of scope.
pub struct Running(pub Child);

impl Running {
    pub fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + scaled(LIMIT);
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().expect("wait") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the process does not end");
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("pid");
        kill_process(pid, signal).expect("signal");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
