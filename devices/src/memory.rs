//! Giving pages of guest memory back to the host.
//!
//! Guest memory is private and anonymous here: `madvise(MADV_DONTNEED)` drops its pages at once,
//! and the next access finds a page of zeroes. The unit is the balloon's page of 4 KiB
//! (virtio 1.2 §5.5.6), whatever the host's page size is.

use std::ffi::c_void;

use rustix::mm::{Advice, madvise};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::GuestMemory;

/// Bytes in a balloon page.
pub const PAGE_SIZE: u64 = 4096;

/// The number of a 4 KiB page of guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pfn(pub u32);

impl Pfn {
    /// The address of the page's first byte.
    #[must_use]
    pub fn address(self) -> GuestAddress {
        GuestAddress(u64::from(self.0) * PAGE_SIZE)
    }
}

/// What became of pages that were to be released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRelease {
    /// Pages handed to the host.
    pub released_pages: u64,
    /// Pages that are no guest memory.
    pub outside_pages: u64,
    /// Pages that the host refused.
    pub refused_pages: u64,
    /// System calls made.
    pub calls: u64,
}

impl PageRelease {
    /// Adds what another release did.
    pub(crate) fn add(&mut self, other: Self) {
        self.released_pages += other.released_pages;
        self.outside_pages += other.outside_pages;
        self.refused_pages += other.refused_pages;
        self.calls += other.calls;
    }
}

/// Releases `count` pages from `first`, with one call for each memory region that they touch.
pub(crate) fn release_run(memory: &GuestMemory, first: Pfn, count: u64) -> PageRelease {
    let mut result = PageRelease::default();
    let start = first.address().raw_value();
    let end = start.saturating_add(count.saturating_mul(PAGE_SIZE));
    for region in memory.iter() {
        let region_start = region.start_addr().raw_value();
        let from = start.max(region_start);
        let to = end.min(region_start + region.len());
        if from < to {
            let pages = (to - from) / PAGE_SIZE;
            result.calls += 1;
            if discard(memory, GuestAddress(from), to - from) {
                result.released_pages += pages;
            } else {
                result.refused_pages += pages;
            }
        }
    }
    result.outside_pages = count - result.released_pages - result.refused_pages;
    result
}

/// Releases all of guest memory, as a reset of the machine does.
pub fn release_all(memory: &GuestMemory) -> PageRelease {
    let mut result = PageRelease::default();
    for region in memory.iter() {
        let pages = region.len() / PAGE_SIZE;
        result.calls += 1;
        if discard(memory, region.start_addr(), region.len()) {
            result.released_pages += pages;
        } else {
            result.refused_pages += pages;
        }
    }
    result
}

/// Drops the contents of a range inside one region; whether the host did so.
fn discard(memory: &GuestMemory, start: GuestAddress, bytes: u64) -> bool {
    let Ok(length) = usize::try_from(bytes) else {
        return false;
    };
    let Ok(slice) = memory.get_slice(start, length) else {
        return false;
    };
    let pointer = slice.ptr_guard_mut().as_ptr().cast::<c_void>();
    // SAFETY: the slice proves that the whole range is mapped guest memory. Nothing in this
    // process holds a reference into guest memory: it is only accessed through vm-memory's
    // volatile operations, for which contents that turn to zero are as good as a guest's write.
    match unsafe { madvise(pointer, length, Advice::LinuxDontNeed) } {
        Ok(()) => true,
        Err(error) => {
            log::warn!("Cannot release {bytes} bytes of guest memory: {error}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    /// 16 pages at 0 and 16 more from page 32.
    fn memory() -> GuestMemory {
        let region = 16 * usize::try_from(PAGE_SIZE).unwrap();
        let second = Pfn(32).address();
        GuestMemory::from_ranges(&[(GuestAddress(0), region), (second, region)]).unwrap()
    }

    #[test]
    fn all_memory_is_released_with_a_call_a_region() {
        let memory = memory();
        for pfn in [Pfn(0), Pfn(15), Pfn(32), Pfn(47)] {
            memory.write_obj(1u64, pfn.address()).unwrap();
        }
        let release = release_all(&memory);
        assert_eq!((release.released_pages, release.calls), (32, 2));
        let left = [Pfn(0), Pfn(15), Pfn(32), Pfn(47)].map(|pfn| written(&memory, pfn));
        assert_eq!(left, [false; 4]);
    }

    fn written(memory: &GuestMemory, pfn: Pfn) -> bool {
        memory.read_obj::<u64>(pfn.address()).unwrap() != 0
    }

    fn write_all(memory: &GuestMemory) {
        for pfn in (0..16).chain(32..48) {
            memory.write_obj(u64::MAX, Pfn(pfn).address()).unwrap();
        }
    }

    #[test]
    fn released_pages_read_zero_and_their_neighbours_keep_their_contents() {
        let memory = memory();
        write_all(&memory);
        let result = release_run(&memory, Pfn(2), 3);
        assert_eq!(
            result,
            PageRelease {
                released_pages: 3,
                calls: 1,
                ..Default::default()
            }
        );
        let still_written: Vec<_> = (0..7).filter(|&pfn| written(&memory, Pfn(pfn))).collect();
        assert_eq!(still_written, [0, 1, 5, 6]);
    }

    #[test]
    fn run_across_the_hole_releases_both_sides_and_counts_the_hole() {
        let memory = memory();
        write_all(&memory);
        let result = release_run(&memory, Pfn(14), 20);
        let expected = PageRelease {
            released_pages: 4,
            outside_pages: 16,
            refused_pages: 0,
            calls: 2,
        };
        assert_eq!(result, expected);
        assert!(!written(&memory, Pfn(33)) && written(&memory, Pfn(34)));
    }

    #[test]
    fn run_at_the_last_page_number_is_outside() {
        let result = release_run(&memory(), Pfn(u32::MAX), 1);
        assert_eq!(
            result,
            PageRelease {
                outside_pages: 1,
                ..Default::default()
            }
        );
    }
}
