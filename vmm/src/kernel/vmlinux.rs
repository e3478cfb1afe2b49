//! The kernel that a bzImage holds: an ELF file, and behind it what has to be changed when the kernel
//! is moved.
//!
//! Linux, `arch/x86/boot/compressed/misc.c`, `parse_elf` and `handle_relocations`. All addresses are
//! those for which the kernel was linked; it is entered at its first byte or near it, by the 64-bit
//! boot protocol.

use std::ops::Range;

use super::elf_format::{
    CLASS_64, CLASS_OFFSET, ENTRY_OFFSET, LITTLE_ENDIAN, MACHINE_OFFSET, MACHINE_X86_64, MAGIC,
    PHENTSIZE_OFFSET, PHNUM_OFFSET, PHOFF_OFFSET, PROGRAM_HEADER_BYTES, ProgramHeader,
    SHENTSIZE_OFFSET, SHNUM_OFFSET, SHOFF_OFFSET,
};
use super::payload::NotOpened;

use super::relocations::Relocations;

/// Virtual less physical addresses of the kernel's image (`__START_KERNEL_map`).
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Vmlinux {
    /// In ascending order, in the file and in memory.
    segments: Vec<ProgramHeader>,
    /// Where it is entered, from its first byte on.
    entry: u64,
    /// The physical address of its first byte.
    start: u64,
    relocations: Option<Relocations>,
}

impl Vmlinux {
    /// Understands `file`, whose kernel was linked to lie at `start` physically.
    pub(super) fn parse(file: &[u8], start: u64) -> Result<Self, NotOpened> {
        if get(file, 0) != Some(MAGIC) {
            return Err(NotOpened::Content("is no ELF file"));
        }
        if get(file, CLASS_OFFSET.into()) != Some([CLASS_64, LITTLE_ENDIAN])
            || number::<2>(file, MACHINE_OFFSET.into())? != u64::from(MACHINE_X86_64)
        {
            return Err(NotOpened::Content("is no kernel for x86-64"));
        }
        let segments = segments(file)?;
        let first = segments.first().map(|segment| segment.address);
        if first != Some(start) {
            return Err(NotOpened::Content("does not begin where the header says"));
        }
        let end = contents_end(file, &segments)?;
        let table = file.get(end..).unwrap_or_default();
        let entry = number::<8>(file, ENTRY_OFFSET.into())?;
        // Linkers have written it as a virtual address too.
        let entry = entry.checked_sub(KERNEL_MAP).unwrap_or(entry);
        let kernel = Self {
            relocations: Relocations::parse(table)?,
            entry: entry.checked_sub(start).unwrap_or(u64::MAX),
            start,
            segments,
        };
        let contains = |it: &ProgramHeader| {
            let entry = kernel.entry.saturating_add(start);
            (it.address..it.address.saturating_add(it.file_bytes)).contains(&entry)
        };
        if !kernel.segments.iter().any(contains) {
            return Err(NotOpened::Content("is entered outside of its segments"));
        }
        Ok(kernel)
    }

    /// Where it is entered, from its first byte on.
    pub(super) fn entry(&self) -> u64 {
        self.entry
    }

    /// Bytes from its first to its last in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        let last = self.segments.last().map_or(0, ProgramHeader::memory_end);
        last.saturating_sub(self.start)
    }

    /// Whether it can be moved.
    pub(super) fn has_relocations(&self) -> bool {
        self.relocations.is_some()
    }

    /// Puts all segments in place. `area` has the file at its start, and the kernel's first byte
    /// shall be at `at`.
    ///
    /// # Errors
    /// When `area` is too small.
    pub(super) fn place(&self, area: &mut [u8], at: usize) -> Result<(), NotOpened> {
        let moves = self.segments.iter().map(|it| self.move_of(it, at));
        let moves: Vec<Move> = moves.collect::<Option<_>>().ok_or(NotOpened::NoRoom)?;
        if moves.iter().any(|it| it.zeroes.end > area.len()) {
            return Err(NotOpened::NoRoom);
        }
        // Segments ascend here and there, so that in this order none is written over one that has
        // still to be moved: those that go up from the last to the first, then those that go down.
        let up = moves.iter().rev().filter(|it| it.to > it.from.start);
        let down = moves.iter().filter(|it| it.to < it.from.start);
        for it in up.chain(down) {
            area.copy_within(it.from.clone(), it.to);
        }
        for it in moves {
            area[it.zeroes].fill(0);
        }
        Ok(())
    }

    fn move_of(&self, segment: &ProgramHeader, at: usize) -> Option<Move> {
        let position = |value: u64| usize::try_from(value).ok();
        let to = at.checked_add(position(segment.address.checked_sub(self.start)?)?)?;
        let from = position(segment.offset)?..position(segment.file_end())?;
        let file_end = to.checked_add(from.len())?;
        let end = to.checked_add(position(segment.memory_bytes)?)?;
        Some(Move {
            from,
            to,
            zeroes: file_end..end,
        })
    }

    /// Makes the kernel one that runs `offset` bytes above the virtual addresses for which it was
    /// linked. `image` begins with its first byte, and all segments are in place.
    pub(super) fn relocate(&self, image: &mut [u8], offset: u64) -> Result<(), NotOpened> {
        match &self.relocations {
            Some(relocations) => relocations.apply(image, KERNEL_MAP + self.start, offset),
            None => Ok(()),
        }
    }
}

/// What happens to a segment.
struct Move {
    from: Range<usize>,
    to: usize,
    /// What the file does not have of it.
    zeroes: Range<usize>,
}

/// All segments to load, in order.
fn segments(file: &[u8]) -> Result<Vec<ProgramHeader>, NotOpened> {
    let table = number::<8>(file, PHOFF_OFFSET.into())?;
    let bytes = number::<2>(file, PHENTSIZE_OFFSET.into())?;
    let count = number::<2>(file, PHNUM_OFFSET.into())?;
    if bytes != PROGRAM_HEADER_BYTES as u64 {
        return Err(NotOpened::Content("has program headers of another size"));
    }
    let mut segments = Vec::new();
    for index in 0..count {
        let at = usize::try_from(table.saturating_add(index * bytes)).unwrap_or(usize::MAX);
        let header = get(file, at).ok_or(TRUNCATED)?;
        let segment = ProgramHeader::parse(&header);
        if segment.is_loaded && segment.memory_bytes > 0 {
            segments.push(segment);
        }
    }
    let in_order = segments.windows(2).all(|pair| {
        pair[0].file_end() <= pair[1].offset && pair[0].memory_end() <= pair[1].address
    });
    if in_order {
        Ok(segments)
    } else {
        Err(NotOpened::Content("has segments out of order"))
    }
}

/// The end of the ELF file itself: of its segments and of its section headers, whichever is later.
fn contents_end(file: &[u8], segments: &[ProgramHeader]) -> Result<usize, NotOpened> {
    let sections =
        number::<2>(file, SHENTSIZE_OFFSET.into())? * number::<2>(file, SHNUM_OFFSET.into())?;
    let sections_end = number::<8>(file, SHOFF_OFFSET.into())?.saturating_add(sections);
    let end = segments.last().map_or(0, ProgramHeader::file_end);
    let end = usize::try_from(end.max(sections_end)).unwrap_or(usize::MAX);
    if end > file.len() {
        return Err(TRUNCATED);
    }
    Ok(end)
}

const TRUNCATED: NotOpened = NotOpened::Content("is cut short");

fn get<const N: usize>(file: &[u8], at: usize) -> Option<[u8; N]> {
    file.get(at..)?.first_chunk().copied()
}

/// A number of `N` bytes, at most eight.
fn number<const N: usize>(file: &[u8], at: usize) -> Result<u64, NotOpened> {
    let bytes: [u8; N] = get(file, at).ok_or(TRUNCATED)?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests;
