//! Guest memory: where in the guest it is, one mapping per side of the hole.

use std::ops::ControlFlow;

use aerostat_devices::{GuestMemory, GuestRam, Progress, RamError, RamOptions};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::layout;
use crate::units::MemorySize;

/// Guest memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host does not give it.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// More than the CPU can address.
    #[error(
        "{size} of guest memory is more than this host's {bits}-bit physical addresses reach: ask \
         for less with --mem"
    )]
    Unreachable {
        /// What was asked for.
        size: MemorySize,
        /// Physical address bits of a guest CPU.
        bits: u8,
    },
}

/// A range of RAM: where it starts and how many bytes it has.
pub(crate) type Range = (GuestAddress, u64);

/// RAM of `size`: below the hole, and above it if there is more.
pub(crate) fn ranges(size: MemorySize) -> Vec<Range> {
    let low = size.bytes().min(layout::HOLE_START);
    let high = size.bytes() - low;
    let mut ranges = vec![(GuestAddress(0), low)];
    if high > 0 {
        ranges.push((GuestAddress(layout::HIGH_RAM), high));
    }
    ranges
}

/// Maps guest memory. Where `options` do not say otherwise, nothing of it costs host memory before it
/// is touched; where they do, `watch` is told how much was taken, and can break that off.
///
/// # Errors
/// When the host does not give so much.
pub(crate) fn map(
    size: MemorySize,
    options: RamOptions,
    watch: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<GuestRam, MemoryError> {
    Ok(GuestRam::map(&ranges(size), options, watch)?)
}

/// Checks that a guest CPU with `address_bits` can address RAM of `size`.
///
/// # Errors
/// When it cannot.
pub(crate) fn check_reach(size: MemorySize, address_bits: u8) -> Result<(), MemoryError> {
    let ranges = ranges(size);
    let end = ranges
        .last()
        .map_or(0, |(start, bytes)| start.0.saturating_add(*bytes));
    let reach = 1u64.checked_shl(address_bits.into()).unwrap_or(u64::MAX);
    if end > reach {
        return Err(MemoryError::Unreachable {
            size,
            bits: address_bits,
        });
    }
    Ok(())
}

/// The memory map for the guest (E820 types): usable RAM and the BIOS area.
pub(crate) fn e820(memory: &GuestMemory) -> Vec<E820Entry> {
    let bios = layout::EXTENDED_START - layout::CONVENTIONAL_END;
    let mut map = vec![
        E820Entry {
            start: 0,
            bytes: layout::CONVENTIONAL_END,
            kind: E820Kind::Ram,
        },
        E820Entry {
            start: layout::CONVENTIONAL_END,
            bytes: bios,
            kind: E820Kind::Reserved,
        },
    ];
    for region in memory.iter() {
        let start = region.start_addr().0.max(layout::EXTENDED_START);
        let end = region.start_addr().0 + region.len();
        map.push(E820Entry {
            start,
            bytes: end - start,
            kind: E820Kind::Ram,
        });
    }
    map
}

/// One range of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct E820Entry {
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    pub(crate) kind: E820Kind,
}

/// What a range is for; the numbers are those of both boot protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum E820Kind {
    Ram = 1,
    Reserved = 2,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map_plain(size: &str) -> Result<GuestRam, MemoryError> {
        let mut watch = |_| ControlFlow::Continue(());
        let options = RamOptions::default();
        map(size.parse().unwrap(), options, &mut watch)
    }

    fn ranges_of(size: &str) -> Vec<(u64, u64)> {
        ranges(size.parse().unwrap())
            .iter()
            .map(|(start, bytes)| (start.0, *bytes))
            .collect()
    }

    #[test]
    fn memory_up_to_the_hole_is_one_range() {
        assert_eq!(ranges_of("128M"), [(0, 128 << 20)]);
        assert_eq!(ranges_of("3G"), [(0, 3 << 30)]);
    }

    #[test]
    fn memory_past_the_hole_goes_on_at_4_gib() {
        assert_eq!(ranges_of("3584M"), [(0, 3 << 30), (4 << 30, 512 << 20)]);
        assert_eq!(ranges_of("8G"), [(0, 3 << 30), (4 << 30, 5 << 30)]);
    }

    #[test]
    fn memory_beyond_the_address_bits_is_refused() {
        let check = |size: &str, bits| check_reach(size.parse().unwrap(), bits);
        assert!(matches!(
            check("64G", 36),
            Err(MemoryError::Unreachable { bits: 36, .. })
        ));
        assert!(check("62G", 36).is_ok());
    }

    #[test]
    fn memory_map_has_all_ram_but_the_bios_area() {
        let memory = map_plain("3584M").unwrap();
        let ram: u64 = e820(memory.memory())
            .iter()
            .filter(|entry| entry.kind == E820Kind::Ram)
            .map(|entry| entry.bytes)
            .sum();
        let bios = layout::EXTENDED_START - layout::CONVENTIONAL_END;
        assert_eq!(ram, (3584 << 20) - bios);
    }
}
