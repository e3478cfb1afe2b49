//! The start info of the PVH boot protocol: what a PVH entry finds behind EBX.
//!
//! Xen's `hvm_start_info`, version 1 (with a memory map).

use aerostat_devices::GuestMemory;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::kernel::Initrd;
use crate::layout;
use crate::memory::E820Entry;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;

/// Writes start info, module list and memory map.
pub(crate) fn write(
    initrd: Option<Initrd>,
    memory_map: &[E820Entry],
    rsdp: GuestAddress,
    memory: &GuestMemory,
) -> Result<(), GuestMemoryError> {
    let mut start_info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: rsdp.0,
        memmap_paddr: layout::PVH_MEMORY_MAP,
        memmap_entries: u32::try_from(memory_map.len()).unwrap_or(0),
        ..Default::default()
    };
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry {
            paddr: initrd.start.0,
            size: initrd.bytes,
            ..Default::default()
        };
        memory.write_obj(module, GuestAddress(layout::PVH_MODULES))?;
        start_info.nr_modules = 1;
        start_info.modlist_paddr = layout::PVH_MODULES;
    }
    let slots = (layout::PVH_MEMORY_MAP..).step_by(size_of::<hvm_memmap_table_entry>());
    for (slot, entry) in slots.zip(memory_map) {
        let entry = hvm_memmap_table_entry {
            addr: entry.start,
            size: entry.bytes,
            type_: entry.kind as u32,
            reserved: 0,
        };
        memory.write_obj(entry, GuestAddress(slot))?;
    }
    memory.write_obj(start_info, GuestAddress(layout::PVH_START_INFO))
}
