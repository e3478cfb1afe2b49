//! The owner of guest memory: it knows where the memory comes from, and so how to give it back.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::backing::{Backing, Granularity, RamOptions};
use super::error::RamError;
use super::part::{MAX_CALL_PAGES, Part, Piece, check_whole, regions};
use super::populate::{Watch, populate};
use super::release::{GivenUp, PageRelease};
use super::run::PageRun;
use super::vector::{MAX_RANGES, Vectored};
use crate::fault_log::FaultLog;
use crate::{GuestMemory, PAGE_SIZE};

/// Guest memory; clones are the same memory.
#[derive(Clone, Debug)]
pub struct GuestRam(Arc<Ram>);

#[derive(Debug)]
pub(super) struct Ram {
    memory: GuestMemory,
    parts: Vec<Part>,
    pub(super) options: RamOptions,
    granularity: Granularity,
    pub(super) vectored: Vectored,
    pub(super) faults: FaultLog,
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
                    return Err(RamError::of_map(total, options, source));
                }
            }
        }
        let refusal = parts
            .iter()
            .find_map(|part| part.advise_huge_pages(options).err());
        if let (Some(error), Some(true)) = (refusal, options.thp) {
            log::warn!("This host has no transparent huge pages: {error}");
        } else if let Some(setting) = options.thwarting_setting() {
            log::warn!("thp=on has no effect on this host: {setting} says no");
        }
        for part in &parts {
            part.lock(options, total)?;
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

    /// Has the host keep huge pages of its pool for `run` of whole huge pages, which the guest may
    /// touch again. Does nothing for other memory. When the pool is used up, the log says so: the
    /// guest will fail when it touches them.
    pub fn reserve(&self, run: PageRun) {
        let ram = &*self.0;
        let Backing::HugeTlb(size) = ram.options.backing else {
            return;
        };
        for part in &ram.parts {
            let run = run.within(part.start, part.start + part.bytes);
            let pieces = run
                .into_iter()
                .flat_map(|run| part.pieces(run, ram.granularity));
            for piece in pieces {
                if let Err(error) = part.reserve(piece.offset, piece.bytes) {
                    ram.faults.record(|| {
                        format!(
                            "the host's pool of huge pages of {size} is used up, and the guest \
                             may fail when it touches memory at {:#x} again: {error}",
                            part.start + piece.offset
                        )
                    });
                }
            }
        }
    }

    /// As [`Self::reserve`], for all of it.
    pub fn reserve_all(&self) {
        let ram = &*self.0;
        let Backing::HugeTlb(size) = ram.options.backing else {
            return;
        };
        for part in &ram.parts {
            if let Err(error) = part.reserve(0, part.bytes) {
                ram.faults.record(|| {
                    format!(
                        "the host's pool of huge pages of {size} is used up, and the guest may \
                         fail when it touches what it had given back: {error}"
                    )
                });
            }
        }
    }

    /// Gives all memory back to the host, so that it reads as zeroes, and makes it ready for
    /// another guest as [`Self::map`] does. When `watch` breaks off, the rest of it is taken from
    /// the host when the guest touches it.
    ///
    /// # Errors
    /// The host has less to give than before, or does not take everything back.
    pub fn reset(&self, watch: Watch<'_>) -> Result<(), RamError> {
        let ram = &*self.0;
        let mut total = PageRelease::default();
        for part in &ram.parts {
            ram.release_all(part.whole(), &mut total);
        }
        if total.refused_pages > 0 {
            return Err(RamError::NotTakenBack {
                bytes: total.refused_pages * PAGE_SIZE,
            });
        }
        if let Backing::HugeTlb(_) = ram.options.backing {
            let refused = ram.parts.iter().filter_map(|part| {
                let refusal = part.reserve(0, part.bytes).err()?;
                Some((part.bytes, refusal))
            });
            let refused = refused.reduce(|(sum, _), (bytes, refusal)| (sum + bytes, refusal));
            if let Some((missing, refusal)) = refused {
                return Err(RamError::of_map(missing, ram.options, refusal.into()));
            }
        }
        if self.populate(watch)?.is_break() {
            log::warn!("The rest of guest memory is taken from the host when it is touched");
        }
        Ok(())
    }

    /// Where this process has it.
    pub fn addresses(&self) -> impl Iterator<Item = Range<usize>> {
        self.0.parts.iter().map(Part::addresses)
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
        // SAFETY: the ranges are mapped guest memory, of which nobody knows before the guest starts,
        // and which nobody accesses while the machine is reset.
        unsafe { populate(&ranges, unit, watch) }.map_err(|error| RamError::Populate {
            bytes: ram.parts.iter().map(|part| part.bytes).sum(),
            source: error.into(),
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

#[cfg(test)]
pub(super) mod tests;
