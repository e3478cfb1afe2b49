//! The zero page: what the 64-bit entry of Linux finds behind RSI.
//!
//! Linux boot protocol 2.12 and later, "The Real-Mode Kernel Header" and "64-bit Boot Protocol".

use aerostat_devices::GuestMemory;
use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::kernel::{Initrd, Kernel};
use crate::layout;
use crate::memory::E820Entry;

/// type_of_loader for a loader without an assigned number.
const UNDEFINED_LOADER: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// What an ELF kernel, which has no header of its own, is told of the protocol.
const PROTOCOL: u16 = 0x020c;

/// Writes the zero page.
pub(crate) fn write(
    kernel: &Kernel,
    initrd: Option<Initrd>,
    cmdline_length: usize,
    memory_map: &[E820Entry],
    rsdp: GuestAddress,
    memory: &GuestMemory,
) -> Result<(), GuestMemoryError> {
    let mut params = boot_params {
        hdr: header(kernel),
        ..Default::default()
    };
    params.hdr.type_of_loader = UNDEFINED_LOADER;
    params.hdr.cmd_line_ptr = address(layout::CMDLINE);
    params.hdr.cmdline_size = u32::try_from(cmdline_length).unwrap_or(u32::MAX);
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = address(initrd.start.0);
        params.hdr.ramdisk_size = address(initrd.bytes);
    }
    params.acpi_rsdp_addr = rsdp.0;
    for (slot, entry) in params.e820_table.iter_mut().zip(memory_map) {
        *slot = boot_e820_entry {
            addr: entry.start,
            size: entry.bytes,
            r#type: entry.kind as u32,
        };
    }
    params.e820_entries = u8::try_from(memory_map.len()).unwrap_or(u8::MAX);
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))
}

/// The kernel's own header, or one that an ELF kernel accepts.
fn header(kernel: &Kernel) -> setup_header {
    kernel.header.unwrap_or(setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        version: PROTOCOL,
        ..Default::default()
    })
}

/// Everything that the header points to lies below the hole, so below 4 GiB.
fn address(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
