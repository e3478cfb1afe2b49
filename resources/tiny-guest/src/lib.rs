//! A bare-metal guest of a few hundred instructions, for tests and benchmarks.
//!
//! It runs on any `/dev/kvm`, also where each guest instruction is emulated, and does what a
//! script tells it: memory and port accesses, polling, printing on the serial port. The script
//! travels as the initrd, the guest itself as an ELF kernel ([`script_elf`]). With it the
//! start-up, the virtio-mmio transport, the balloon and hostile accesses are tested in
//! milliseconds. For measurements of start-up there are guests that do nothing but say that
//! they run ([`hello_elf`], [`goodbye_elf`], [`halt_elf`]).

mod balloon;
mod elf;
mod hostile;
mod script;

pub use balloon::BalloonDriver;
pub use hostile::{Attack, HostileGuest};
pub use script::{OTHERS_COUNTER, Script};

/// Where the guest is loaded and entered (guest-physical).
pub const LOAD_ADDRESS: u64 = 0x10_0000;

std::arch::global_asm!(include_str!("guest.S"));
std::arch::global_asm!(include_str!("pvh.S"));
std::arch::global_asm!(include_str!("programs.S"));

/// The guest that runs a [`Script`]: an ELF kernel with a 64-bit entry and no PVH note.
#[must_use]
pub fn script_elf() -> Vec<u8> {
    elf::kernel(interpreter(), None)
}

/// The same with a PVH entry alone, for machines that have no other for an ELF kernel, as QEMU's.
/// It takes the 24 KiB from 0x110000 for page tables.
#[must_use]
pub fn script_pvh_elf() -> Vec<u8> {
    unsafe extern "C" {
        static aerostat_tiny_guest_pvh_start: u8;
        static aerostat_tiny_guest_pvh_end: u8;
    }
    // SAFETY: both symbols delimit one object that `pvh.S` places in read-only data.
    let entry = unsafe {
        let start = &raw const aerostat_tiny_guest_pvh_start;
        let end = &raw const aerostat_tiny_guest_pvh_end;
        std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    };
    elf::kernel(&[entry, interpreter()].concat(), Some(LOAD_ADDRESS))
}

fn interpreter() -> &'static [u8] {
    unsafe extern "C" {
        static aerostat_tiny_guest_start: u8;
        static aerostat_tiny_guest_end: u8;
    }
    // SAFETY: both symbols delimit one object that `guest.S` places in read-only data.
    unsafe {
        let start = &raw const aerostat_tiny_guest_start;
        let end = &raw const aerostat_tiny_guest_end;
        std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    }
}

/// A static Linux program, `debug-exit VALUE`, by which a test in a guest ends its machine through
/// the debug exit port.
#[must_use]
pub fn debug_exit_program() -> Vec<u8> {
    unsafe extern "C" {
        static aerostat_debug_exit_start: u8;
        static aerostat_debug_exit_end: u8;
    }
    // SAFETY: both symbols delimit one object that `programs.S` places in read-only data.
    let code = unsafe {
        let start = &raw const aerostat_debug_exit_start;
        let end = &raw const aerostat_debug_exit_end;
        std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    };
    elf::program(code)
}

/// A static Linux program, `boot-timer VALUE`, by which a guest tells the boot timer how far its boot
/// has come.
#[must_use]
pub fn boot_timer_program() -> Vec<u8> {
    unsafe extern "C" {
        static aerostat_boot_timer_start: u8;
        static aerostat_boot_timer_end: u8;
    }
    // SAFETY: both symbols delimit one object that `programs.S` places in read-only data.
    let code = unsafe {
        let start = &raw const aerostat_boot_timer_start;
        let end = &raw const aerostat_boot_timer_end;
        std::slice::from_raw_parts(start, end.offset_from_unsigned(start))
    };
    elf::program(code)
}

/// The start of both greeting guests, the same bytes in 32-bit and in 64-bit mode:
/// `mov dx, 0x3f8; mov al, '!'; out dx, al`.
const GREET: [u8; 7] = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'!', 0xee];
/// `cli; 1: hlt; jmp 1b`
const HALT: [u8; 4] = [0xfa, 0xf4, 0xeb, 0xfd];

/// A guest that writes one `!` to the serial port at 0x3f8, then resets the machine through the
/// keyboard controller (0xfe to port 0x64). It has a PVH note, and its code is valid in 32-bit
/// and 64-bit mode, so that every VMM with either entry can start it.
#[must_use]
pub fn hello_elf() -> Vec<u8> {
    // mov al, 0xfe; out 0x64, al
    let reset = [0xb0, 0xfe, 0xe6, 0x64];
    elf::kernel(&[&GREET[..], &reset, &HALT].concat(), Some(LOAD_ADDRESS))
}

/// As [`hello_elf`], but the guest powers its machine off: ACPI S5 through the sleep control
/// register at port 0x600.
#[must_use]
pub fn goodbye_elf() -> Vec<u8> {
    // mov dx, 0x600; mov al, 0x34; out dx, al
    let power_off = [0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee];
    elf::kernel(
        &[&GREET[..], &power_off, &HALT].concat(),
        Some(LOAD_ADDRESS),
    )
}

/// As [`hello_elf`], but the guest halts for ever after its greeting.
#[must_use]
pub fn halt_elf() -> Vec<u8> {
    elf::kernel(&[&GREET[..], &HALT].concat(), Some(LOAD_ADDRESS))
}
