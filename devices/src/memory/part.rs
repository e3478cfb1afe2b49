//! A part of guest memory: one mapping, on one side of the hole.

use std::io;
use std::ops::Range;
use std::ptr::with_exposed_provenance_mut;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mm::{Advice, MlockFlags, madvise, mlock_with};
use rustix::process::{Resource, getrlimit};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestRegionMmap};

use super::PAGE_SIZE;
use super::backing::{Backing, Granularity, RamOptions};
use super::error::RamError;
use super::mapping::{Keeper, Mapping};
use super::run::PageRun;
use super::vector::HostRange;

/// The most pages that go with one system call, unless a huge page has more: 64 MiB, which takes
/// the host some milliseconds.
pub(super) const MAX_CALL_PAGES: u64 = 16 << 10;

/// A range of guest memory that is one mapping.
#[derive(Debug)]
pub(super) struct Part {
    /// Where the guest has it.
    pub(super) start: u64,
    pub(super) bytes: u64,
    /// Where this process has it.
    pub(super) address: usize,
    /// None for what vm-memory has mapped: it has no file.
    pub(super) mapping: Option<Arc<Mapping>>,
}

/// A range of one part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub(super) part: &'a Part,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl Piece<'_> {
    pub(super) fn pages(self) -> u64 {
        self.bytes / PAGE_SIZE
    }

    pub(super) fn host_range(self) -> HostRange {
        // A part is mapped, so both numbers fit.
        HostRange {
            address: self.part.address + usize::try_from(self.offset).unwrap_or(0),
            bytes: usize::try_from(self.bytes).unwrap_or(0),
        }
    }
}

impl Part {
    /// Maps `bytes` for what the guest has at `start`.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn map(start: u64, bytes: u64, options: RamOptions) -> io::Result<Self> {
        let too_large = |_| io::Error::from(Errno::NOMEM);
        let length = usize::try_from(bytes).map_err(too_large)?;
        let alignment = usize::try_from(options.alignment()).map_err(too_large)?;
        let mapping = Mapping::new(length, alignment, options.backing)?;
        Ok(Self {
            start,
            bytes,
            address: mapping.address(),
            mapping: Some(Arc::new(mapping)),
        })
    }

    /// Whether the host takes its addresses for those of huge pages, or for none, as `options` say.
    ///
    /// # Errors
    /// The host's, when it knows no transparent huge pages.
    pub(super) fn advise_huge_pages(&self, options: RamOptions) -> rustix::io::Result<()> {
        let advice = match (options.backing, options.thp) {
            (Backing::HugeTlb(_), _) | (_, None) => return Ok(()),
            (_, Some(true)) => Advice::LinuxHugepage,
            (_, Some(false)) => Advice::LinuxNoHugepage,
        };
        self.advise(advice)
    }

    /// Locks what is there, and everything else when it comes, as far as `options` say so.
    ///
    /// # Errors
    /// When the process may not lock `total` bytes, or what is locked could not be given back.
    pub(super) fn lock(&self, options: RamOptions, total: u64) -> Result<(), RamError> {
        // Huge pages of the pool are never swapped, and the host would count them for nothing.
        if !options.lock || matches!(options.backing, Backing::HugeTlb(_)) {
            return Ok(());
        }
        let range = self.whole().host_range();
        let pointer = with_exposed_provenance_mut(range.address);
        // SAFETY: the range is this part's, and no contents change.
        let locked = unsafe { mlock_with(pointer, range.bytes, MlockFlags::ONFAULT) };
        locked.map_err(|error| RamError::Lock {
            bytes: total,
            limit: getrlimit(Resource::Memlock).current,
            source: error.into(),
        })?;
        if options.backing == Backing::Anonymous {
            // Nothing is there yet: this is to see whether the host knows the advice.
            self.advise(Advice::LinuxDontneedLocked)
                .map_err(|error| RamError::LockedForGood(error.into()))?;
        }
        Ok(())
    }

    /// Advice on memory that no guest has yet.
    fn advise(&self, advice: Advice) -> rustix::io::Result<()> {
        let range = self.whole().host_range();
        let pointer = with_exposed_provenance_mut(range.address);
        // SAFETY: the range is this part's, of which nobody else knows yet.
        unsafe { madvise(pointer, range.bytes, advice) }
    }

    /// All of it.
    pub(super) fn whole(&self) -> Piece<'_> {
        Piece {
            part: self,
            offset: 0,
            bytes: self.bytes,
        }
    }

    /// Where this process has it.
    pub(super) fn addresses(&self) -> Range<usize> {
        let range = self.whole().host_range();
        range.address..range.address + range.bytes
    }

    /// `run`, which is in this part, in pieces for one call each.
    pub(super) fn pieces(
        &self,
        run: PageRun,
        granularity: Granularity,
    ) -> impl Iterator<Item = Piece<'_>> {
        let (run, limit) = match granularity {
            Granularity::Pages | Granularity::BetterWhole(_) => (Some(run), MAX_CALL_PAGES),
            Granularity::OnlyWhole(size) => (run.whole(size), MAX_CALL_PAGES.max(size.into())),
        };
        let pieces = run.into_iter().flat_map(move |run| run.pieces(limit));
        pieces.map(|run| Piece {
            part: self,
            offset: run.first.address().0 - self.start,
            bytes: run.count * PAGE_SIZE,
        })
    }

    /// Has the host keep huge pages of its pool for `bytes` at `offset`.
    ///
    /// # Errors
    /// The host's.
    pub(super) fn reserve(&self, offset: u64, bytes: u64) -> rustix::io::Result<()> {
        let mapping = self.mapping.as_ref().ok_or(Errno::BADF)?;
        let bytes = usize::try_from(bytes).map_err(|_| Errno::NOMEM)?;
        mapping.reserve(offset, bytes)
    }
}

/// The parts as regions of guest memory, each of which keeps its mapping.
///
/// # Errors
/// When they cannot be put together.
pub(super) fn regions(parts: &[Part]) -> Result<Vec<GuestRegionMmap<Keeper>>, RamError> {
    let region = |part: &Part| {
        let mapping = part.mapping.clone()?;
        let builder = MmapRegionBuilder::new_with_bitmap(mapping.bytes(), Keeper::of(mapping));
        let pointer = with_exposed_provenance_mut(part.address);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range is mapped for as long as the keeper in the region lives.
        let builder = unsafe { builder.with_raw_mmap_pointer(pointer) };
        let region = builder.with_mmap_prot(access).build().ok()?;
        GuestRegionMmap::new(region, GuestAddress(part.start))
    };
    let region = |part| {
        let unaligned = vm_memory::GuestRegionCollectionError::UnsortedMemoryRegions;
        region(part).ok_or(RamError::Ranges(unaligned))
    };
    parts.iter().map(region).collect()
}

/// Whether a range of guest memory can be made of pages of this kind.
///
/// # Errors
/// When it is no whole number of huge pages.
pub(super) fn check_whole(
    start: GuestAddress,
    bytes: u64,
    options: RamOptions,
) -> Result<(), RamError> {
    match options.backing {
        Backing::HugeTlb(size)
            if !bytes.is_multiple_of(size.bytes()) || !start.0.is_multiple_of(size.bytes()) =>
        {
            Err(RamError::NotWhole {
                start: start.0,
                bytes,
                size,
            })
        }
        _ => Ok(()),
    }
}
