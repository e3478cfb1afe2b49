//! A process that runs a guest: what the guest writes, and what the process has cost in the end.

use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, FileContext, Result};
use crate::process;

/// What the guest writes.
const GREETING: u8 = b'!';
/// Time for the guest's byte, and then for the end, after which the process is taken for hanging.
const LIMIT: Duration = Duration::from_secs(10);
/// Lines of what it said on its standard error that go into an error.
const ERROR_LINES: usize = 10;

/// A process that is ended and waited for, at the latest when this goes out of scope.
#[derive(Debug)]
pub struct Running {
    /// For messages.
    name: &'static str,
    child: Child,
    /// Where it was waited for already: its id may be another process's by now.
    is_reaped: bool,
    begun: Instant,
    errors: PathBuf,
}

impl Running {
    /// Starts `command` with the guest's serial port as its standard output; what it says on its
    /// standard error is kept in the file `errors`, which may be that of others too.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn spawn(name: &'static str, command: &mut Command, errors: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(errors);
        let file = file.file("open", errors)?;
        // What those said that came before explains nothing.
        file.set_len(0).file("empty", errors)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file);
        let begun = Instant::now();
        let child = command.spawn().map_err(|source| Error::Start {
            command: process::describe(command),
            source,
        })?;
        Ok(Self {
            name,
            child,
            is_reaped: false,
            begun,
            errors: errors.to_owned(),
        })
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Time since before its exec.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits until the guest writes its byte. Other output is passed over where `has_others` says that
    /// the process has some of its own.
    ///
    /// # Errors
    ///
    /// When it ends or is silent instead, or says something else; what it said on its standard error is
    /// in it.
    pub fn await_greeting(&mut self, has_others: bool) -> Result<()> {
        loop {
            let mut byte = [0];
            match (self.read(&mut byte)?, byte) {
                (None, _) => return Err(self.failure("showed no byte of its guest in time")),
                (Some(0), _) => return Err(self.failure("ended before its guest's byte")),
                (Some(_), [GREETING]) => return Ok(()),
                (Some(_), _) if has_others => {}
                (Some(_), [byte]) => {
                    return Err(self.failure(&format!("showed byte {byte:#x} instead")));
                }
            }
        }
    }

    /// Waits for the end of a process whose guest ends its machine.
    ///
    /// # Errors
    ///
    /// When it does not end in time, or fails.
    pub fn await_end(mut self) -> Result<Ended> {
        let mut rest = [0; 64];
        // Its serial port is closed when the process ends, or as good as.
        loop {
            match self.read(&mut rest)? {
                Some(0) => break,
                Some(_) => {}
                None => return Err(self.failure("did not end in time after its guest")),
            }
        }
        let (status, cpu) = reap(self.pid())?;
        let age = self.age();
        self.is_reaped = true;
        if status != 0 {
            return Err(self.failure(&format!("ended with wait status {status:#x}")));
        }
        Ok(Ended { age, cpu })
    }

    /// Ends it, without waiting.
    pub fn kill(&mut self) {
        if !self.is_reaped {
            // An error means that it has ended already.
            let _ = self.child.kill();
        }
    }

    /// How much was read, 0 at the end of the output; nothing when the time is up.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Some(output) = &mut self.child.stdout else {
            return Ok(Some(0));
        };
        let remaining = LIMIT.saturating_sub(self.begun.elapsed());
        let remaining = Timespec {
            tv_sec: remaining.as_secs().cast_signed(),
            tv_nsec: remaining.subsec_nanos().into(),
        };
        let failed = |source| Error::System {
            action: "read the machine's serial port",
            source,
        };
        let mut files = [PollFd::new(output, PollFlags::IN)];
        if poll(&mut files, Some(&remaining)).map_err(|error| failed(error.into()))? == 0 {
            return Ok(None);
        }
        output.read(buffer).map(Some).map_err(failed)
    }

    fn failure(&mut self, reason: &str) -> Error {
        self.kill();
        let said = std::fs::read(&self.errors).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let said = match said.trim() {
            "" => "nothing".to_owned(),
            said => process::last_lines(said, ERROR_LINES),
        };
        Error::Check(format!("{} {reason}; it said: {said}", self.name))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        if !self.is_reaped {
            // As in `kill`.
            let _ = self.child.wait();
        }
    }
}

/// How a process has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// From before its exec to its end.
    pub age: Duration,
    /// CPU time of all of its threads, in user and in kernel mode.
    pub cpu: Duration,
}

/// Waits for a child of this process: its wait status and its CPU time.
fn reap(pid: u32) -> Result<(i32, Duration)> {
    let failed = |source| Error::System {
        action: "wait for the machine",
        source,
    };
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let id =
        libc::pid_t::try_from(pid).map_err(|_| failed(std::io::ErrorKind::InvalidInput.into()))?;
    loop {
        // SAFETY: both places are valid for what wait4(2) writes.
        if unsafe { libc::wait4(id, &raw mut status, 0, usage.as_mut_ptr()) } == id {
            break;
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(failed(error));
        }
    }
    // SAFETY: all zeroes is a value of this struct of integers, and wait4(2) has filled it in.
    let usage = unsafe { usage.assume_init() };
    Ok((status, duration(usage.ru_utime) + duration(usage.ru_stime)))
}

fn duration(time: libc::timeval) -> Duration {
    Duration::from_secs(time.tv_sec.unsigned_abs())
        + Duration::from_micros(time.tv_usec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, directory: &Path) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::spawn("sh", &mut command, &directory.join("errors")).unwrap()
    }

    #[test]
    fn greeting_is_found_behind_other_output_where_that_is_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let mut running = shell("echo log; printf '!'", directory.path());
        running.await_greeting(true).unwrap();
        running.await_end().unwrap();

        let mut running = shell("echo log; printf '!'", directory.path());
        let error = running.await_greeting(false).unwrap_err().to_string();
        assert!(error.starts_with("sh showed byte 0x6c instead"), "{error}");
    }

    #[test]
    fn what_a_process_said_is_in_the_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut running = shell("echo why >&2", directory.path());
        let error = running.await_greeting(false).unwrap_err().to_string();
        assert_eq!(error, "sh ended before its guest's byte; it said: why");

        let mut running = shell("printf '!'; echo why >&2; exit 3", directory.path());
        running.await_greeting(false).unwrap();
        let error = running.await_end().unwrap_err().to_string();
        assert_eq!(error, "sh ended with wait status 0x300; it said: why");
    }

    #[test]
    fn cpu_time_of_a_process_that_computes_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let script = "printf '!'; i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done";
        let mut running = shell(script, directory.path());
        running.await_greeting(false).unwrap();
        assert!(running.await_end().unwrap().cpu > Duration::from_millis(1));
    }

    #[test]
    fn process_is_gone_when_nobody_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let running = shell("exec sleep 1000", directory.path());
        let process = format!("/proc/{}", running.pid());
        assert!(Path::new(&process).exists());
        drop(running);
        assert!(!Path::new(&process).exists());
    }
}
