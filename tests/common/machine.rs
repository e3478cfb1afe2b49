//! A running machine: its process, console and QMP socket.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::console::Console;
use super::qmp::Client;
use super::{Context, Error, Result, host, last_lines, scaled};

/// What the guest's init prints before its shell.
const READY: &str = "guest is ready";
/// The shell's prompt, as the guest's init sets it.
const PROMPT: &str = "guest# ";
/// Time to boot Linux on hardware, with much to spare.
const BOOT_LIMIT: Duration = Duration::from_secs(20);
/// Time for the process to end after the guest powered off.
const EXIT_LIMIT: Duration = Duration::from_secs(10);
/// Time to write a GiB of the guest's memory for the first time.
const FILL_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks whether the process has ended.
const EXIT_PAUSE: Duration = Duration::from_millis(10);
/// Lines of standard error that go into an error.
const ERROR_LINES: usize = 40;

/// A machine whose process is ended, at the latest, when this goes out of scope.
#[derive(Debug)]
pub struct Machine {
    /// The guest's console.
    pub console: Console,
    child: Child,
    socket: PathBuf,
    errors: PathBuf,
    // Removed after the process is gone.
    _directory: TempDir,
}

impl Machine {
    /// Takes over a process that was just started.
    pub(super) fn new(
        mut child: Child,
        directory: TempDir,
        socket: PathBuf,
        errors: PathBuf,
    ) -> Result<Self> {
        let streams = child.stdin.take().zip(child.stdout.take());
        let (input, output) = streams
            .ok_or_else(|| io::Error::other("it has no pipes"))
            .context("take the machine's standard streams")?;
        let console = Console::new(input, output);
        Ok(Self {
            console,
            child,
            socket,
            errors,
            _directory: directory,
        })
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The names of the threads of its process.
    pub fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("tasks");
        let names = tasks.flatten().filter_map(|task| {
            // A thread may end meanwhile.
            std::fs::read_to_string(task.path().join("comm")).ok()
        });
        names.map(|name| name.trim().to_owned()).collect()
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("it has no id"));
        pid.and_then(|pid| kill_process(pid, signal).map_err(io::Error::from))
            .context("signal the machine")
    }

    /// The path of the QMP socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A new negotiated connection to the QMP socket.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`]; what the machine said on its standard error is in it.
    pub fn qmp(&self) -> Result<Client> {
        Client::connect(&self.socket).map_err(|error| match error {
            Error::System { action, source } => Error::System {
                action: format!("{action}; it said: {}", self.stderr()),
                source,
            },
            other => other,
        })
    }

    /// Waits until the guest's shell takes commands.
    ///
    /// # Errors
    ///
    /// When it does not in time.
    pub fn wait_for_shell(&mut self) -> Result<()> {
        self.console
            .wait_for(READY, BOOT_LIMIT)
            .map_err(|error| self.with_stderr(error))?;
        self.console.wait_for(PROMPT, BOOT_LIMIT).map(drop)
    }

    /// Memory of the process that is in RAM and no file's, in KiB.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub fn resident_kib(&self) -> Result<u64> {
        host::resident_kib(self.pid())
    }

    /// A field of the guest's `/proc/meminfo`, in KiB.
    ///
    /// # Errors
    ///
    /// When the guest has no such field.
    pub fn guest_meminfo_kib(&mut self, field: &str) -> Result<u64> {
        let text = self.console.run("cat /proc/meminfo")?;
        host::field_kib(&text, field).ok_or_else(|| Error::Field {
            field: field.to_owned(),
            path: "/proc/meminfo".into(),
        })
    }

    /// Makes the guest write `mib` MiB of its memory, then free them again. Returns the memory of
    /// the process, in KiB, before they were freed.
    ///
    /// # Errors
    ///
    /// When the guest has no room for them.
    pub fn fill_guest_memory(&mut self, mib: u64) -> Result<u64> {
        let fill = format!("dd if=/dev/zero of=/tmp/fill bs=1M count={mib}");
        self.console.run_for(&fill, FILL_LIMIT)?;
        let full_kib = self.resident_kib()?;
        self.console.run_for("rm /tmp/fill", FILL_LIMIT)?;
        Ok(full_kib)
    }

    /// How the process ended, if it has.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("wait for the machine")
    }

    /// Waits for the process to end.
    ///
    /// # Errors
    ///
    /// When it does not in time.
    pub fn wait_exit(&mut self) -> Result<ExitStatus> {
        let limit = scaled(EXIT_LIMIT);
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exit_status()? {
                self.console.wait_closed(limit);
                return Ok(status);
            }
            if Instant::now() >= deadline {
                let last = last_lines(&self.console.log(), ERROR_LINES);
                return Err(Error::Timeout {
                    what: "end of the process".to_owned(),
                    limit,
                    last,
                });
            }
            thread::sleep(EXIT_PAUSE);
        }
    }

    /// Waits for the process to end with status 0.
    ///
    /// # Errors
    ///
    /// When it does not in time, or ends otherwise.
    pub fn wait_success(&mut self) -> Result<()> {
        let status = self.wait_exit()?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Exit {
            status,
            stderr: self.stderr(),
        })
    }

    /// The end of what the process wrote to its standard error.
    pub fn stderr(&self) -> String {
        last_lines(
            &std::fs::read_to_string(&self.errors).unwrap_or_default(),
            ERROR_LINES,
        )
    }

    fn with_stderr(&self, error: Error) -> Error {
        let note = |last: String| format!("{last}\n--- standard error ---\n{}", self.stderr());
        match error {
            Error::Closed {
                channel,
                what,
                last,
            } => Error::Closed {
                channel,
                what,
                last: note(last),
            },
            Error::Timeout { what, limit, last } => Error::Timeout {
                what,
                limit,
                last: note(last),
            },
            other => other,
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- console of the guest ---\n{}", self.console.log());
            eprintln!("--- standard error of the machine ---\n{}", self.stderr());
        }
    }
}
