//! Giving pages of guest memory back to the host.
//!
//! Guest memory is private and anonymous here: `madvise(MADV_DONTNEED)` drops its pages at once,
//! and the next access finds a page of zeroes. The unit is the balloon's page of 4 KiB
//! (virtio 1.2 §5.5.6), whatever the host's page size is. `release` has the calls.

mod release;

use rustix::io::Errno;
use vm_memory::GuestAddress;

pub(crate) use release::Releaser;
pub use release::release_all;

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

/// Neighbouring pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageRun {
    pub(crate) first: Pfn,
    pub(crate) count: u64,
}

/// The longest run that is released at once: 64 MiB, which takes the host some milliseconds.
const MAX_PIECE_PAGES: u32 = 16 << 10;

impl PageRun {
    /// The run in pieces that the host releases in a short time. What is past the last page number
    /// stays with the last piece.
    pub(crate) fn pieces(self) -> impl Iterator<Item = Self> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let run = rest.take()?;
            let next = run.first.0.checked_add(MAX_PIECE_PAGES);
            match next.filter(|_| run.count > MAX_PIECE_PAGES.into()) {
                None => Some(run),
                Some(next) => {
                    rest = Some(Self {
                        first: Pfn(next),
                        count: run.count - u64::from(MAX_PIECE_PAGES),
                    });
                    let count = MAX_PIECE_PAGES.into();
                    Some(Self { count, ..run })
                }
            }
        })
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
    /// Why, of the last.
    pub refusal: Option<Errno>,
    /// System calls made.
    pub calls: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_are_cut_in_pieces_and_lose_nothing() {
        let piece = u64::from(MAX_PIECE_PAGES);
        for (first, count) in [
            (0, 1),
            (7, piece),
            (7, piece + 1),
            (0, 3 * piece),
            (u32::MAX, 1),
            (u32::MAX - MAX_PIECE_PAGES, 1 << 40),
        ] {
            let run = PageRun {
                first: Pfn(first),
                count,
            };
            let pieces: Vec<_> = run.pieces().collect();
            assert_eq!(pieces.iter().map(|piece| piece.count).sum::<u64>(), count);
        }
    }
}
