//! What the threads of a process have done: CPU time from `/proc/PID/task/TID/schedstat`, and how
//! often they were put on a CPU and taken off it, from `status`.

use std::fs;
use std::ops::{Add, Sub};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, FileContext, Result};

/// CPU time, and context switches: those that a thread asked for, by waiting, and the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effort {
    /// Time on a CPU, in the guest too.
    pub time: Duration,
    /// Context switches of both kinds.
    pub switches: u64,
}

impl Add for Effort {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            time: self.time + other.time,
            switches: self.switches + other.switches,
        }
    }
}

impl Sub for Effort {
    type Output = Self;

    /// At least nothing: a thread that has ended takes with it what it did.
    fn sub(self, other: Self) -> Self {
        Self {
            time: self.time.saturating_sub(other.time),
            switches: self.switches.saturating_sub(other.switches),
        }
    }
}

/// What a machine's process has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The threads that run the guest's CPUs.
    pub vcpus: Effort,
    /// All others.
    pub vmm: Effort,
}

impl Work {
    /// What was done since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            vcpus: self.vcpus - before.vcpus,
            vmm: self.vmm - before.vmm,
        }
    }
}

/// What the threads of process `pid` have done, of which `vcpus` run the guest.
///
/// # Errors
///
/// When the process is gone, or the kernel does not say.
pub fn work_of(pid: u32, vcpus: &[u32]) -> Result<Work> {
    let directory = PathBuf::from(format!("/proc/{pid}/task"));
    let threads = fs::read_dir(&directory).file("read", &directory)?;
    let mut work = Work::default();
    for thread in threads {
        let path = thread.file("read", &directory)?.path();
        let id = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        // One that has ended meanwhile takes with it what it did.
        let Some([schedstat, status]) = texts_of(&path) else {
            continue;
        };
        let effort = effort(&schedstat, &status)
            .ok_or_else(|| Error::Check(format!("{} does not tell of its work", path.display())))?;
        if id.is_some_and(|id: u32| vcpus.contains(&id)) {
            work.vcpus = work.vcpus + effort;
        } else {
            work.vmm = work.vmm + effort;
        }
    }
    Ok(work)
}

fn texts_of(thread: &Path) -> Option<[String; 2]> {
    let read = |name| fs::read_to_string(thread.join(name)).ok();
    Some([read("schedstat")?, read("status")?])
}

/// From the texts of `schedstat` (nanoseconds on a CPU, waiting for one, times on one) and `status`.
fn effort(schedstat: &str, status: &str) -> Option<Effort> {
    let nanos = schedstat.split_whitespace().next()?.parse().ok()?;
    let switches = status
        .lines()
        .filter_map(|line| line.split_once("voluntary_ctxt_switches:"))
        .map(|(_, count)| count.trim().parse::<u64>());
    let switches: Vec<u64> = switches.collect::<std::result::Result<_, _>>().ok()?;
    Some(Effort {
        time: Duration::from_nanos(nanos),
        switches: (switches.len() == 2).then(|| switches.iter().sum())?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::*;

    const STATUS: &str =
        "Name:\tx\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t30\n";

    #[test]
    fn both_kinds_of_switches_count() {
        let expected = Effort {
            time: Duration::from_nanos(1500),
            switches: 42,
        };
        assert_eq!(effort("1500 20 3\n", STATUS), Some(expected));
    }

    #[test]
    fn kernel_that_counts_nothing_is_not_taken_for_a_thread_that_rests() {
        assert_eq!(effort("1500 20 3\n", "Name:\tx\n"), None);
        assert_eq!(effort("", STATUS), None);
    }

    #[test]
    fn work_of_a_process_grows_when_it_does_some() {
        let mut echo = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipes = (echo.stdin.take().unwrap(), echo.stdout.take().unwrap());
        let mut there_and_back = || {
            pipes.0.write_all(b"!").unwrap();
            pipes.1.read_exact(&mut [0]).unwrap();
        };
        there_and_back();
        let before = work_of(echo.id(), &[]).unwrap();
        // Before one of these at least it has waited.
        for _ in 0..100 {
            there_and_back();
        }
        let done = work_of(echo.id(), &[]).unwrap().since(before);
        drop(pipes);
        echo.wait().unwrap();
        assert!(done.vmm.switches > 0, "{done:?}");
        assert_eq!(done.vcpus, Effort::default());
    }
}
