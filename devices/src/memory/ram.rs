//! The owner of guest memory: it knows where the memory comes from, and so how to give it back.

use std::io;
use std::ops::ControlFlow;
use std::ptr::with_exposed_provenance_mut;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::mm::{Advice, MlockFlags, madvise, mlock_with};
use rustix::process::{Resource, getrlimit};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap, MemoryRegionAddress,
};

use super::backing::{Backing, Granularity, RamOptions};
use super::error::RamError;
use super::mapping::{Keeper, Mapping};
use super::pool::Pool;
use super::populate::{Watch, populate};
use super::release::{GivenUp, PageRelease};
use super::run::PageRun;
use super::vector::{Host, HostRange, MAX_RANGES, Vectored};
use crate::fault_log::FaultLog;
use crate::{GuestMemory, PAGE_SIZE};

/// The most pages that go with one system call, unless a huge page has more: 64 MiB, which takes
/// the host some milliseconds.
const MAX_CALL_PAGES: u64 = 16 << 10;

/// Guest memory; clones are the same memory.
#[derive(Clone, Debug)]
pub struct GuestRam(Arc<Ram>);

#[derive(Debug)]
struct Ram {
    memory: GuestMemory,
    parts: Vec<Part>,
    options: RamOptions,
    granularity: Granularity,
    vectored: Vectored,
    faults: FaultLog,
}

/// A range of guest memory that is one mapping.
#[derive(Debug)]
struct Part {
    /// Where the guest has it.
    start: u64,
    bytes: u64,
    /// Where this process has it.
    address: usize,
    /// None for what vm-memory has mapped: it has no file.
    mapping: Option<Arc<Mapping>>,
}

/// A range of one part.
#[derive(Clone, Copy, Debug)]
struct Piece<'a> {
    part: &'a Part,
    offset: u64,
    bytes: u64,
}

impl Piece<'_> {
    fn pages(self) -> u64 {
        self.bytes / PAGE_SIZE
    }

    fn host_range(self) -> HostRange {
        // A part is mapped, so both numbers fit.
        HostRange {
            address: self.part.address + usize::try_from(self.offset).unwrap_or(0),
            bytes: usize::try_from(self.bytes).unwrap_or(0),
        }
    }
}

impl GuestRam {
    /// Maps memory at `ranges` (first address and bytes) of the guest, ready for a guest: locked
    /// and taken from the host where `options` say so. `watch` is told of the latter.
    ///
    /// # Errors
    /// What the host refuses, and what to do about it; `Interrupted` when `watch` breaks off.
    pub fn map(
        ranges: &[(GuestAddress, u64)],
        options: RamOptions,
        watch: Watch<'_>,
    ) -> Result<Self, RamError> {
        let total = ranges.iter().map(|(_, bytes)| bytes).sum();
        let mut parts = Vec::new();
        for &(start, bytes) in ranges {
            check_whole(start, bytes, options)?;
            match Part::map(start.0, bytes, options) {
                Ok(part) => parts.push(part),
                Err(source) => {
                    // What the others have reserved does not count for what the host has to give.
                    drop(parts);
                    return Err(map_error(total, options, source));
                }
            }
        }
        if let Some(setting) = options.thwarting_setting() {
            log::warn!("thp=on has no effect on this host: {setting} says no");
        }
        for part in &parts {
            part.prepare(options, total)?;
        }
        let memory = GuestMemory::from_regions(regions(&parts)?)?;
        let ram = Self::new(memory, parts, options);
        if ram.populate(watch)?.is_break() {
            return Err(RamError::Interrupted);
        }
        Ok(ram)
    }

    fn new(memory: GuestMemory, parts: Vec<Part>, options: RamOptions) -> Self {
        Self(Arc::new(Ram {
            memory,
            parts,
            options,
            granularity: options.granularity(),
            vectored: Vectored::new(),
            faults: FaultLog::new("guest memory", "host fault"),
        }))
    }

    /// The memory itself.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.0.memory
    }

    /// What was chosen about it.
    #[must_use]
    pub fn options(&self) -> RamOptions {
        self.0.options
    }

    /// In which pieces it goes back to the host.
    #[must_use]
    pub fn granularity(&self) -> Granularity {
        self.0.granularity
    }

    /// What of `run` is memory, in ascending order.
    pub fn inside(&self, run: PageRun) -> impl Iterator<Item = PageRun> {
        let parts = self.0.parts.iter();
        parts.filter_map(move |part| run.within(part.start, part.start + part.bytes))
    }

    /// Gives the pages of `runs`, which ascend, back to the host: with one system call for many
    /// runs of anonymous memory, and one or two for each run of any other. Of huge pages of the
    /// host's pool only those go that are whole in a run.
    ///
    /// # Errors
    /// `give_up`, which is asked before each system call, said yes. Some of the pages have been
    /// released then.
    pub fn release(
        &self,
        runs: &[PageRun],
        give_up: &dyn Fn() -> bool,
    ) -> Result<PageRelease, GivenUp> {
        let ram = &*self.0;
        let mut total = PageRelease::default();
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        let mut pages = 0;
        let mut inside = 0;
        for run in runs {
            for part in &ram.parts {
                let Some(run) = run.within(part.start, part.start + part.bytes) else {
                    continue;
                };
                inside += run.count;
                for piece in part.pieces(run, ram.granularity) {
                    if pieces.len() == MAX_RANGES || pages + piece.pages() > MAX_CALL_PAGES {
                        ram.release_pieces(&pieces, give_up, &mut total)?;
                        pieces.clear();
                        pages = 0;
                    }
                    pages += piece.pages();
                    pieces.push(piece);
                }
            }
        }
        ram.release_pieces(&pieces, give_up, &mut total)?;
        total.partial_pages = inside - total.pages();
        let all = runs.iter().map(|run| run.count);
        total.outside_pages = all.fold(0, u64::saturating_add).saturating_sub(inside);
        Ok(total)
    }

    /// Has the host keep huge pages of its pool for `runs` of whole huge pages, which the guest may
    /// touch again. Does nothing for other memory. When the pool is used up, the log says so: the
    /// guest will fail when it touches them.
    pub fn reserve(&self, runs: &[PageRun]) {
        let ram = &*self.0;
        let Backing::HugeTlb(size) = ram.options.backing else {
            return;
        };
        for run in runs {
            for part in &ram.parts {
                let run = run.within(part.start, part.start + part.bytes);
                let pieces = run
                    .into_iter()
                    .flat_map(|run| part.pieces(run, ram.granularity));
                for piece in pieces {
                    if let Err(error) = piece.part.reserve(piece.offset, piece.bytes) {
                        ram.faults.record(|| {
                            format!(
                                "the host's pool of huge pages of {size} is used up, and the guest \
                                 may fail when it touches memory at {:#x} again: {error}",
                                piece.part.start + piece.offset
                            )
                        });
                    }
                }
            }
        }
    }

    /// Gives all memory back to the host, so that it reads as zeroes, and makes it ready for
    /// another guest as [`Self::map`] does. When `watch` breaks off, the rest of it is taken from
    /// the host when the guest touches it.
    ///
    /// # Errors
    /// The host has less to give than before.
    pub fn reset(&self, watch: Watch<'_>) -> Result<PageRelease, RamError> {
        let ram = &*self.0;
        let mut total = PageRelease::default();
        for part in &ram.parts {
            let all = Piece {
                part,
                offset: 0,
                bytes: part.bytes,
            };
            // Nobody gives this up.
            let _ = ram.release_pieces(&[all], &|| false, &mut total);
        }
        if let Backing::HugeTlb(_) = ram.options.backing {
            for part in &ram.parts {
                let reserved = part.reserve(0, part.bytes);
                reserved.map_err(|error| map_error(part.bytes, ram.options, error.into()))?;
            }
        }
        if self.populate(watch)?.is_break() {
            log::warn!("The rest of guest memory is taken from the host when it is touched");
        }
        Ok(total)
    }

    /// Takes all memory from the host, where that was asked for.
    fn populate(&self, watch: Watch<'_>) -> Result<ControlFlow<()>, RamError> {
        let ram = &*self.0;
        if !ram.options.prealloc {
            return Ok(ControlFlow::Continue(()));
        }
        let parts = ram.parts.iter();
        let ranges: Vec<_> = parts
            .map(|part| (part.address, usize::try_from(part.bytes).unwrap_or(0)))
            .collect();
        let unit = usize::try_from(ram.options.alignment()).unwrap_or(usize::MAX);
        // SAFETY: the ranges are mapped guest memory, which is only accessed through vm-memory's
        // volatile operations.
        unsafe { populate(&ranges, unit, watch) }.map_err(|error| {
            let bytes = ram.parts.iter().map(|part| part.bytes).sum();
            match (ram.options.backing, error) {
                (Backing::HugeTlb(_), Errno::FAULT) => {
                    map_error(bytes, ram.options, Errno::NOMEM.into())
                }
                _ => RamError::Populate {
                    bytes,
                    source: error.into(),
                },
            }
        })
    }
}

/// Memory that vm-memory has mapped: private and anonymous, in pages of 4 KiB.
impl From<GuestMemory> for GuestRam {
    fn from(memory: GuestMemory) -> Self {
        let parts = memory.iter().filter_map(|region| {
            let address = region.get_host_address(MemoryRegionAddress(0)).ok()?;
            Some(Part {
                start: region.start_addr().0,
                bytes: region.len(),
                address: address.expose_provenance(),
                mapping: None,
            })
        });
        let parts = parts.collect();
        let options = RamOptions {
            thp: Some(false),
            ..RamOptions::default()
        };
        Self::new(memory, parts, options)
    }
}

impl Ram {
    /// Releases pieces with as few system calls as the backing allows.
    fn release_pieces(
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
            match self.punch(*piece, total) {
                Ok(()) => total.released_pages += piece.pages(),
                Err(error) => {
                    total.refused_pages += piece.pages();
                    self.refused(piece.host_range(), error);
                }
            }
        }
        Ok(())
    }

    /// Takes a piece out of its file.
    fn punch(&self, piece: Piece<'_>, total: &mut PageRelease) -> rustix::io::Result<()> {
        let mapping = piece.part.mapping.as_ref().ok_or(Errno::BADF)?;
        if let Backing::HugeTlb(_) = self.options.backing {
            // A hole leaves alone what is reserved and was never touched: it has to be there to be
            // given back. Where the pool has nothing left, nothing is reserved either.
            total.calls += 1;
            let _ = mapping.allocate(piece.offset, piece.bytes);
        }
        total.calls += 1;
        mapping.punch(piece.offset, piece.bytes)
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

impl Part {
    fn map(start: u64, bytes: u64, options: RamOptions) -> io::Result<Self> {
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

    /// Tells the host of huge pages, and locks.
    fn prepare(&self, options: RamOptions, total: u64) -> Result<(), RamError> {
        let pointer = with_exposed_provenance_mut(self.address);
        let bytes = usize::try_from(self.bytes).unwrap_or(0);
        let advice = match options.thp {
            _ if matches!(options.backing, Backing::HugeTlb(_)) => None,
            Some(true) => Some(Advice::LinuxHugepage),
            Some(false) => Some(Advice::LinuxNoHugepage),
            None => None,
        };
        if let Some(advice) = advice {
            // SAFETY: the range is this part's, and no contents change.
            if let Err(error) = unsafe { madvise(pointer, bytes, advice) } {
                log::warn!("This host has no transparent huge pages: {error}");
            }
        }
        if options.lock {
            // What is there is locked, and everything else when it comes.
            // SAFETY: the range is this part's, and no contents change.
            let locked = unsafe { mlock_with(pointer, bytes, MlockFlags::ONFAULT) };
            locked.map_err(|error| RamError::Lock {
                bytes: total,
                limit: getrlimit(Resource::Memlock).current,
                source: error.into(),
            })?;
        }
        Ok(())
    }

    /// `run`, which is in this part, in pieces for one call each.
    fn pieces(&self, run: PageRun, granularity: Granularity) -> impl Iterator<Item = Piece<'_>> {
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

    fn reserve(&self, offset: u64, bytes: u64) -> rustix::io::Result<()> {
        let mapping = self.mapping.as_ref().ok_or(Errno::BADF)?;
        let bytes = usize::try_from(bytes).map_err(|_| Errno::NOMEM)?;
        mapping.reserve(offset, bytes)
    }
}

fn regions(parts: &[Part]) -> Result<Vec<GuestRegionMmap<Keeper>>, RamError> {
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

fn check_whole(start: GuestAddress, bytes: u64, options: RamOptions) -> Result<(), RamError> {
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

/// Why `bytes` of memory could not be mapped.
fn map_error(bytes: u64, options: RamOptions, source: io::Error) -> RamError {
    match options.backing {
        Backing::HugeTlb(size) => match Pool::of(size) {
            Some(pool) => RamError::Pool {
                needed: bytes / size.bytes(),
                size,
                pool,
                source,
            },
            None => RamError::NoSuchHugePages(size),
        },
        Backing::Anonymous | Backing::Memfd => RamError::Map { bytes, source },
    }
}

#[cfg(test)]
pub(super) mod tests;
