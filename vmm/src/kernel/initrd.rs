//! The initial RAM disk: as high below the hole as the kernel allows, clear of the kernel.

use std::io::Seek;
use std::ops::Range;

use aerostat_devices::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::{Image, KernelError, Limits, low_end};
use crate::units::PAGE_SIZE;

/// An initrd in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Initrd {
    pub(crate) start: GuestAddress,
    pub(crate) bytes: u64,
}

impl Initrd {
    /// The addresses that it takes.
    pub(crate) fn range(&self) -> Range<u64> {
        self.start.0..self.start.0.saturating_add(self.bytes)
    }
}

/// Where an initrd goes: behind a kernel with these `limits`.
///
/// # Errors
/// When guest memory is too small for both.
pub(crate) fn place_initrd(
    image: &mut Image,
    limits: &Limits,
    memory: &GuestMemory,
) -> Result<Initrd, KernelError> {
    image.refresh()?;
    let bytes = image.length();
    let low_end = low_end(memory);
    let end = low_end.min(limits.initrd_max.saturating_add(1));
    let start = place(bytes, limits.end, end);
    let start = start.ok_or_else(|| {
        let needed = limits.end.next_multiple_of(PAGE_SIZE).saturating_add(bytes);
        image.does_not_fit("Initrd", low_end, needed)
    })?;
    Ok(Initrd { start, bytes })
}

/// Loads an initrd to its place.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn load_initrd(
    image: &mut Image,
    initrd: Initrd,
    memory: &GuestMemory,
) -> Result<(), KernelError> {
    let file = image.file_mut();
    file.rewind().map_err(|source| image.read_error(source))?;
    let length = usize::try_from(initrd.bytes).unwrap_or(usize::MAX);
    memory
        .read_exact_volatile_from(initrd.start, image.file_mut(), length)
        .map_err(|_| image.truncated(initrd.bytes))
}

/// The highest page at which `bytes` fit between `from` and `to`.
fn place(bytes: u64, from: u64, to: u64) -> Option<GuestAddress> {
    let start = to.checked_sub(bytes)? / PAGE_SIZE * PAGE_SIZE;
    (start >= from).then_some(GuestAddress(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initrd_ends_at_the_end_of_memory() {
        assert_eq!(
            place(0x1000, 0x10_0000, 0x400_0000),
            Some(GuestAddress(0x3ff_f000))
        );
        assert_eq!(
            place(0x1001, 0x10_0000, 0x400_0000),
            Some(GuestAddress(0x3ff_e000))
        );
    }

    #[test]
    fn initrd_that_would_reach_into_the_kernel_has_no_place() {
        assert_eq!(place(0x1000, 0x3ff_f001, 0x400_0000), None);
        assert_eq!(place(u64::MAX, 0, 0x400_0000), None);
    }
}
