//! bzImage: the kernel's own format (Linux boot protocol 2.12 and later, 64-bit entry).

use std::ops::Range;

use aerostat_devices::GuestMemory;
use linux_loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{ByteValued, GuestAddress};

use super::{Entry, Image, Kernel, KernelError, Limits, low_end};
use crate::layout;

/// Where in the file the setup header is, and what tells it.
const HEADER_OFFSET: u64 = 0x1f1;
const BOOT_FLAG_OFFSET: u64 = 0x1fe;
const MAGIC_OFFSET: u64 = 0x202;
const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: [u8; 4] = *b"HdrS";
const HEADER_BYTES: usize = size_of::<setup_header>();

const MIN_VERSION: u16 = 0x020c;
/// LOADED_HIGH: the protected-mode code is loaded at 1 MiB.
const LOADED_HIGH_BIT: u8 = 1;
/// XLF_KERNEL_64: there is a 64-bit entry at 0x200.
const KERNEL_64_BIT: u16 = 1;
/// XLF_CAN_BE_LOADED_ABOVE_4G.
const ABOVE_4G_BIT: u16 = 1 << 1;
const ENTRY_64_OFFSET: u64 = 0x200;
const SECTOR: u64 = 512;
/// setup_sects 0 means 4, for the oldest kernels.
const DEFAULT_SETUP_SECTS: u64 = 4;
/// syssize counts paragraphs.
const PARAGRAPH: u64 = 16;

/// Whether the file has the magic of a bzImage.
pub(super) fn recognise(image: &Image) -> Result<bool, KernelError> {
    if image.length() < MAGIC_OFFSET + 4 {
        return Ok(false);
    }
    let boot_flag = u16::from_le_bytes(image.read_at(BOOT_FLAG_OFFSET)?);
    let magic: [u8; 4] = image.read_at(MAGIC_OFFSET)?;
    Ok(boot_flag == BOOT_FLAG && magic == MAGIC)
}

/// The setup header of a file that has all that the header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header(setup_header);

impl Header {
    /// Reads and checks the header of a file that was recognised, and that its kernel fits into
    /// `memory`.
    pub(super) fn read(image: &Image, memory: &GuestMemory) -> Result<Self, KernelError> {
        let mut fields = setup_header::default();
        let bytes: [u8; HEADER_BYTES] = image.read_at(HEADER_OFFSET)?;
        fields.as_mut_slice().copy_from_slice(&bytes);
        let header = Self(fields);
        header.check_protocol(image)?;
        let needed = header.setup_bytes() + u64::from(fields.syssize) * PARAGRAPH;
        if image.length() < needed {
            return Err(image.truncated(needed));
        }
        let end = header.end().max(layout::EXTENDED_START + image.length());
        if end > low_end(memory) {
            return Err(image.does_not_fit("Kernel", low_end(memory), end));
        }
        Ok(header)
    }

    fn check_protocol(&self, image: &Image) -> Result<(), KernelError> {
        let version = self.0.version;
        let missing = match () {
            () if version < MIN_VERSION => "",
            () if self.0.loadflags & LOADED_HIGH_BIT == 0 => " and is a zImage",
            () if self.0.xloadflags & KERNEL_64_BIT == 0 => " and no 64-bit entry",
            () => return Ok(()),
        };
        Err(image.protocol(version, missing))
    }

    /// The header itself.
    pub(super) fn fields(&self) -> setup_header {
        self.0
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            end: self.end(),
            cmdline: self.0.cmdline_size.into(),
            initrd_max: self.0.initrd_addr_max.into(),
        }
    }

    /// Where the kernel had best be, and where it lies when nobody moves it.
    pub(super) fn preferred(&self) -> u64 {
        self.0.pref_address
    }

    /// Bytes that it uses from there before it knows the memory map.
    pub(super) fn init_bytes(&self) -> u64 {
        self.0.init_size.into()
    }

    /// What the kernel's address is a multiple of.
    pub(super) fn alignment(&self) -> u64 {
        self.0.kernel_alignment.into()
    }

    /// Whether it can be elsewhere in physical memory than where it prefers to be.
    pub(super) fn is_relocatable(&self) -> bool {
        self.0.relocatable_kernel != 0
    }

    pub(super) fn can_be_above_4_gib(&self) -> bool {
        self.0.xloadflags & ABOVE_4G_BIT != 0
    }

    /// Where the compressed kernel is in the file: inside the file, as far as the header is right.
    pub(super) fn payload(&self) -> Range<u64> {
        let start = self.setup_bytes() + u64::from(self.0.payload_offset);
        start..start + u64::from(self.0.payload_length)
    }

    /// Bytes of the file before the protected-mode code.
    fn setup_bytes(&self) -> u64 {
        let sectors = match self.0.setup_sects {
            0 => DEFAULT_SETUP_SECTS,
            sectors => sectors.into(),
        };
        (sectors + 1) * SECTOR
    }

    fn end(&self) -> u64 {
        let start = self.preferred().max(layout::EXTENDED_START);
        start.saturating_add(self.init_bytes())
    }
}

/// Loads the file as it is: the guest decompresses its kernel.
pub(super) fn load(
    image: &mut Image,
    header: &Header,
    memory: &GuestMemory,
) -> Result<Kernel, KernelError> {
    let start = GuestAddress(layout::EXTENDED_START);
    let loaded = BzImage::load(memory, Some(start), image.file_mut(), None);
    let loaded = loaded.map_err(|source| image.load_error(source))?;
    Ok(Kernel {
        entry: Entry::Linux64(GuestAddress(layout::EXTENDED_START + ENTRY_64_OFFSET)),
        range: layout::EXTENDED_START..header.end(),
        header: loaded.setup_header,
    })
}
