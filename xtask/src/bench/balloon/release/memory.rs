//! A GiB of a guest's memory as a machine has it: anonymous, private, and a slot of KVM.

use std::ffi::c_void;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::ptr;

use aerostat_devices::{GuestRam, RamOptions};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VmFd};
use rustix::mm::{Advice, madvise};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::order::{Order, PAGES, Run};
use crate::chain;
use crate::error::{Error, FileContext, Result};

/// A huge page of the host.
const HUGE_BYTES: usize = 2 << 20;
/// Memory in front of the pages to give, for the driver's rings and buffers: one huge page.
pub const FIRST_PAGE: u32 = 512;
/// All of it.
const BYTES: usize = (PAGES as usize + FIRST_PAGE as usize) * PAGE_BYTES;
/// A page of the guest.
const PAGE_BYTES: usize = 4096;
/// What the host may count otherwise than we do, in percent.
const TOLERANCE_PERCENT: usize = 2;

/// Guest memory in a slot.
pub struct Slot {
    order: Order,
    // The slot is KVM's for as long as this is open; it goes before the memory.
    _vm: VmFd,
    /// The first page to give.
    pages: *mut u8,
    /// As the device has it.
    pub ram: GuestRam,
}

impl Slot {
    /// Maps it as a machine does; with huge pages behind it, or without any.
    ///
    /// # Errors
    ///
    /// When the host has not so much memory, or there is no KVM.
    pub fn new(order: Order) -> Result<Self> {
        let options = RamOptions {
            thp: Some(order == Order::Huge),
            ..RamOptions::default()
        };
        let ranges = [(GuestAddress(0), BYTES as u64)];
        let ram = GuestRam::map(&ranges, options, &mut |_| ControlFlow::Continue(()));
        let ram = ram.map_err(|error| Error::Check(chain(&error)))?;
        let start = ram.memory().get_host_address(GuestAddress(0));
        let start = start.map_err(|error| Error::Check(chain(&error)))?;
        let vm = register(start)?;
        // SAFETY: the mapping goes on far behind its first huge page.
        let pages = unsafe { start.add(HUGE_BYTES) };
        Ok(Self {
            order,
            ram,
            pages,
            _vm: vm,
        })
    }

    /// Writes into each page to give, so that the host has memory behind it.
    ///
    /// # Errors
    ///
    /// When the host has not the memory behind it that it should.
    pub fn write_all(&self) -> Result<()> {
        let before = resident_pages()?;
        for page in 0..PAGES as usize {
            // SAFETY: one of the mapping's pages to give.
            unsafe { ptr::write_volatile(self.pages.add(page * PAGE_BYTES), 1) };
        }
        self.check(resident_pages()?.saturating_sub(before), "has taken")?;
        match self.order {
            Order::Huge => self.collapse(),
            Order::Neighbours | Order::Scattered => Ok(()),
        }
    }

    /// Puts huge pages behind all pages to give: those whose parts have been dropped one by one do
    /// not come back by themselves.
    fn collapse(&self) -> Result<()> {
        let bytes = PAGES as usize * PAGE_BYTES;
        // SAFETY: the range is mapped, and no contents change.
        let result = unsafe { libc::madvise(self.pages.cast(), bytes, libc::MADV_COLLAPSE) };
        if result != 0 {
            return Err(Error::System {
                action: "put huge pages behind memory (MADV_COLLAPSE, Linux 6.1)",
                source: io::Error::last_os_error(),
            });
        }
        Ok(())
    }

    /// Drops runs of pages, with a call for each.
    ///
    /// # Errors
    ///
    /// When the host refuses.
    pub fn drop_runs(&self, runs: &[Run]) -> Result<()> {
        for (first, count) in runs {
            self.drop_run(*first as usize, *count as usize)?;
        }
        Ok(())
    }

    /// Drops pages in their order, with a call for each.
    ///
    /// # Errors
    ///
    /// When the host refuses.
    pub fn drop_pages(&self, pages: &[u32]) -> Result<()> {
        for page in pages {
            self.drop_run(*page as usize, 1)?;
        }
        Ok(())
    }

    fn drop_run(&self, first: usize, count: usize) -> Result<()> {
        debug_assert!(first + count <= PAGES as usize);
        // SAFETY: pages of guest memory, to which nothing refers.
        let dropped = unsafe {
            let start = self.pages.add(first * PAGE_BYTES);
            madvise(
                start.cast::<c_void>(),
                count * PAGE_BYTES,
                Advice::LinuxDontNeed,
            )
        };
        dropped.map_err(system("drop pages"))
    }

    /// Checks that the host has got all pages back since it had `before`.
    ///
    /// # Errors
    ///
    /// When it has not.
    pub fn check_dropped(&self, before: usize) -> Result<()> {
        self.check(before.saturating_sub(resident_pages()?), "got back")
    }

    fn check(&self, pages: usize, what: &str) -> Result<()> {
        if pages >= PAGES as usize * (100 - TOLERANCE_PERCENT) / 100 {
            return Ok(());
        }
        Err(Error::Check(format!(
            "The host {what} {pages} pages of {PAGES}"
        )))
    }
}

/// Pages of this process that are in RAM.
///
/// # Errors
///
/// When the kernel does not say.
pub fn resident_pages() -> Result<usize> {
    let path = Path::new("/proc/self/statm");
    let text = fs::read_to_string(path).file("read", path)?;
    let field = text
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok());
    field.ok_or_else(|| Error::Check(format!("{} has no number", path.display())))
}

fn register(start: *mut u8) -> Result<VmFd> {
    let refused = |error: kvm_ioctls::Error| Error::System {
        action: "make a virtual machine with memory",
        source: error.into(),
    };
    let vm = Kvm::new()
        .and_then(|kvm| kvm.create_vm())
        .map_err(refused)?;
    let region = kvm_userspace_memory_region {
        memory_size: BYTES as u64,
        userspace_addr: start as u64,
        ..Default::default()
    };
    // SAFETY: the mapping has this length, and outlives the machine that has it as its memory.
    unsafe { vm.set_user_memory_region(region) }.map_err(refused)?;
    Ok(vm)
}

fn system(action: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |source| Error::System {
        action,
        source: source.into(),
    }
}
