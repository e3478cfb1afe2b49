//! ELF kernels (vmlinux): entered by PVH where the note is there, else at their 64-bit entry.

use aerostat_devices::GuestMemory;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::GuestAddress;

use super::elf_format::{
    CLASS_64, CLASS_OFFSET, DATA_OFFSET, ENTRY_OFFSET, HEADER_BYTES, LITTLE_ENDIAN, MACHINE_OFFSET,
    MACHINE_X86_64, PHENTSIZE_OFFSET, PHNUM_OFFSET, PHOFF_OFFSET, PROGRAM_HEADER_BYTES,
    ProgramHeader,
};
use super::{Entry, Image, Kernel, KernelError, Limits, low_end};
use crate::layout;

/// The longest command line of an x86 Linux without a bzImage's header to say so
/// (COMMAND_LINE_SIZE less the NUL).
const CMDLINE_LIMIT: u64 = 2047;
/// An initrd may end anywhere below 4 GiB.
const INITRD_MAX: u64 = u32::MAX as u64;

/// The loadable segments of a file that was checked: all of it is there, and fits into memory.
#[derive(Debug)]
pub(super) struct Segments(Vec<ProgramHeader>);

impl Segments {
    /// Reads and checks them.
    pub(super) fn read(image: &Image, memory: &GuestMemory) -> Result<Self, KernelError> {
        check_architecture(image)?;
        let segments = segments(image)?;
        if segments.is_empty() {
            return Err(image.malformed("it has no segment to load"));
        }
        for segment in &segments {
            check_place(image, segment, memory)?;
        }
        Ok(Self(segments))
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            end: self.0.iter().map(|it| it.memory_end()).max().unwrap_or(0),
            cmdline: CMDLINE_LIMIT,
            initrd_max: INITRD_MAX,
        }
    }

    fn start(&self) -> u64 {
        self.0.iter().map(|it| it.address).min().unwrap_or(0)
    }

    fn contain(&self, address: GuestAddress) -> bool {
        let has = |it: &ProgramHeader| (it.address..it.memory_end()).contains(&address.0);
        self.0.iter().any(has)
    }
}

/// Loads a file that was checked.
pub(super) fn load(
    image: &mut Image,
    segments: &Segments,
    memory: &GuestMemory,
) -> Result<Kernel, KernelError> {
    let entry = u64::from_le_bytes(image.read_at(ENTRY_OFFSET.into())?);
    let loaded = Elf::load(memory, None, image.file_mut(), None)
        .map_err(|source| image.load_error(source))?;
    let entry = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(address) => Entry::Pvh(address),
        _ => Entry::Linux64(GuestAddress(entry)),
    };
    let (Entry::Pvh(address) | Entry::Linux64(address)) = entry;
    if !segments.contain(address) {
        return Err(image.malformed("its entry point is in none of its segments"));
    }
    Ok(Kernel {
        entry,
        range: segments.start()..segments.limits().end,
        header: None,
    })
}

fn check_architecture(image: &Image) -> Result<(), KernelError> {
    if image.length() < HEADER_BYTES.into() {
        return Err(image.truncated(HEADER_BYTES.into()));
    }
    let [class] = image.read_at(CLASS_OFFSET.into())?;
    let [data] = image.read_at(DATA_OFFSET.into())?;
    let machine: [u8; 2] = image.read_at(MACHINE_OFFSET.into())?;
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
    Err(image.architecture(architecture))
}

/// All loadable segments, whose contents are all in the file.
fn segments(image: &Image) -> Result<Vec<ProgramHeader>, KernelError> {
    let table = u64::from_le_bytes(image.read_at(PHOFF_OFFSET.into())?);
    let entry_bytes = u16::from_le_bytes(image.read_at(PHENTSIZE_OFFSET.into())?);
    let count = u16::from_le_bytes(image.read_at(PHNUM_OFFSET.into())?);
    if usize::from(entry_bytes) != PROGRAM_HEADER_BYTES || table < HEADER_BYTES.into() {
        return Err(image.malformed("its program headers are not those of an ELF-64 file"));
    }
    let mut segments = Vec::new();
    for index in 0..u64::from(count) {
        let at = table.saturating_add(index * u64::from(entry_bytes));
        let header = ProgramHeader::parse(&image.read_at(at)?);
        if header.file_end() > image.length() {
            return Err(image.truncated(header.file_end()));
        }
        if header.is_loaded && header.memory_bytes > 0 {
            segments.push(header);
        }
    }
    Ok(segments)
}

/// Segments must lie in extended memory below the hole: under 1 MiB are the boot structures.
fn check_place(
    image: &Image,
    segment: &ProgramHeader,
    memory: &GuestMemory,
) -> Result<(), KernelError> {
    let end = segment.memory_end();
    if segment.address < layout::EXTENDED_START || end > layout::HOLE_START {
        return Err(image.load_address(segment.address, end));
    }
    if end > low_end(memory) {
        return Err(image.does_not_fit("Kernel", low_end(memory), end));
    }
    Ok(())
}
