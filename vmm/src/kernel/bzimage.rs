//! bzImage: the kernel's own format (Linux boot protocol 2.12 and later, 64-bit entry).

use aerostat_devices::GuestMemory;
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::GuestAddress;

use super::{Entry, Image, Kernel, KernelError, low_end};
use crate::layout;

/// Offsets into the file of fields of the setup header, and what they must say.
const SETUP_SECTS_OFFSET: u64 = 0x1f1;
const SYSSIZE_OFFSET: u64 = 0x1f4;
const BOOT_FLAG_OFFSET: u64 = 0x1fe;
const HEADER_OFFSET: u64 = 0x202;
const VERSION_OFFSET: u64 = 0x206;
const LOADFLAGS_OFFSET: u64 = 0x211;
const INITRD_ADDR_MAX_OFFSET: u64 = 0x22c;
const XLOADFLAGS_OFFSET: u64 = 0x236;
const CMDLINE_SIZE_OFFSET: u64 = 0x238;
const PREF_ADDRESS_OFFSET: u64 = 0x258;
const INIT_SIZE_OFFSET: u64 = 0x260;
/// The length of a file that has all these fields.
const MIN_LENGTH: u64 = INIT_SIZE_OFFSET + 4;

const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: [u8; 4] = *b"HdrS";
const MIN_VERSION: u16 = 0x020c;
/// LOADED_HIGH: the protected-mode code is loaded at 1 MiB.
const LOADED_HIGH_BIT: u8 = 1;
/// XLF_KERNEL_64: there is a 64-bit entry at 0x200.
const KERNEL_64_BIT: u16 = 1;
const ENTRY_64_OFFSET: u64 = 0x200;
const SECTOR: u64 = 512;
/// setup_sects 0 means 4, for the oldest kernels.
const DEFAULT_SETUP_SECTS: u64 = 4;
/// syssize counts paragraphs.
const PARAGRAPH: u64 = 16;

/// Whether the file has the magic of a bzImage.
pub(super) fn recognise(image: &mut Image) -> Result<bool, KernelError> {
    if image.length < HEADER_OFFSET + 4 {
        return Ok(false);
    }
    let boot_flag = u16::from_le_bytes(image.read_at(BOOT_FLAG_OFFSET)?);
    let magic: [u8; 4] = image.read_at(HEADER_OFFSET)?;
    Ok(boot_flag == BOOT_FLAG && magic == HEADER_MAGIC)
}

/// Checks and loads a file that was recognised.
pub(super) fn load(image: &mut Image, memory: &GuestMemory) -> Result<Kernel, KernelError> {
    if image.length < MIN_LENGTH {
        return Err(image.truncated(MIN_LENGTH));
    }
    let [setup_sects] = image.read_at(SETUP_SECTS_OFFSET)?;
    let syssize = u32::from_le_bytes(image.read_at(SYSSIZE_OFFSET)?);
    let version = u16::from_le_bytes(image.read_at(VERSION_OFFSET)?);
    let [loadflags] = image.read_at(LOADFLAGS_OFFSET)?;
    let xloadflags = u16::from_le_bytes(image.read_at(XLOADFLAGS_OFFSET)?);
    check_protocol(image, version, loadflags, xloadflags)?;

    let setup_sects = if setup_sects == 0 {
        DEFAULT_SETUP_SECTS
    } else {
        setup_sects.into()
    };
    let needed = (setup_sects + 1) * SECTOR + u64::from(syssize) * PARAGRAPH;
    if image.length < needed {
        return Err(image.truncated(needed));
    }

    let pref_address = u64::from_le_bytes(image.read_at(PREF_ADDRESS_OFFSET)?);
    let init_size = u64::from(u32::from_le_bytes(image.read_at(INIT_SIZE_OFFSET)?));
    let file_end = layout::EXTENDED_START.saturating_add(image.length);
    let end = pref_address
        .max(layout::EXTENDED_START)
        .saturating_add(init_size)
        .max(file_end);
    if end > low_end(memory) {
        return Err(image.does_not_fit("Kernel", low_end(memory), end));
    }

    let cmdline_limit = u32::from_le_bytes(image.read_at(CMDLINE_SIZE_OFFSET)?).into();
    let initrd_max = u32::from_le_bytes(image.read_at(INITRD_ADDR_MAX_OFFSET)?).into();
    let start = GuestAddress(layout::EXTENDED_START);
    let loaded = BzImage::load(memory, Some(start), &mut image.file, None)
        .map_err(|source| image.load_error(source))?;
    Ok(Kernel {
        entry: Entry::Linux64(GuestAddress(layout::EXTENDED_START + ENTRY_64_OFFSET)),
        end,
        header: loaded.setup_header,
        cmdline_limit,
        initrd_max,
    })
}

fn check_protocol(
    image: &Image,
    version: u16,
    loadflags: u8,
    xloadflags: u16,
) -> Result<(), KernelError> {
    let missing = match () {
        () if version < MIN_VERSION => "",
        () if loadflags & LOADED_HIGH_BIT == 0 => " and is a zImage",
        () if xloadflags & KERNEL_64_BIT == 0 => " and no 64-bit entry",
        () => return Ok(()),
    };
    Err(KernelError::Protocol {
        path: image.path.clone(),
        version,
        missing,
    })
}
