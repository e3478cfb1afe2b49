//! What the tests of the program share: the program itself, and how it ends.

#![allow(
    dead_code,
    reason = "each test binary uses its own part of what is shared"
)]

pub mod balloon;
pub mod fake;
pub mod terminal;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// How long anything that is waited for may take.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The program with a socket and what follows it, not started yet.
pub fn ctl<A: AsRef<OsStr>>(socket: &Path, arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aerostat-ctl"));
    command.arg(socket).args(arguments).stdin(Stdio::null());
    command
}

/// What the program said and how it ended.
#[derive(Debug)]
pub struct Ended {
    pub stdout: String,
    pub stderr: String,
    pub status: Option<i32>,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self {
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            status: output.status.code(),
        }
    }
}

/// Runs the program to its end.
pub fn run<A: AsRef<OsStr>>(socket: &Path, arguments: &[A]) -> Ended {
    ctl(socket, arguments).output().expect("run").into()
}

/// Runs the program with `input` on its standard input.
pub fn run_with_input<A: AsRef<OsStr>>(socket: &Path, arguments: &[A], input: &[u8]) -> Ended {
    let directory = tempfile::TempDir::new().expect("temporary directory");
    let path = directory.path().join("input");
    std::fs::write(&path, input).expect("write");
    let input = std::fs::File::open(path).expect("open");
    let output = ctl(socket, arguments).stdin(input).output();
    output.expect("run").into()
}
