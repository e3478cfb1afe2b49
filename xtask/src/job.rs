//! What the outer machine is asked to do, and what it says about it: one JSON text a line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bench::balloon::linux;
use crate::bench::boot;
use crate::report::Event;

/// Where the job lies in the outer machine.
pub const JOB_FILE: &str = "/job.json";
/// The outer machine's end of the line over which messages go.
pub const MESSAGE_PORT: &str = "/dev/ttyS1";

/// One job of an outer machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Job {
    /// Run test programs, one after the other.
    Tests(Vec<TestProgram>),
    /// Show the balloon at work.
    Demo(DemoFiles),
    /// Measure the balloon with Linux guests.
    Balloon(linux::Files),
    /// Measure boots.
    Boot(boot::Files),
    /// Leave the machine to its user.
    Shell {
        /// What the user is told first.
        hint: String,
    },
}

/// A test program as Cargo built it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestProgram {
    /// The test target's name.
    pub name: String,
    /// The package that it belongs to.
    pub package: String,
    /// The executable.
    pub path: PathBuf,
    /// The directory that Cargo runs it in: its package's.
    pub directory: PathBuf,
    /// What the names of its tests must contain; all run if there is nothing.
    pub filters: Vec<String>,
    /// Environment variables it is to see.
    pub environment: Vec<(String, String)>,
}

/// What the demo runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DemoFiles {
    /// The aerostat binary.
    pub binary: PathBuf,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's initial file system.
    pub initramfs: PathBuf,
    /// The guest's memory in MiB.
    pub mem_mib: u64,
}

/// What the job says while it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// The demo got on.
    Demo(Event),
    /// A round of the balloon's measurement is over.
    Resized(linux::Round),
    /// A boot was measured.
    Booted(boot::Round),
    /// A test program ended.
    Tested {
        /// The test target's name.
        name: String,
        /// Whether all its tests passed.
        passed: bool,
    },
    /// The job ended; nothing follows. The text says why it failed.
    Done(Result<(), String>),
}
