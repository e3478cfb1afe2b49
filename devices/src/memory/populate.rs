//! Taking memory from the host before the guest touches it.

use std::ffi::c_void;
use std::ops::ControlFlow;
use std::ptr::with_exposed_provenance_mut;

use rustix::io::Errno;
use rustix::mm::{Advice, madvise};

/// What is taken with one system call: the host needs some tens of milliseconds for it. No huge
/// page of 1 GiB is cut.
const PIECE_BYTES: usize = 64 << 20;
/// The distance of what has to be touched where the host knows no better.
const TOUCH_BYTES: usize = 4096;

/// How much of guest memory was taken from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// That much.
    pub done_bytes: u64,
    /// Of so much.
    pub total_bytes: u64,
}

/// Is told of the progress, and says whether to go on.
pub(super) type Watch<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

/// Takes memory for all of `ranges` (address and bytes) in pieces of whole `unit`s; what `watch`
/// wanted in the end.
///
/// # Errors
/// The host's: `FAULT` where its pool of huge pages is empty.
///
/// # Safety
/// The ranges are mapped, and nobody accesses them meanwhile.
pub(super) unsafe fn populate(
    ranges: &[(usize, usize)],
    unit: usize,
    watch: Watch<'_>,
) -> rustix::io::Result<ControlFlow<()>> {
    let total: usize = ranges.iter().map(|(_, bytes)| bytes).sum();
    let mut done = 0;
    let mut touches = false;
    for &(start, bytes) in ranges {
        let piece_bytes = PIECE_BYTES.max(unit);
        for offset in (0..bytes).step_by(piece_bytes) {
            let address = start + offset;
            let piece = piece_bytes.min(bytes - offset);
            // SAFETY: the piece is a part of a range of the caller's.
            unsafe {
                touches = touches || !populate_piece(address, piece)?;
                if touches {
                    touch(address, piece);
                }
            }
            done += piece;
            let progress = Progress {
                done_bytes: u64::try_from(done).unwrap_or(u64::MAX),
                total_bytes: u64::try_from(total).unwrap_or(u64::MAX),
            };
            if watch(progress).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Whether the host knows how to do this; kernels before 5.14 do not.
///
/// # Safety
/// As [`populate`].
unsafe fn populate_piece(address: usize, bytes: usize) -> rustix::io::Result<bool> {
    let pointer = with_exposed_provenance_mut::<c_void>(address);
    loop {
        // SAFETY: populating changes no contents.
        match unsafe { madvise(pointer, bytes, Advice::LinuxPopulateWrite) } {
            Ok(()) => return Ok(true),
            Err(Errno::INVAL) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes into each page what is there. (An atomic operation whose result nobody wants would do that
/// too, but a compiler may leave it out.)
///
/// # Safety
/// As [`populate`], and nobody accesses it at all meanwhile.
unsafe fn touch(address: usize, bytes: usize) {
    for address in (address..address + bytes).step_by(TOUCH_BYTES) {
        let byte = with_exposed_provenance_mut::<u8>(address);
        // SAFETY: the byte is mapped, and nobody else's.
        unsafe { byte.write_volatile(byte.read_volatile()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::backing::Backing;
    use crate::memory::mapping::Mapping;

    const BYTES: usize = 160 << 20;

    fn resident_bytes(mapping: &Mapping) -> u64 {
        crate::memory::ram::tests::resident_bytes(mapping.address(), mapping.bytes())
    }

    #[test]
    fn populated_memory_is_resident_and_the_last_progress_is_all() {
        let mapping = Mapping::new(BYTES, 4096, Backing::Anonymous).unwrap();
        let mut told = Vec::new();
        let ranges = [(mapping.address(), mapping.bytes())];
        let mut watch = |progress: Progress| {
            told.push(progress.done_bytes);
            ControlFlow::Continue(())
        };
        // SAFETY: nobody else knows of the mapping.
        let flow = unsafe { populate(&ranges, 4096, &mut watch) };
        assert_eq!(flow, Ok(ControlFlow::Continue(())));
        assert_eq!(told, [64 << 20, 128 << 20, 160 << 20]);
        assert_eq!(resident_bytes(&mapping), 160 << 20);
    }

    #[test]
    fn populating_ends_when_the_watch_says_so() {
        let mapping = Mapping::new(BYTES, 4096, Backing::Anonymous).unwrap();
        let ranges = [(mapping.address(), mapping.bytes())];
        // SAFETY: nobody else knows of the mapping.
        let flow = unsafe { populate(&ranges, 4096, &mut |_| ControlFlow::Break(())) };
        assert_eq!(flow, Ok(ControlFlow::Break(())));
        assert_eq!(resident_bytes(&mapping), 64 << 20);
    }

    #[test]
    fn touching_makes_memory_resident_and_changes_nothing() {
        let mapping = Mapping::new(1 << 20, 4096, Backing::Memfd).unwrap();
        let byte = with_exposed_provenance_mut::<u8>(mapping.address());
        // SAFETY: nobody else knows of the mapping.
        let left = unsafe {
            byte.write_volatile(7);
            touch(mapping.address(), mapping.bytes());
            byte.read_volatile()
        };
        assert_eq!(left, 7);
        assert_eq!(resident_bytes(&mapping), 1 << 20);
    }
}
