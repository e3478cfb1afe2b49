//! Kernels that the VMM unpacks: from the bzImage straight into guest memory, moved to where chance
//! has it, and entered by the 64-bit boot protocol. The guest's own decompressor does not run.
//!
//! The file is unpacked to where its first segment is in place already; only segments that are closer
//! together in memory than in the file are moved.

use std::io;
use std::ops::Range;
use std::time::Instant;

use aerostat_devices::GuestMemory;
use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::bzimage::Header;
use super::kaslr::{Kaslr, Moved, without};
use super::payload::{NotOpened, Payload};
use super::vmlinux::Vmlinux;
use super::{Boot, Cache, Entry, Image, Kernel};
use crate::layout;

/// Where in the file linkers put the first segment, after the headers (the alignment of kernels'
/// segments, `MIN_KERNEL_ALIGN`).
const FIRST_SEGMENT_OFFSET: u64 = 2 << 20;
/// Alignments that kernels are built with (`CONFIG_PHYSICAL_ALIGN`).
const ALIGNMENTS: Range<u64> = 2 << 20..(16 << 20) + 1;
/// The 64-bit entry reaches as far as one page of its page tables does.
const REACH: u64 = 512 << 30;
/// loadflags, KASLR_FLAG: the kernel was moved by chance, so that it shall move its other regions too.
const KASLR_FLAG: u8 = 1 << 1;

/// Unpacks the kernel in `image` and puts it where it is entered, clear of `taken`.
///
/// # Errors
/// Why it is left to the guest instead. Guest memory may have been written to by then.
pub(super) fn load(
    image: &Image,
    header: &Header,
    boot: &Boot,
    taken: &Range<u64>,
    memory: &GuestMemory,
) -> Result<Kernel, NotOpened> {
    let payload = Payload::find(image, header.payload())?;
    let kaslr = match header.is_relocatable() {
        true => Kaslr::of(&boot.cmdline),
        false => Kaslr::Off,
    };
    let moved = Moved {
        preferred: header.preferred(),
        bytes: header.init_bytes().max(payload.unpacked_bytes()),
        before: FIRST_SEGMENT_OFFSET,
        alignment: header.alignment(),
    };
    if !moved.alignment.is_power_of_two() || !ALIGNMENTS.contains(&moved.alignment) {
        return Err(NotOpened::Alignment(moved.alignment));
    }
    let usable = usable(header, taken, memory);
    let start = match kaslr {
        Kaslr::Full => moved.physical(&usable, &mut random)?,
        Kaslr::Virtual | Kaslr::Off => moved.preferred,
    };
    let offset = match kaslr {
        Kaslr::Full | Kaslr::Virtual => moved.virtual_offset(&mut random)?,
        Kaslr::Off => 0,
    };

    let area_start = start.checked_sub(moved.before).ok_or(NotOpened::NoRoom)?;
    let area = area_start..start.saturating_add(moved.bytes);
    if !usable
        .iter()
        .any(|it| it.start <= area.start && area.end <= it.end)
    {
        return Err(NotOpened::NoRoom);
    }
    let cache = boot.cache.as_ref();
    let fill = |bytes: &mut [u8]| fill(bytes, &payload, cache, &moved, offset);
    let vmlinux = with_bytes(memory, &area, fill)?;

    let mut fields = header.fields();
    if kaslr != Kaslr::Off && vmlinux.has_relocations() {
        fields.loadflags |= KASLR_FLAG;
    }
    Ok(Kernel {
        entry: Entry::Linux64(GuestAddress(start.saturating_add(vmlinux.entry()))),
        range: start..start.saturating_add(vmlinux.memory_bytes()),
        header: Some(fields),
    })
}

/// Unpacks the kernel into `bytes`, which begin [`FIRST_SEGMENT_OFFSET`] before its first, and makes it
/// one that runs `offset` bytes above the virtual addresses for which it was linked.
fn fill(
    bytes: &mut [u8],
    payload: &Payload<'_>,
    cache: Option<&Cache>,
    moved: &Moved,
    offset: u64,
) -> Result<Vmlinux, NotOpened> {
    let position = |value| usize::try_from(value).map_err(|_| NotOpened::NoRoom);
    let unpacked_bytes = position(payload.unpacked_bytes())?;
    let file = bytes.get_mut(..unpacked_bytes).ok_or(NotOpened::NoRoom)?;
    let begun = Instant::now();
    payload.unpack(file, cache)?;
    let unpacked = Instant::now();
    let vmlinux = Vmlinux::parse(file, moved.preferred)?;
    let at = position(moved.before)?;
    vmlinux.place(bytes, at)?;
    let placed = Instant::now();
    let end = at.saturating_add(position(vmlinux.memory_bytes())?);
    let image = bytes.get_mut(at..end).ok_or(NotOpened::NoRoom)?;
    vmlinux.relocate(image, offset)?;
    log::debug!(
        "Kernel unpacked from {} in {:?}, put in place in {:?}, moved in {:?}",
        payload.format(),
        unpacked - begun,
        placed - unpacked,
        placed.elapsed()
    );
    Ok(vmlinux)
}

/// Memory above the BIOS area where the kernel may be, in ascending order.
fn usable(header: &Header, taken: &Range<u64>, memory: &GuestMemory) -> Vec<Range<u64>> {
    let reach = if header.can_be_above_4_gib() {
        REACH
    } else {
        layout::HIGH_RAM
    };
    let ranges = memory.iter().map(|region| {
        let start = region.start_addr().0.max(layout::EXTENDED_START);
        start
            ..region
                .start_addr()
                .0
                .saturating_add(region.len())
                .min(reach)
    });
    let ranges: Vec<_> = ranges.filter(|range| !range.is_empty()).collect();
    without(&ranges, taken)
}

/// Has the bytes of guest memory at `place` changed by `change`.
fn with_bytes<T>(
    memory: &GuestMemory,
    place: &Range<u64>,
    change: impl FnOnce(&mut [u8]) -> Result<T, NotOpened>,
) -> Result<T, NotOpened> {
    let length = usize::try_from(place.end - place.start).unwrap_or(usize::MAX);
    let slice = memory.get_slice(GuestAddress(place.start), length);
    let slice = slice.map_err(|_| NotOpened::NoRoom)?;
    let guard = slice.ptr_guard_mut();
    // SAFETY: they stay mapped for as long as `memory` is borrowed. While a kernel is loaded no vCPU
    // has run yet or all are parked, and devices have been reset, so that nobody else looks at them.
    change(unsafe { std::slice::from_raw_parts_mut(guard.as_ptr(), length) })
}

/// A number that nobody can guess.
fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests;
