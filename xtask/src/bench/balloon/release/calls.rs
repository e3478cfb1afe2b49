//! The system calls of the device thread, counted by ptrace in a process of their own: whatever the
//! device says of itself, these are the calls that the host sees.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::ptr;

use super::order::{Order, PAGES};
use super::rounds::COUNTED_PAGES;
use crate::error::{Error, Result};
use crate::process;

/// Calls that give memory back to the host.
const RELEASING: [libc::c_long; 3] = [
    libc::SYS_madvise,
    libc::SYS_process_madvise,
    libc::SYS_fallocate,
];
/// What begins and ends a count; see [`super::rounds::run_counted`].
const MARK: libc::c_long = libc::SYS_getppid;
/// What a stop at a system call has in its signal (PTRACE_O_TRACESYSGOOD).
const SYSTEM_CALL: i32 = libc::SIGTRAP | 0x80;

/// Calls of the device thread for a GiB of pages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calls {
    /// The order of the pages.
    pub order: Order,
    /// All of them.
    pub all: f64,
    /// Those that give memory back.
    pub releasing: f64,
}

/// Runs `command`, which gives pages in each order, and counts.
///
/// # Errors
///
/// When it fails, or this user may not trace it.
pub fn count(command: &mut Command) -> Result<Vec<Calls>> {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: only an async-signal-safe system call between fork and exec.
    unsafe { command.pre_exec(|| request(libc::PTRACE_TRACEME, 0, 0)) };
    let mut child = command.spawn().map_err(|source| Error::Start {
        command: process::describe(command),
        source,
    })?;
    let counted = follow(&child);
    if counted.is_err() {
        // It is there still, unless it has ended in a way that was not followed.
        let _ = child.kill();
        let _ = child.wait();
    }
    let counts = counted.map_err(|source| Error::System {
        action: "count system calls by ptrace",
        source,
    })?;
    if counts.len() != Order::ALL.len() {
        return Err(Error::Check(format!(
            "{} ended before all calls were counted",
            process::describe(command)
        )));
    }
    let orders = Order::ALL.into_iter().zip(&counts);
    Ok(orders.map(|(order, count)| per_gib(order, count)).collect())
}

/// How often each system call was made, by its number.
type Count = BTreeMap<i64, u64>;

fn per_gib(order: Order, count: &Count) -> Calls {
    let scaled = |calls: u64| calls as f64 * f64::from(PAGES) / f64::from(COUNTED_PAGES);
    let of = |number: &libc::c_long| count.get(number).copied().unwrap_or(0);
    Calls {
        order,
        all: scaled(count.values().sum()),
        releasing: scaled(RELEASING.iter().map(of).sum()),
    }
}

/// Follows all threads to the end; a count for each pair of marks.
fn follow(child: &Child) -> io::Result<Vec<Count>> {
    let main = i32::try_from(child.id()).map_err(io::Error::other)?;
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    let mut counts = Vec::new();
    let mut open: Option<Count> = None;
    let mut device_thread = None;
    // The first stop is that of its exec.
    let (thread, _) = wait()?;
    request(libc::PTRACE_SETOPTIONS, thread, options.into())?;
    request(libc::PTRACE_SYSCALL, thread, 0)?;
    loop {
        let (thread, status) = wait()?;
        if !libc::WIFSTOPPED(status) {
            if thread == main {
                return Ok(counts);
            }
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let mut passed_on = 0;
        if signal == SYSTEM_CALL {
            if let Some(call) = entered(thread)? {
                if call == MARK && thread == main {
                    match open.take() {
                        Some(count) => counts.push(count),
                        None => open = Some(Count::new()),
                    }
                } else if let Some(count) = &mut open
                    && (device_thread == Some(thread) || is_device_thread(main, thread))
                {
                    device_thread = Some(thread);
                    *count.entry(call).or_default() += 1;
                }
            }
        } else if signal != libc::SIGTRAP && signal != libc::SIGSTOP {
            passed_on = signal.into();
        }
        request(libc::PTRACE_SYSCALL, thread, passed_on)?;
    }
}

fn is_device_thread(process: i32, thread: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{process}/task/{thread}/comm"));
    name.is_ok_and(|name| name.trim() == super::DEVICE_THREAD)
}

/// The number of the system call that a thread is about to make; none at its return from one.
fn entered(thread: i32) -> io::Result<Option<libc::c_long>> {
    // SAFETY: a struct of integers, for which all zeroes are a value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel writes at most `size` bytes into `info`.
    let result = unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO,
            thread,
            size,
            ptr::from_mut(&mut info),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: at an entry this member of the union is what the kernel has written.
    let number = unsafe { info.u.entry.nr };
    Ok(i64::try_from(number).ok())
}

/// A request without an address.
fn request(request: libc::c_uint, thread: i32, data: libc::c_long) -> io::Result<()> {
    // SAFETY: none of the requests that are made here writes to this process's memory.
    match unsafe { libc::ptrace(request, thread, ptr::null_mut::<libc::c_void>(), data) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The next thread that stops or ends, and how; no process that another thread of ours has started.
fn wait() -> io::Result<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the kernel writes an integer.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) } {
        thread @ 1.. => Ok((thread, status)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_scaled_to_a_gib() {
        let count = [(libc::SYS_madvise, 100), (libc::SYS_read, 3)]
            .into_iter()
            .collect();
        let calls = per_gib(Order::Huge, &count);
        assert_eq!((calls.all, calls.releasing), (824.0, 800.0));
    }

    #[test]
    fn process_that_marks_nothing_is_an_error() {
        assert!(count(&mut Command::new("true")).is_err());
    }
}
