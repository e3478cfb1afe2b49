//! The guest's physical address space and I/O ports.
//!
//! RAM is at 0 and, past a hole of 1 GiB under 4 GiB, again from 4 GiB. Devices and interrupt
//! controllers are in the hole.

/// The hole's first byte; RAM below it, the rest of RAM from [`HIGH_RAM`].
pub const HOLE_START: u64 = 0xc000_0000;
/// Where RAM goes on above the hole.
pub const HIGH_RAM: u64 = 1 << 32;

/// virtio-mmio devices, one page each.
pub const VIRTIO_MMIO_START: u64 = 0xd000_0000;
/// The pin of the I/O APIC, and so the GSI, of the first virtio device; the others follow. Those
/// below 16 were once the ISA bus's.
pub const VIRTIO_FIRST_GSI: u8 = 16;

/// The GSI of the power button: the last of the I/O APIC.
pub const POWER_BUTTON_GSI: u8 = 23;

/// I/O APIC and local APICs, where PCs have them.
pub const IO_APIC: u32 = 0xfec0_0000;
/// See [`IO_APIC`].
pub const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM needs on Intel CPUs without unrestricted guests.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// Conventional memory ends here; up to 1 MiB the BIOS area is reserved.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// RAM above the BIOS area, and where kernels may be loaded.
pub const EXTENDED_START: u64 = 0x10_0000;

/// Global descriptor table for the entry.
pub const GDT: u64 = 0x500;
/// PVH: `hvm_start_info`, then modules and memory map.
pub const PVH_START_INFO: u64 = 0x6000;
/// See [`PVH_START_INFO`].
pub const PVH_MODULES: u64 = 0x6100;
/// See [`PVH_START_INFO`].
pub const PVH_MEMORY_MAP: u64 = 0x6200;
/// The zero page (`boot_params`) of the Linux boot protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// A stack for the entry, growing down.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables for the 64-bit entry: PML4, PDPT, then page directories: four, and two for a kernel
/// above 4 GiB.
pub const PML4: u64 = 0x9000;
/// See [`PML4`].
pub const PDPT: u64 = 0xa000;
/// See [`PML4`].
pub const PAGE_DIRECTORIES: u64 = 0xb000;
/// See [`PML4`].
pub const PAGE_DIRECTORIES_END: u64 = PAGE_DIRECTORIES + 6 * 0x1000;
/// The kernel command line; room up to [`CMDLINE_MAX`] bytes and a NUL.
pub const CMDLINE: u64 = 0x2_0000;
/// The longest command line that any supported kernel could take.
pub const CMDLINE_MAX: u64 = 0xffff;

/// ACPI: the RSDP first, where firmware's would be found, the tables after it.
pub const ACPI_START: u64 = 0xe_0000;
/// The end of the tables' part of the BIOS area.
pub const ACPI_END: u64 = RESET_VECTOR;
/// Where a BIOS is entered in real mode (0xffff:0) to restart its machine.
pub const RESET_VECTOR: u64 = 0xf_fff0;

/// The first serial port (COM1).
pub const SERIAL_PORT: u16 = 0x3f8;
/// The GSI of the first serial port.
pub const SERIAL_GSI: u8 = 4;
/// The keyboard controller.
pub const KEYBOARD_PORT: u16 = 0x60;
/// ACPI's sleep control, sleep status and reset registers.
pub const ACPI_PORT: u16 = 0x600;
/// The panic port, where QEMU has it.
pub const PANIC_PORT: u16 = 0x505;
/// The boot timer's port.
pub const BOOT_TIMER_PORT: u16 = 0xf8;
/// The debug exit port, where those who use QEMU's put it.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;
