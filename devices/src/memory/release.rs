//! Many ranges of guest memory given back with few system calls.
//!
//! A run of neighbouring pages is one call however long it is; what is scattered goes as a vector
//! of ranges in one `process_madvise` of the process on itself. Kernels that do not take pages that
//! way are asked once; there each range is a call of its own.

use std::ffi::c_void;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{Advice, madvise};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::{PAGE_SIZE, PageRelease, PageRun};
use crate::GuestMemory;

/// The most ranges in a vector: UIO_MAXIOV of Linux.
const MAX_RANGES: usize = 1024;
/// The most bytes in a vector, unless one range has more: the host is done with them in some
/// milliseconds.
const MAX_VECTOR_BYTES: usize = 64 << 20;

/// A range of this process's memory.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: *mut c_void,
    bytes: usize,
}

/// Gives guest memory back to the host.
#[derive(Debug)]
pub(crate) struct Releaser {
    memory: GuestMemory,
    /// This process, if the kernel has a name for it.
    process: OnceLock<Option<OwnedFd>>,
    takes_vectors: AtomicBool,
}

impl Releaser {
    pub(crate) fn new(memory: GuestMemory) -> Self {
        Self {
            memory,
            process: OnceLock::new(),
            takes_vectors: AtomicBool::new(true),
        }
    }

    /// Releases runs, each in pieces that do not take long. `is_halted` is asked before each call;
    /// `None` if it was true, with part of the runs released.
    pub(crate) fn release(
        &self,
        runs: impl Iterator<Item = PageRun>,
        is_halted: impl Fn() -> bool,
    ) -> Option<PageRelease> {
        let mut result = PageRelease::default();
        let mut vector = Vec::new();
        let mut vector_bytes = 0;
        for run in runs.flat_map(PageRun::pieces) {
            let mut inside = 0;
            for range in self.ranges(run) {
                inside += pages(range.bytes);
                if vector.len() == MAX_RANGES || vector_bytes + range.bytes > MAX_VECTOR_BYTES {
                    if is_halted() {
                        return None;
                    }
                    self.flush(&mut vector, &mut result);
                    vector_bytes = 0;
                }
                vector_bytes += range.bytes;
                vector.push(range);
            }
            result.outside_pages += run.count.saturating_sub(inside);
        }
        if !vector.is_empty() && is_halted() {
            return None;
        }
        self.flush(&mut vector, &mut result);
        Some(result)
    }

    /// The parts of a run that are guest memory: one for each region that it touches.
    fn ranges(&self, run: PageRun) -> impl Iterator<Item = Range> + '_ {
        let start = run.first.address().raw_value();
        let end = start.saturating_add(run.count.saturating_mul(PAGE_SIZE));
        self.memory.iter().filter_map(move |region| {
            let region_start = region.start_addr().raw_value();
            let from = start.max(region_start);
            let to = end.min(region_start + region.len());
            let bytes = to.checked_sub(from).filter(|bytes| *bytes > 0)?;
            range(&self.memory, GuestAddress(from), bytes)
        })
    }

    /// Releases what is in `vector`, and empties it.
    fn flush(&self, vector: &mut Vec<Range>, result: &mut PageRelease) {
        let mut ranges = vector.as_mut_slice();
        while let [first, ..] = *ranges {
            let done = match ranges.len() {
                1 => None,
                _ => self.release_vector(ranges, result),
            };
            // At least the first, so that this ends.
            let done = done.unwrap_or_else(|| {
                release_range(first, result);
                first.bytes
            });
            ranges = rest(ranges, done);
        }
        vector.clear();
    }

    /// How many bytes of the vector the host has taken; `None` if it did not take the first.
    fn release_vector(&self, ranges: &[Range], result: &mut PageRelease) -> Option<usize> {
        if !self.takes_vectors.load(Ordering::Relaxed) {
            return None;
        }
        let process = self
            .process
            .get_or_init(|| pidfd_open(getpid(), PidfdFlags::empty()).ok());
        let vector: Vec<libc::iovec> = ranges
            .iter()
            .map(|range| libc::iovec {
                iov_base: range.start,
                iov_len: range.bytes,
            })
            .collect();
        result.calls += 1;
        let process = process.as_ref().map_or(-1, OwnedFd::as_raw_fd);
        // SAFETY: the vector lives for the call, and its ranges are mapped guest memory, of which
        // `release_range` says why it may be dropped.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                process,
                vector.as_ptr(),
                vector.len(),
                libc::MADV_DONTNEED,
                0,
            )
        };
        match usize::try_from(done) {
            Ok(done) if done > 0 => {
                result.released_pages += pages(done);
                Some(done)
            }
            _ => {
                // Whatever this kernel misses, it will miss again.
                self.takes_vectors.store(false, Ordering::Relaxed);
                None
            }
        }
    }
}

/// Releases all of guest memory, as a reset of the machine does.
pub fn release_all(memory: &GuestMemory) -> PageRelease {
    let mut result = PageRelease::default();
    for region in memory.iter() {
        if let Some(range) = range(memory, region.start_addr(), region.len()) {
            release_range(range, &mut result);
        }
    }
    result
}

/// The memory of this process behind `bytes` of guest memory, all in one region.
fn range(memory: &GuestMemory, start: GuestAddress, bytes: u64) -> Option<Range> {
    let bytes = usize::try_from(bytes).ok()?;
    let slice = memory.get_slice(start, bytes).ok()?;
    let start = slice.ptr_guard_mut().as_ptr().cast();
    Some(Range { start, bytes })
}

/// Releases one range.
fn release_range(range: Range, result: &mut PageRelease) {
    result.calls += 1;
    // SAFETY: the range is mapped guest memory. Nothing in this process holds a reference into
    // guest memory: it is only accessed through vm-memory's volatile operations, for which contents
    // that turn to zero are as good as a guest's write.
    match unsafe { madvise(range.start, range.bytes, Advice::LinuxDontNeed) } {
        Ok(()) => result.released_pages += pages(range.bytes),
        Err(error) => {
            result.refused_pages += pages(range.bytes);
            result.refusal = Some(error);
        }
    }
}

/// What is left of `ranges` behind the first `done` bytes.
fn rest(ranges: &mut [Range], mut done: usize) -> &mut [Range] {
    let whole = ranges
        .iter()
        .take_while(|range| {
            let is_whole = range.bytes <= done;
            done -= if is_whole { range.bytes } else { 0 };
            is_whole
        })
        .count();
    let rest = &mut ranges[whole..];
    if let [first, ..] = rest {
        first.start = first.start.wrapping_byte_add(done);
        first.bytes -= done;
    }
    rest
}

fn pages(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX) / PAGE_SIZE
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use vm_memory::Bytes;

    use super::*;
    use crate::Pfn;

    /// 16 pages at 0 and 16 more from page 32.
    fn memory() -> GuestMemory {
        let region = 16 * usize::try_from(PAGE_SIZE).unwrap();
        let second = Pfn(32).address();
        GuestMemory::from_ranges(&[(GuestAddress(0), region), (second, region)]).unwrap()
    }

    fn all_pages() -> impl Iterator<Item = u32> {
        (0..16).chain(32..48)
    }

    /// One of memory that is written all over.
    fn releaser() -> Releaser {
        let memory = memory();
        for pfn in all_pages() {
            memory.write_obj(u64::MAX, Pfn(pfn).address()).unwrap();
        }
        Releaser::new(memory)
    }

    fn run(first: u32, count: u64) -> PageRun {
        let first = Pfn(first);
        PageRun { first, count }
    }

    fn release(releaser: &Releaser, runs: &[PageRun]) -> PageRelease {
        releaser.release(runs.iter().copied(), || false).unwrap()
    }

    fn gone(releaser: &Releaser) -> Vec<u32> {
        let is_gone = |pfn: &u32| {
            let value: u64 = releaser.memory.read_obj(Pfn(*pfn).address()).unwrap();
            value == 0
        };
        all_pages().filter(is_gone).collect()
    }

    #[test]
    fn all_memory_is_released_with_a_call_a_region() {
        let releaser = releaser();
        let release = release_all(&releaser.memory);
        assert_eq!((release.released_pages, release.calls), (32, 2));
        assert_eq!(gone(&releaser).len(), 32);
    }

    #[test]
    fn released_pages_read_zero_and_their_neighbours_keep_their_contents() {
        let releaser = releaser();
        let expected = PageRelease {
            released_pages: 3,
            calls: 1,
            ..Default::default()
        };
        assert_eq!(release(&releaser, &[run(2, 3)]), expected);
        assert_eq!(gone(&releaser), [2, 3, 4]);
    }

    #[test]
    fn scattered_pages_are_released_with_or_without_vectors() {
        let runs = [run(1, 1), run(3, 2), run(9, 1), run(40, 3)];
        let expected = [1, 3, 4, 9, 40, 41, 42];
        let with = releaser();
        let without = releaser();
        without.takes_vectors.store(false, Ordering::Relaxed);
        assert_eq!(release(&with, &runs).released_pages, 7);
        let calls = release(&without, &runs);
        assert_eq!((calls.released_pages, calls.calls), (7, 4));
        assert_eq!(
            (gone(&with), gone(&without)),
            (expected.into(), expected.into())
        );
    }

    #[test]
    fn kernel_that_takes_no_vectors_is_asked_once() {
        let releaser = releaser();
        // As if this process had no name.
        releaser.process.set(None).unwrap();
        let runs = [run(1, 1), run(3, 1)];
        assert_eq!(release(&releaser, &runs).calls, 3);
        assert_eq!(release(&releaser, &runs).calls, 2);
        assert_eq!(gone(&releaser), [1, 3]);
    }

    #[test]
    fn run_across_the_hole_releases_both_sides_and_counts_the_hole() {
        let releaser = releaser();
        let result = release(&releaser, &[run(14, 20)]);
        assert_eq!((result.released_pages, result.outside_pages), (4, 16));
        assert_eq!(gone(&releaser), [14, 15, 32, 33]);
    }

    #[test]
    fn run_at_the_last_page_number_is_outside() {
        let expected = PageRelease {
            outside_pages: 1,
            ..Default::default()
        };
        assert_eq!(release(&releaser(), &[run(u32::MAX, 1)]), expected);
    }

    #[test]
    fn nothing_is_released_once_it_is_halted() {
        let releaser = releaser();
        let asked = Cell::new(0);
        let result = releaser.release([run(0, 4)].into_iter(), || {
            asked.set(asked.get() + 1);
            true
        });
        assert_eq!((result, asked.get()), (None, 1));
        assert!(gone(&releaser).is_empty());
    }

    #[test]
    fn rest_of_a_vector_begins_behind_what_is_done() {
        let range = |start: usize, bytes| Range {
            start: std::ptr::without_provenance_mut(start),
            bytes,
        };
        let left = |done| {
            let mut ranges = [range(0x1000, 0x1000), range(0x5000, 0x3000)];
            let rest = rest(&mut ranges, done);
            let rest = rest.iter().map(|range| (range.start.addr(), range.bytes));
            rest.collect::<Vec<_>>()
        };
        assert_eq!(left(0x1000), [(0x5000, 0x3000)]);
        assert_eq!(left(0x2000), [(0x6000, 0x2000)]);
        assert_eq!(left(0x4000), []);
    }

    proptest! {
        #[test]
        fn exactly_the_pages_of_the_runs_are_released(
            runs in proptest::collection::vec((0..60u32, 1..9u64), 0..20),
            takes_vectors: bool,
        ) {
            let releaser = releaser();
            releaser.takes_vectors.store(takes_vectors, Ordering::Relaxed);
            let runs: Vec<_> = runs.into_iter().map(|(first, count)| run(first, count)).collect();
            let result = release(&releaser, &runs);
            let is_in = |pfn: u64| {
                let is_in = |run: &PageRun| (u64::from(run.first.0)..u64::from(run.first.0) + run.count).contains(&pfn);
                runs.iter().any(is_in)
            };
            let expected: Vec<_> = all_pages().filter(|pfn| is_in((*pfn).into())).collect();
            prop_assert_eq!(gone(&releaser), expected);
            let counted = result.released_pages + result.outside_pages;
            prop_assert_eq!(counted, runs.iter().map(|run| run.count).sum::<u64>());
        }
    }
}
