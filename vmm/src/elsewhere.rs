//! A thread that works beside the one that has made it.
//!
//! Not every scheduler sees to that: that of a host which packs its work onto few CPUs starts a thread on
//! its maker's, even if others have nothing to do, and lets it run there as soon as its maker waits for a
//! moment. What was to be done meanwhile is done in between then.

use std::fmt;
use std::thread::JoinHandle;

use libc::{CPU_CLR, CPU_COUNT, cpu_set_t};
use vmm_sys_util::signal::Killable;

/// Keeps a thread off the CPU of the one that sent it elsewhere, until this is dropped.
#[must_use]
pub(crate) struct Elsewhere<'a> {
    thread: &'a JoinHandle<()>,
    /// Those of the thread that made it, and so its own.
    allowed: cpu_set_t,
}

impl fmt::Debug for Elsewhere<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elsewhere").finish_non_exhaustive()
    }
}

impl<'a> Elsewhere<'a> {
    /// Sends `thread`, which the caller has just made, to another CPU than the caller's. `None`, and the
    /// thread where it was, if it may use no other.
    pub(crate) fn send(thread: &'a JoinHandle<()>) -> Option<Self> {
        let allowed = own_cpus()?;
        let mut others = allowed;
        // SAFETY: it touches no memory of ours.
        let here = usize::try_from(unsafe { libc::sched_getcpu() }).ok()?;
        if here >= 8 * size_of::<cpu_set_t>() {
            return None;
        }
        // SAFETY: the set is that long.
        unsafe { CPU_CLR(here, &mut others) };
        // SAFETY: it only reads the set.
        let count = unsafe { CPU_COUNT(&others) };
        (count > 0 && confine(thread, &others)).then_some(Self { thread, allowed })
    }
}

impl Drop for Elsewhere<'_> {
    fn drop(&mut self) {
        if !confine(self.thread, &self.allowed) {
            log::debug!("A thread may not use all CPUs any more");
        }
    }
}

/// The CPUs that the calling thread may use; `None` on a host of more than 1024.
fn own_cpus() -> Option<cpu_set_t> {
    // SAFETY: all bits are valid, and those of no CPU are zeroes.
    let mut cpus: cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most so many bytes.
    let outcome = unsafe { libc::sched_getaffinity(0, size_of::<cpu_set_t>(), &raw mut cpus) };
    (outcome == 0).then_some(cpus)
}

/// Lets `thread` use `cpus` only; whether the host does so.
fn confine(thread: &JoinHandle<()>, cpus: &cpu_set_t) -> bool {
    let handle = thread.pthread_handle();
    // SAFETY: the handle is valid until the thread is joined, which takes the `JoinHandle`.
    unsafe { libc::pthread_setaffinity_np(handle, size_of::<cpu_set_t>(), cpus) == 0 }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu};

    use super::*;

    #[test]
    fn thread_is_on_another_cpu_until_it_may_be_anywhere_again() {
        let before = sched_getaffinity(None).unwrap();
        let (ask, asked) = channel();
        let (answer, answered) = channel();
        let thread = thread::spawn(move || {
            for () in asked {
                let allowed: CpuSet = sched_getaffinity(None).unwrap();
                answer.send((sched_getcpu(), allowed)).unwrap();
            }
        });
        let sent = Elsewhere::send(&thread);
        ask.send(()).unwrap();
        let (cpu, allowed) = answered.recv().unwrap();
        // With one CPU there is nowhere to send it to.
        assert_eq!(sent.is_some(), before.count() > 1);
        if sent.is_some() {
            assert_eq!(allowed.count(), before.count() - 1);
            assert!(before.is_set(cpu) && allowed.is_set(cpu));
        }
        drop(sent);
        ask.send(()).unwrap();
        assert_eq!(answered.recv().unwrap().1, before);
        drop(ask);
        thread.join().unwrap();
    }
}
