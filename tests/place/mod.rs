//! A directory in which `aerostat` is run to its end, and what its answers must be like.

#![allow(
    dead_code,
    reason = "each test binary uses its own part of what is shared"
)]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use aerostat_tiny_guest::goodbye_elf;
use tempfile::TempDir;

use crate::common::setup::binary_under_test;

/// A directory with a kernel in it, which prints an exclamation mark and resets.
pub struct Place(TempDir);

impl Place {
    /// A new directory.
    pub fn new() -> Self {
        let place = Self(TempDir::new().expect("temporary directory"));
        place.write("kernel", &goodbye_elf());
        place
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        self.0.path()
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file in it; directories on the way are made.
    pub fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        let directory = path.parent().expect("directory");
        fs::create_dir_all(directory).expect("make directory");
        fs::write(&path, content).expect("write");
        path
    }

    /// `aerostat` in this directory, not started yet.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary_under_test().expect("binary"));
        command.current_dir(self.directory()).stdin(Stdio::null());
        command
    }

    /// Runs `aerostat` here with `arguments` alone.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Output {
        self.command().args(arguments).output().expect("run")
    }
}

/// The one line of a refusal.
#[track_caller]
pub fn refusal(output: &Output) -> String {
    let stderr = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("aerostat: "), "{stderr}");
    assert_eq!(stdout(output), "");
    stderr
}

/// What the process printed.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the process said besides.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that a machine ran until its guest ended it, with its console on standard output.
#[track_caller]
pub fn assert_ran(output: &Output) {
    let stderr = stderr(output);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!((stdout(output).as_str(), stderr.as_str()), ("!", ""));
}

/// Checks that all `parts` are in `text`.
#[track_caller]
pub fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}
