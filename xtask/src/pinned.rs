//! A process all of whose threads share one CPU of this machine.

use std::process::{Child, Command};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{Error, Result};
use crate::process;

/// Starts `command` on the last CPU that this thread may use; it inherits that for life.
///
/// # Errors
///
/// When it cannot be started, or the kernel refuses to bind this thread to one CPU.
pub fn spawn(command: &mut Command) -> Result<Child> {
    let refused = |source: rustix::io::Errno| Error::System {
        action: "bind a process to one CPU",
        source: source.into(),
    };
    let allowed = sched_getaffinity(None).map_err(refused)?;
    sched_setaffinity(None, &last_of(&allowed)).map_err(refused)?;
    let child = command.spawn();
    sched_setaffinity(None, &allowed).map_err(refused)?;
    child.map_err(|source| Error::Start {
        command: process::describe(command),
        source,
    })
}

fn last_of(allowed: &CpuSet) -> CpuSet {
    let mut one = CpuSet::new();
    if let Some(cpu) = (0..CpuSet::MAX_CPU).rev().find(|cpu| allowed.is_set(*cpu)) {
        one.set(cpu);
    }
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_may_use_one_cpu_and_its_parent_as_many_as_before() {
        let before = sched_getaffinity(None).unwrap().count();
        let mut command = Command::new("sh");
        let mut child = spawn(command.args(["-c", "test $(nproc) = 1"])).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(sched_getaffinity(None).unwrap().count(), before);
    }
}
