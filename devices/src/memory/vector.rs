//! Many ranges of memory with one system call: `process_madvise` on the process itself.
//!
//! Linux takes advice that drops pages this way from 6.13 on. Where it does not, each range gets a
//! call of its own.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::mm::Advice;
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::release::{GivenUp, PageRelease};
use crate::PAGE_SIZE;

/// The most ranges in a call (`UIO_MAXIOV`).
pub(super) const MAX_RANGES: usize = 1024;

/// A range of this process's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostRange {
    pub(super) address: usize,
    pub(super) bytes: usize,
}

impl HostRange {
    fn pages(self) -> u64 {
        u64::try_from(self.bytes).unwrap_or(u64::MAX) / PAGE_SIZE
    }
}

/// How ranges get to the host: several at once, of which it says how many bytes it has done, or one.
pub(super) trait Host {
    /// Several ranges at once.
    fn many(&self, ranges: &[HostRange]) -> rustix::io::Result<usize>;
    /// One range.
    fn one(&self, range: HostRange) -> rustix::io::Result<()>;
    /// Is told of a range that the host refused.
    fn refused(&self, range: HostRange, error: Errno);
}

/// The way to advise on many ranges, for as long as the host takes it.
#[derive(Debug)]
pub(super) struct Vectored {
    /// This process, if the kernel has a name for it.
    process: OnceLock<Option<OwnedFd>>,
    works: AtomicBool,
}

impl Vectored {
    pub(super) fn new() -> Self {
        Self {
            process: OnceLock::new(),
            works: AtomicBool::new(true),
        }
    }

    /// Whether the host has not refused vectors so far.
    #[cfg(test)]
    pub(super) fn works(&self) -> bool {
        self.works.load(Ordering::Relaxed)
    }

    /// As if the host had refused vectors.
    #[cfg(test)]
    pub(super) fn give_up(&self) {
        self.works.store(false, Ordering::Relaxed);
    }

    /// Gives advice on all of `ranges`, which may be done in part: the bytes that are done.
    ///
    /// # Safety
    /// The advice may be given on each of the ranges.
    pub(super) unsafe fn advise(
        &self,
        ranges: &[HostRange],
        advice: Advice,
    ) -> rustix::io::Result<usize> {
        let open = || pidfd_open(getpid(), PidfdFlags::empty()).ok();
        let process = self.process.get_or_init(open).as_ref();
        let process = process.ok_or(Errno::NOSYS)?;
        let vector: Vec<_> = ranges
            .iter()
            .map(|range| libc::iovec {
                iov_base: std::ptr::with_exposed_provenance_mut(range.address),
                iov_len: range.bytes,
            })
            .collect();
        // SAFETY: the vector lives over the call and is as long as is said; the advice is the
        // caller's.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                process.as_raw_fd(),
                vector.as_ptr(),
                vector.len(),
                advice as libc::c_int,
                0,
            )
        };
        usize::try_from(done).map_err(|_| {
            let error = std::io::Error::last_os_error();
            Errno::from_io_error(&error).unwrap_or(Errno::IO)
        })
    }

    /// Hands `ranges`, at most [`MAX_RANGES`], to `host`, and adds up what becomes of them. Between
    /// two system calls it may be given up.
    pub(super) fn release(
        &self,
        mut ranges: &[HostRange],
        host: &impl Host,
        give_up: &dyn Fn() -> bool,
        total: &mut PageRelease,
    ) -> Result<(), GivenUp> {
        while let Some((&first, others)) = ranges.split_first() {
            if give_up() {
                return Err(GivenUp);
            }
            total.calls += 1;
            if !others.is_empty() && self.works.load(Ordering::Relaxed) {
                let done = self.many(ranges, host);
                if done > 0 {
                    let (done, rest) = ranges.split_at(done);
                    total.released_pages += done.iter().map(|range| range.pages()).sum::<u64>();
                    ranges = rest;
                    continue;
                }
                // The first range is what the host does not like, or the vector.
                total.calls += 1;
            }
            match host.one(first) {
                Ok(()) => total.released_pages += first.pages(),
                Err(error) => {
                    total.refused_pages += first.pages();
                    host.refused(first, error);
                }
            }
            ranges = others;
        }
        Ok(())
    }

    /// How many of `ranges`, from the first on, are done.
    fn many(&self, ranges: &[HostRange], host: &impl Host) -> usize {
        let mut done_bytes = match host.many(ranges) {
            Ok(done_bytes) => done_bytes,
            Err(error) => {
                // Nothing that a range can be the reason of, but for the first: then we lose speed.
                if [Errno::INVAL, Errno::PERM, Errno::NOSYS].contains(&error) {
                    log::info!("Guest memory is released range by range: {error}");
                    self.works.store(false, Ordering::Relaxed);
                }
                return 0;
            }
        };
        let is_done = |range: &HostRange| {
            let left = done_bytes.checked_sub(range.bytes);
            done_bytes = left.unwrap_or(0);
            left.is_some()
        };
        let not_done = |done: bool| !done;
        let first = ranges.iter().map(is_done).position(not_done);
        first.unwrap_or(ranges.len())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A host that takes vectors in part, refuses single ranges, or knows no vectors.
    #[derive(Default)]
    struct FakeHost {
        vectors: Option<Errno>,
        /// The bytes that a vector does at most.
        at_most: Option<usize>,
        refuses: Vec<usize>,
        calls: RefCell<Vec<(usize, usize)>>,
        refused: RefCell<Vec<usize>>,
    }

    impl Host for FakeHost {
        fn many(&self, ranges: &[HostRange]) -> rustix::io::Result<usize> {
            self.calls
                .borrow_mut()
                .push((ranges[0].address, ranges.len()));
            if let Some(error) = self.vectors {
                return Err(error);
            }
            let is_fine = |range: &&HostRange| !self.refuses.contains(&range.address);
            let done = ranges.iter().take_while(is_fine);
            let done = done.map(|range| range.bytes).sum::<usize>();
            let done = done.min(self.at_most.unwrap_or(usize::MAX));
            (done > 0).then_some(done).ok_or(Errno::NOMEM)
        }

        fn one(&self, range: HostRange) -> rustix::io::Result<()> {
            self.calls.borrow_mut().push((range.address, 1));
            match self.refuses.contains(&range.address) {
                true => Err(Errno::NOMEM),
                false => Ok(()),
            }
        }

        fn refused(&self, range: HostRange, _error: Errno) {
            self.refused.borrow_mut().push(range.address);
        }
    }

    /// Four ranges of two pages, at addresses 0 to 3.
    fn ranges() -> [HostRange; 4] {
        [0, 1, 2, 3].map(|address| HostRange {
            address,
            bytes: 8192,
        })
    }

    fn release(vectored: &Vectored, host: &FakeHost) -> PageRelease {
        let mut total = PageRelease::default();
        let done = vectored.release(&ranges(), host, &|| false, &mut total);
        assert_eq!(done, Ok(()));
        total
    }

    #[test]
    fn all_ranges_go_with_one_call() {
        let host = FakeHost::default();
        let total = release(&Vectored::new(), &host);
        assert_eq!((total.released_pages, total.calls), (8, 1));
        assert_eq!(*host.calls.borrow(), [(0, 4)]);
    }

    #[test]
    fn what_was_done_in_part_is_gone_on_with_behind_that() {
        // The second range was begun: it is done again.
        let host = FakeHost {
            at_most: Some(8192 + 4096),
            ..FakeHost::default()
        };
        let total = release(&Vectored::new(), &host);
        assert_eq!((total.released_pages, total.refused_pages), (8, 0));
        assert_eq!(*host.calls.borrow(), [(0, 4), (1, 3), (2, 2), (3, 1)]);
    }

    #[test]
    fn refused_range_is_counted_and_the_others_are_released() {
        let host = FakeHost {
            refuses: vec![1],
            ..FakeHost::default()
        };
        let vectored = Vectored::new();
        let total = release(&vectored, &host);
        assert_eq!((total.released_pages, total.refused_pages), (6, 2));
        assert_eq!(*host.refused.borrow(), [1]);
        assert!(vectored.works());
    }

    #[test]
    fn host_without_vectors_is_asked_for_one_only_once() {
        for error in [Errno::INVAL, Errno::PERM, Errno::NOSYS] {
            let host = FakeHost {
                vectors: Some(error),
                ..FakeHost::default()
            };
            let vectored = Vectored::new();
            let total = release(&vectored, &host);
            assert_eq!((total.released_pages, total.calls), (8, 5));
            let total = release(&vectored, &host);
            assert_eq!((total.released_pages, total.calls), (8, 4));
        }
    }

    #[test]
    fn release_is_given_up_between_two_calls() {
        let host = FakeHost {
            at_most: Some(8192),
            ..FakeHost::default()
        };
        let give_up = || host.calls.borrow().len() == 2;
        let mut total = PageRelease::default();
        let done = Vectored::new().release(&ranges(), &host, &give_up, &mut total);
        assert_eq!(done, Err(GivenUp));
        assert_eq!(total.released_pages, 4);
    }
}
