//! How pieces of guest memory go back to the host, and what becomes of them.

use std::ptr::with_exposed_provenance_mut;

use rustix::io::Errno;
use rustix::mm::{Advice, madvise};

use super::backing::{Backing, HugePageSize};
use super::part::Piece;
use super::ram::Ram;
use super::vector::{Host, HostRange};

/// What became of pages that were to be released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRelease {
    /// Pages handed to the host.
    pub released_pages: u64,
    /// Pages that are no guest memory.
    pub outside_pages: u64,
    /// Pages that the host refused.
    pub refused_pages: u64,
    /// Pages of huge pages that were not to be released as a whole, where they cannot be released
    /// otherwise.
    pub partial_pages: u64,
    /// System calls made.
    pub calls: u64,
}

impl PageRelease {
    /// All pages that were to be released.
    pub(super) fn pages(&self) -> u64 {
        self.released_pages + self.outside_pages + self.refused_pages + self.partial_pages
    }
}

/// A release was ended before its time, at the wish of whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the release was given up")]
pub struct GivenUp;

impl Ram {
    /// Releases pieces with as few system calls as the backing allows.
    ///
    /// # Errors
    /// `give_up` said yes.
    pub(super) fn release_pieces(
        &self,
        pieces: &[Piece<'_>],
        give_up: &dyn Fn() -> bool,
        total: &mut PageRelease,
    ) -> Result<(), GivenUp> {
        if self.options.backing == Backing::Anonymous {
            let ranges: Vec<_> = pieces.iter().map(|piece| piece.host_range()).collect();
            return self.vectored.release(&ranges, self, give_up, total);
        }
        for piece in pieces {
            if give_up() {
                return Err(GivenUp);
            }
            self.release_piece(*piece, total);
        }
        Ok(())
    }

    /// Gives all of a part back, with one system call: of huge pages of the pool what has been
    /// touched, so that the rest stays reserved for the guest.
    pub(super) fn release_all(&self, all: Piece<'_>, total: &mut PageRelease) {
        if self.options.backing == Backing::Anonymous {
            // Nobody gives this up.
            let _ = self.release_pieces(&[all], &|| false, total);
        } else {
            let punched = self.punch(all, total);
            self.record(all, punched, total);
        }
    }

    /// Releases a piece of a file, reserved or not.
    fn release_piece(&self, piece: Piece<'_>, total: &mut PageRelease) {
        if let Backing::HugeTlb(size) = self.options.backing {
            self.fill(piece, size, total);
        }
        let punched = self.punch(piece, total);
        self.record(piece, punched, total);
    }

    fn record(&self, piece: Piece<'_>, punched: rustix::io::Result<()>, total: &mut PageRelease) {
        match punched {
            Ok(()) => total.released_pages += piece.pages(),
            Err(error) => {
                total.refused_pages += piece.pages();
                self.refused(piece.host_range(), error);
            }
        }
    }

    /// Takes a piece out of its file. A hole leaves alone what is reserved and was never touched.
    fn punch(&self, piece: Piece<'_>, total: &mut PageRelease) -> rustix::io::Result<()> {
        let mapping = piece.part.mapping.as_ref().ok_or(Errno::BADF)?;
        total.calls += 1;
        mapping.punch(piece.offset, piece.bytes)
    }

    /// Puts a huge page wherever one is reserved, so that a hole gives it back.
    fn fill(&self, piece: Piece<'_>, size: HugePageSize, total: &mut PageRelease) {
        let Some(mapping) = piece.part.mapping.as_ref() else {
            return;
        };
        total.calls += 1;
        if mapping.allocate(piece.offset, piece.bytes).is_ok() {
            return;
        }
        // The pool has nothing left for one that is not reserved, which has nothing to give back
        // either. Those behind it may have.
        let end = piece.offset + piece.bytes;
        let step = usize::try_from(size.bytes()).unwrap_or(usize::MAX);
        for offset in (piece.offset..end).step_by(step) {
            total.calls += 1;
            let _ = mapping.allocate(offset, size.bytes());
        }
    }

    /// What drops anonymous memory.
    fn advice(&self) -> Advice {
        match self.options.lock {
            true => Advice::LinuxDontneedLocked,
            false => Advice::LinuxDontNeed,
        }
    }
}

/// Of anonymous memory.
impl Host for Ram {
    fn many(&self, ranges: &[HostRange]) -> rustix::io::Result<usize> {
        // SAFETY: as in `one`.
        unsafe { self.vectored.advise(ranges, self.advice()) }
    }

    fn one(&self, range: HostRange) -> rustix::io::Result<()> {
        let pointer = with_exposed_provenance_mut(range.address);
        // SAFETY: the range is mapped guest memory. Nothing in this process holds a reference into
        // guest memory: it is only accessed through vm-memory's volatile operations, for which
        // contents that turn to zero are as good as a guest's write.
        unsafe { madvise(pointer, range.bytes, self.advice()) }
    }

    fn refused(&self, range: HostRange, error: Errno) {
        let bytes = range.bytes;
        self.faults
            .record(|| format!("{bytes} bytes cannot be released: {error}"));
    }
}
