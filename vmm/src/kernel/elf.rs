//! ELF kernels (vmlinux): entered by PVH where the note is there, else at their 64-bit entry.

use std::ops::Range;

use aerostat_devices::GuestMemory;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::GuestAddress;

use super::{Entry, Image, Kernel, KernelError, low_end};
use crate::layout;

/// The longest command line of an x86 Linux without a bzImage's header to say so
/// (COMMAND_LINE_SIZE less the NUL).
const CMDLINE_LIMIT: u64 = 2047;
/// An initrd may end anywhere below 4 GiB.
const INITRD_MAX: u64 = u32::MAX as u64;

/// Fields of the ELF-64 header.
const CLASS_OFFSET: u64 = 4;
const DATA_OFFSET: u64 = 5;
const MACHINE_OFFSET: u64 = 18;
const ENTRY_OFFSET: u64 = 24;
const PHOFF_OFFSET: u64 = 32;
const PHENTSIZE_OFFSET: u64 = 54;
const PHNUM_OFFSET: u64 = 56;
const HEADER_LENGTH: u64 = 64;

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const PHENTSIZE: u16 = 56;
const PT_LOAD: u32 = 1;

/// Checks and loads an ELF file.
pub(super) fn load(image: &mut Image, memory: &GuestMemory) -> Result<Kernel, KernelError> {
    check_architecture(image)?;
    let entry = u64::from_le_bytes(image.read_at(ENTRY_OFFSET)?);
    let segments = segments(image)?;
    let end = segments.iter().map(|segment| segment.end).max();
    let end = end.ok_or_else(|| image.malformed("it has no segment to load"))?;
    for segment in &segments {
        check_place(image, segment, memory)?;
    }

    let loaded = Elf::load(memory, None, &mut image.file, None)
        .map_err(|source| image.load_error(source))?;
    let entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(address) => Entry::Pvh(address),
        _ => Entry::Linux64(GuestAddress(entry)),
    };
    let (Entry::Pvh(address) | Entry::Linux64(address)) = entry;
    if !segments.iter().any(|segment| segment.contains(&address.0)) {
        return Err(image.malformed("its entry point is in none of its segments"));
    }
    Ok(Kernel {
        entry,
        end,
        header: None,
        cmdline_limit: CMDLINE_LIMIT,
        initrd_max: INITRD_MAX,
    })
}

fn check_architecture(image: &mut Image) -> Result<(), KernelError> {
    if image.length < HEADER_LENGTH {
        return Err(image.truncated(HEADER_LENGTH));
    }
    let [class] = image.read_at(CLASS_OFFSET)?;
    let [data] = image.read_at(DATA_OFFSET)?;
    let machine: [u8; 2] = image.read_at(MACHINE_OFFSET)?;
    let machine = if data == LITTLE_ENDIAN {
        u16::from_le_bytes(machine)
    } else {
        u16::from_be_bytes(machine)
    };
    if (class, data, machine) == (CLASS_64, LITTLE_ENDIAN, MACHINE_X86_64) {
        return Ok(());
    }
    let bits = if class == CLASS_64 { 64 } else { 32 };
    let architecture = match machine {
        3 => "i386".to_owned(),
        8 => "MIPS".to_owned(),
        20 | 21 => "PowerPC".to_owned(),
        22 => "s390".to_owned(),
        40 => "ARM".to_owned(),
        MACHINE_X86_64 => format!("x86-64 with {bits}-bit addresses"),
        183 => "AArch64".to_owned(),
        243 => format!("RISC-V, {bits} bits"),
        258 => "LoongArch".to_owned(),
        other => format!("machine number {other}"),
    };
    Err(KernelError::Architecture {
        path: image.path.clone(),
        architecture,
    })
}

/// The guest-physical ranges of all loadable segments, whose contents are all in the file.
fn segments(image: &mut Image) -> Result<Vec<Range<u64>>, KernelError> {
    let table = u64::from_le_bytes(image.read_at(PHOFF_OFFSET)?);
    let entry_size = u16::from_le_bytes(image.read_at(PHENTSIZE_OFFSET)?);
    let count = u16::from_le_bytes(image.read_at(PHNUM_OFFSET)?);
    if entry_size != PHENTSIZE || table < HEADER_LENGTH {
        return Err(image.malformed("its program headers are not those of an ELF-64 file"));
    }
    let mut segments = Vec::new();
    for index in 0..u64::from(count) {
        let at = table.saturating_add(index * u64::from(PHENTSIZE));
        let header: [u8; PHENTSIZE as usize] = image.read_at(at)?;
        let word = |offset: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[offset..offset + 8]);
            u64::from_le_bytes(bytes)
        };
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let (offset, address, file_size, memory_size) = (word(8), word(24), word(32), word(40));
        let file_end = offset.saturating_add(file_size);
        if file_end > image.length {
            return Err(image.truncated(file_end));
        }
        if kind == PT_LOAD && memory_size.max(file_size) > 0 {
            segments.push(address..address.saturating_add(memory_size.max(file_size)));
        }
    }
    Ok(segments)
}

/// Segments must lie in extended memory below the hole: under 1 MiB are the boot structures.
fn check_place(
    image: &Image,
    segment: &Range<u64>,
    memory: &GuestMemory,
) -> Result<(), KernelError> {
    if segment.start < layout::EXTENDED_START || segment.end > layout::HOLE_START {
        return Err(KernelError::LoadAddress {
            path: image.path.clone(),
            start: segment.start,
            end: segment.end,
        });
    }
    if segment.end > low_end(memory) {
        return Err(image.does_not_fit("Kernel", low_end(memory), segment.end));
    }
    Ok(())
}
