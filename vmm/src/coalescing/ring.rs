//! The page in which KVM keeps what a guest wrote to coalesced zones, as yet unseen by anybody.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_COALESCED_MMIO_PAGE_OFFSET, kvm_coalesced_mmio, kvm_coalesced_mmio_ring};
use kvm_ioctls::VcpuFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const PAGE: usize = 4096;
/// Writes that the page holds (`KVM_COALESCED_MMIO_MAX`).
const CAPACITY: u32 = 170;
const _: () = assert!(
    CAPACITY as usize
        == (PAGE - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>()
);

/// A virtual machine's ring (`struct kvm_coalesced_mmio_ring`; `KVM_REGISTER_COALESCED_MMIO` in the kernel's
/// documentation of KVM): KVM adds at `last`, we take at `first`.
#[derive(Debug)]
pub(super) struct Ring(NonNull<kvm_coalesced_mmio_ring>);

// SAFETY: the mapping belongs to the process, and whoever takes from the ring has it for himself.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps the ring of the virtual machine that `vcpu` belongs to.
    ///
    /// # Errors
    /// When the process may have no further mapping.
    pub(super) fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        // SAFETY: the descriptor is open as long as the vCPU is there, and it is to the end of this
        // function.
        let vcpu = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        let offset = u64::from(KVM_COALESCED_MMIO_PAGE_OFFSET) * PAGE as u64;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let anywhere = std::ptr::null_mut();
        // SAFETY: a new mapping takes no memory from anybody.
        let page = unsafe { mmap(anywhere, PAGE, access, MapFlags::SHARED, vcpu, offset) }?;
        NonNull::new(page.cast())
            .map(Self)
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Hands each byte that there is to `sink`, the first written first; how many there were. Only one-byte
    /// writes are expected, since no zone is larger. A byte counts as taken once `sink` has returned.
    pub(super) fn take(&mut self, mut sink: impl FnMut(u8)) -> usize {
        let mut count = 0;
        // Nobody but us changes it.
        let mut first = self.first().load(Ordering::Relaxed) % CAPACITY;
        while first != self.last().load(Ordering::Acquire) % CAPACITY {
            // SAFETY: the entry lies in the page, and KVM has left it to us by moving `last` past it.
            let write = unsafe { self.entries().add(first as usize).read() };
            sink(write.data[0]);
            first = (first + 1) % CAPACITY;
            self.first().store(first, Ordering::Release);
            count += 1;
        }
        count
    }

    fn first(&self) -> &AtomicU32 {
        // SAFETY: the page stays mapped while `self` lives, and all access to this member is atomic: ours
        // here, the kernel's as it does it.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.0.as_ptr()).first) }
    }

    fn last(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.0.as_ptr()).last) }
    }

    fn entries(&self) -> *const kvm_coalesced_mmio {
        // SAFETY: they begin in the page, directly behind the two indices.
        unsafe { self.0.as_ptr().add(1).cast() }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the page any more.
        if let Err(error) = unsafe { munmap(self.0.as_ptr().cast(), PAGE) } {
            log::debug!("The page of KVM's ring stays mapped: {error}");
        }
    }
}
