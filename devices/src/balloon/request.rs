//! The buffers of the inflate and deflate queues: arrays of little-endian page numbers.
//!
//! virtio 1.2 §5.5.6: "the driver constructs an array of addresses of unused memory pages …
//! divided by 4096". The device only reads; a driver may split the array over descriptors.

use std::ops::Deref;

use virtio_queue::DescriptorChain;
use vm_memory::Bytes;

use crate::{GuestMemory, Pfn};

/// Bytes in a page number.
const PFN_SIZE: usize = 4;
/// The longest array that one buffer may hold, in bytes: 256 times what Linux sends (256 page
/// numbers), 256 MiB of guest memory. What is longer is read no further.
const MAX_BUFFER_BYTES: usize = 256 * 256 * PFN_SIZE;
/// Bytes copied out of guest memory at a time.
const CHUNK_BYTES: usize = 1024;

/// What was wrong with a buffer; what could be read of it counts all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BufferFault {
    #[error("a buffer has {0} bytes for the device to write, which it never does")]
    Writable(u32),
    #[error("a buffer of {0} bytes is not made of 4-byte page numbers")]
    OddLength(u32),
    #[error("a buffer at {0:#x} is not in memory")]
    Outside(u64),
    #[error("a buffer is longer than {MAX_BUFFER_BYTES} bytes")]
    TooLong,
}

/// Appends the page numbers of one buffer to `pages`.
///
/// # Errors
/// The last fault that was met. Reading never passes [`MAX_BUFFER_BYTES`].
pub(super) fn read_pages<M>(
    chain: DescriptorChain<M>,
    memory: &GuestMemory,
    pages: &mut Vec<Pfn>,
) -> Result<(), BufferFault>
where
    M: Deref<Target = GuestMemory>,
{
    let mut fault = Ok(());
    let mut left = MAX_BUFFER_BYTES;
    for descriptor in chain {
        if descriptor.is_write_only() {
            fault = Err(BufferFault::Writable(descriptor.len()));
            continue;
        }
        let length = usize::try_from(descriptor.len()).unwrap_or(usize::MAX);
        if length % PFN_SIZE != 0 {
            fault = Err(BufferFault::OddLength(descriptor.len()));
        }
        if length > left {
            fault = Err(BufferFault::TooLong);
        }
        let length = length.min(left) / PFN_SIZE * PFN_SIZE;
        left -= length;
        if read_array(descriptor.addr().0, length, memory, pages).is_none() {
            fault = Err(BufferFault::Outside(descriptor.addr().0));
        }
    }
    fault
}

/// Reads an array of `length` bytes; `None` when it leaves guest memory.
fn read_array(
    address: u64,
    length: usize,
    memory: &GuestMemory,
    pages: &mut Vec<Pfn>,
) -> Option<()> {
    let mut chunk = [0; CHUNK_BYTES];
    for offset in (0..length).step_by(CHUNK_BYTES) {
        let bytes = &mut chunk[..CHUNK_BYTES.min(length - offset)];
        let at = address.checked_add(u64::try_from(offset).ok()?)?;
        memory.read_slice(bytes, vm_memory::GuestAddress(at)).ok()?;
        let (numbers, _) = bytes.as_chunks::<PFN_SIZE>();
        pages.extend(
            numbers
                .iter()
                .map(|&number| Pfn(u32::from_le_bytes(number))),
        );
    }
    Some(())
}
