//! The state in which vCPUs start, and in which the first of them enters a kernel.
//!
//! Linux boot protocol, "64-bit Boot Protocol": long mode, flat segments, the first GiB (here:
//! 4 GiB) identity mapped, RSI = zero page. PVH: 32-bit protected mode, flat segments, no
//! paging, EBX = start info.

use std::ops::Range;

use aerostat_devices::GuestMemory;
use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::kernel::{Entry, Kernel};
use crate::layout;

/// A vCPU could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The page tables or descriptors could not be written.
    #[error("Cannot write page tables to guest memory")]
    Memory(#[from] GuestMemoryError),
    /// KVM refused a part of the state.
    #[error("KVM refuses the vCPU's {part}")]
    State {
        /// Which part.
        part: &'static str,
        /// The reason.
        #[source]
        source: kvm_ioctls::Error,
    },
}

const CR0_PROTECTED_MODE: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS_RESERVED: u64 = 2;

const PAGE_PRESENT: u64 = 1;
const PAGE_WRITABLE: u64 = 1 << 1;
/// In a page directory: the entry maps 2 MiB.
const PAGE_LARGE: u64 = 1 << 7;
const PAGE_TABLE_ENTRIES: u64 = 512;
const PAGE_TABLE_BYTES: usize = 4096;
const LARGE_PAGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
/// Page directories that there always are, a GiB each.
const DIRECTORIES: u64 = 4;

/// IA32_MISC_ENABLE: fast string operations.
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
/// IA32_MTRR_DEF_TYPE: enabled, write-back.
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED: u64 = 1 << 11;
const MTRR_WRITE_BACK: u64 = 6;
/// The x87 control word and MXCSR after FNINIT and reset.
const FPU_CONTROL_WORD: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;
const CODE_READABLE: u8 = 0xb;
const DATA_WRITABLE: u8 = 0x3;
const TASK_BUSY: u8 = 0xb;

/// Brings the first vCPU to the kernel's entry.
///
/// # Errors
/// When KVM refuses, or guest memory cannot be written.
pub(crate) fn enter(
    vcpu: &VcpuFd,
    kernel: &Kernel,
    memory: &GuestMemory,
) -> Result<(), EntryError> {
    let fpu = kvm_fpu {
        fcw: FPU_CONTROL_WORD,
        mxcsr: MXCSR,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu)
        .map_err(refused("floating-point state"))?;
    vcpu.set_regs(&general_registers(kernel.entry))
        .map_err(refused("registers"))?;
    set_special_registers(vcpu, kernel, memory)
}

fn refused(part: &'static str) -> impl Fn(kvm_ioctls::Error) -> EntryError {
    move |source| EntryError::State { part, source }
}

/// Sets what firmware sets on every CPU alike; a CPU that is woken later keeps it.
///
/// # Errors
/// When KVM refuses.
pub(crate) fn set_msrs(vcpu: &VcpuFd) -> Result<(), EntryError> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let entries = [
        entry(MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLED | MTRR_WRITE_BACK),
    ];
    let refused = refused("model-specific registers");
    let Ok(msrs) = Msrs::from_entries(&entries) else {
        return Err(refused(kvm_ioctls::Error::new(libc::E2BIG)));
    };
    match vcpu.set_msrs(&msrs).map_err(&refused)? {
        written if written == entries.len() => Ok(()),
        _ => Err(refused(kvm_ioctls::Error::new(libc::EINVAL))),
    }
}

fn general_registers(entry: Entry) -> kvm_regs {
    let common = kvm_regs {
        rflags: RFLAGS_RESERVED,
        ..Default::default()
    };
    match entry {
        Entry::Linux64(address) => kvm_regs {
            rip: address.0,
            rsi: layout::ZERO_PAGE,
            rsp: layout::BOOT_STACK,
            rbp: layout::BOOT_STACK,
            ..common
        },
        Entry::Pvh(address) => kvm_regs {
            rip: address.0,
            rbx: layout::PVH_START_INFO,
            ..common
        },
    }
}

fn set_special_registers(
    vcpu: &VcpuFd,
    kernel: &Kernel,
    memory: &GuestMemory,
) -> Result<(), EntryError> {
    let mut sregs = vcpu.get_sregs().map_err(refused("special registers"))?;
    let long_mode = matches!(kernel.entry, Entry::Linux64(_));
    let code = segment(CODE_SELECTOR, CODE_READABLE, long_mode);
    let data = segment(DATA_SELECTOR, DATA_WRITABLE, false);
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = task_segment();
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = write_gdt(&[code, data, sregs.tr], memory)?;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PROTECTED_MODE | CR0_EXTENSION_TYPE;
    if long_mode {
        write_page_tables(&kernel.range, memory)?;
        sregs.cr3 = layout::PML4;
        sregs.cr4 |= CR4_PAE;
        sregs.cr0 |= CR0_PAGING;
        sregs.efer |= EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE;
    }
    vcpu.set_sregs(&sregs).map_err(refused("special registers"))
}

/// A flat segment of 4 GiB, 64-bit code where `long_mode` says so.
fn segment(selector: u16, type_: u8, long_mode: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: u8::from(!long_mode),
        s: 1,
        l: u8::from(long_mode),
        g: 1,
        ..Default::default()
    }
}

/// CPUs with virtualisation refuse to enter a guest without a busy task segment.
fn task_segment() -> kvm_segment {
    kvm_segment {
        limit: 0x67,
        selector: TASK_SELECTOR,
        type_: TASK_BUSY,
        present: 1,
        ..Default::default()
    }
}

/// Writes two null descriptors, then `segments`; returns the table's limit.
fn write_gdt(segments: &[kvm_segment], memory: &GuestMemory) -> Result<u16, GuestMemoryError> {
    let mut limit = 15;
    for segment in segments {
        memory.write_obj(
            descriptor(segment),
            GuestAddress(layout::GDT + u64::from(segment.selector)),
        )?;
        limit = segment.selector + 7;
    }
    Ok(limit)
}

/// A segment as it stands in a descriptor table (Intel SDM volume 3A §3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 {
        segment.limit >> 12
    } else {
        segment.limit
    });
    let flags = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7
        | u64::from(segment.avl) << 12
        | u64::from(segment.l) << 13
        | u64::from(segment.db) << 14
        | u64::from(segment.g) << 15;
    let base = segment.base;
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | flags << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56
}

/// Maps the first 4 GiB onto themselves in pages of 2 MiB, and all of the kernel, which is in the
/// first 512 GiB.
fn write_page_tables(kernel: &Range<u64>, memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    let link = PAGE_PRESENT | PAGE_WRITABLE;
    memory.write_obj(layout::PDPT | link, GuestAddress(layout::PML4))?;
    let of_kernel = kernel.start / GIB..kernel.end.div_ceil(GIB);
    let gibs = (0..DIRECTORIES).chain(of_kernel.skip_while(|gib| *gib < DIRECTORIES));
    let tables = layout::PAGE_DIRECTORIES..layout::PAGE_DIRECTORIES_END;
    for (gib, table) in gibs.zip(tables.step_by(PAGE_TABLE_BYTES)) {
        memory.write_obj(table | link, GuestAddress(layout::PDPT + gib * 8))?;
        let mut entries = Vec::with_capacity(PAGE_TABLE_BYTES);
        for page in 0..PAGE_TABLE_ENTRIES {
            let address = gib * GIB + page * LARGE_PAGE;
            entries.extend((address | link | PAGE_LARGE).to_le_bytes());
        }
        memory.write_slice(&entries, GuestAddress(table))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_segments_have_the_descriptors_of_the_manuals() {
        let code_64 = descriptor(&segment(CODE_SELECTOR, CODE_READABLE, true));
        let code_32 = descriptor(&segment(CODE_SELECTOR, CODE_READABLE, false));
        let data = descriptor(&segment(DATA_SELECTOR, DATA_WRITABLE, false));
        assert_eq!(code_64, 0x00af_9b00_0000_ffff);
        assert_eq!(code_32, 0x00cf_9b00_0000_ffff);
        assert_eq!(data, 0x00cf_9300_0000_ffff);
    }

    #[test]
    fn page_tables_map_addresses_onto_themselves() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_page_tables(&(16 << 20..64 << 20), &memory).unwrap();
        let entry = |address: u64| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        assert_eq!(entry(layout::PML4), layout::PDPT | 3);
        assert_eq!(
            entry(layout::PDPT + 24),
            (layout::PAGE_DIRECTORIES + 0x3000) | 3
        );
        assert_eq!(entry(layout::PAGE_DIRECTORIES + 8), LARGE_PAGE | 0x83);
        assert_eq!(
            entry(layout::PAGE_DIRECTORIES + 0x3ff8),
            ((4 << 30) - LARGE_PAGE) | 0x83
        );
        assert_eq!(entry(layout::PDPT + 32), 0);
    }

    #[test]
    fn page_tables_map_a_kernel_above_4_gib_too() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write_page_tables(&((7 << 30) - 4096..(7 << 30) + 4096), &memory).unwrap();
        let entry = |address: u64| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        let directories = [4, 5].map(|index| layout::PAGE_DIRECTORIES + index * 4096);
        assert_eq!(entry(layout::PDPT + 6 * 8), directories[0] | 3);
        assert_eq!(entry(layout::PDPT + 7 * 8), directories[1] | 3);
        assert_eq!(entry(directories[0] + 8), ((6 << 30) + LARGE_PAGE) | 0x83);
        assert_eq!(entry(directories[1]), (7 << 30) | 0x83);
    }
}
