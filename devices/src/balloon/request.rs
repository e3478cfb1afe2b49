//! What the driver puts into the queues.
//!
//! Inflate and deflate (virtio 1.2 §5.5.6): arrays of little-endian page numbers, which the device
//! only reads; a driver may split the array over descriptors. Statistics (§5.5.6.3): entries, also
//! to be read. Reporting (§5.5.6.7): the free memory itself, as if the device were to write to it.

use std::ops::Deref;

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress};

use super::QUEUE_SIZE;
use super::runs::Pages;
use super::statistics::{ENTRY_BYTES, MAX_BYTES as MAX_STATISTICS_BYTES};
use crate::memory::PageRun;
use crate::{GuestMemory, PAGE_SIZE, Pfn};

/// Bytes in a page number.
const PFN_SIZE: usize = 4;
/// The longest array that one buffer may hold, in bytes: 256 times what Linux sends (256 page
/// numbers), 256 MiB of guest memory. What is longer is read no further.
const MAX_BUFFER_BYTES: usize = 256 * 256 * PFN_SIZE;
/// The most descriptors in a buffer that are looked at: as many as the queue has (§2.7.5.3.1: a
/// chain is not longer than the queue). An indirect table, which no driver may use here, could have
/// more.
const MAX_DESCRIPTORS: usize = QUEUE_SIZE as usize;
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
    #[error("a buffer has more descriptors than the queue")]
    TooMany,
    #[error("statistics of {0} bytes are not made of entries of {ENTRY_BYTES}")]
    OddStatistics(u32),
    #[error("free memory is reported in a buffer of {0} bytes that the device may not write")]
    ReadOnly(u32),
}

/// Appends the page numbers of one buffer to `pages`.
///
/// # Errors
/// The last fault that was met. Reading never passes [`MAX_BUFFER_BYTES`].
pub(super) fn read_pages<M>(
    mut chain: DescriptorChain<M>,
    memory: &GuestMemory,
    pages: &mut Pages,
) -> Result<(), BufferFault>
where
    M: Deref<Target = GuestMemory>,
{
    let mut fault = Ok(());
    let mut left = MAX_BUFFER_BYTES;
    for descriptor in chain.by_ref().take(MAX_DESCRIPTORS) {
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
    if chain.next().is_some() {
        fault = Err(BufferFault::TooMany);
    }
    fault
}

/// Reads an array of `length` bytes; `None` when it leaves guest memory.
fn read_array(address: u64, length: usize, memory: &GuestMemory, pages: &mut Pages) -> Option<()> {
    let mut chunk = [0; CHUNK_BYTES];
    for offset in (0..length).step_by(CHUNK_BYTES) {
        let bytes = &mut chunk[..CHUNK_BYTES.min(length - offset)];
        let at = address.checked_add(u64::try_from(offset).ok()?)?;
        memory.read_slice(bytes, GuestAddress(at)).ok()?;
        let (numbers, _) = bytes.as_chunks::<PFN_SIZE>();
        pages.append(
            numbers
                .iter()
                .map(|number| Pfn(u32::from_le_bytes(*number))),
        );
    }
    Some(())
}

/// Appends the statistics of one buffer to `bytes`, which has at most [`MAX_STATISTICS_BYTES`]
/// afterwards.
///
/// # Errors
/// The last fault that was met.
pub(super) fn read_statistics<M>(
    mut chain: DescriptorChain<M>,
    memory: &GuestMemory,
    bytes: &mut Vec<u8>,
) -> Result<(), BufferFault>
where
    M: Deref<Target = GuestMemory>,
{
    let mut fault = Ok(());
    let mut total: u32 = 0;
    for descriptor in chain.by_ref().take(MAX_DESCRIPTORS) {
        if descriptor.is_write_only() {
            fault = Err(BufferFault::Writable(descriptor.len()));
            continue;
        }
        total = total.saturating_add(descriptor.len());
        let length = usize::try_from(descriptor.len()).unwrap_or(usize::MAX);
        let start = bytes.len();
        bytes.resize(start + length.min(MAX_STATISTICS_BYTES - start), 0);
        if memory
            .read_slice(&mut bytes[start..], descriptor.addr())
            .is_err()
        {
            bytes.truncate(start);
            fault = Err(BufferFault::Outside(descriptor.addr().0));
        }
    }
    if chain.next().is_some() {
        fault = Err(BufferFault::TooMany);
    }
    let odd = usize::try_from(total).is_ok_and(|total| total % ENTRY_BYTES != 0);
    if odd && fault.is_ok() {
        fault = Err(BufferFault::OddStatistics(total));
    }
    fault
}

/// Appends the whole pages of the free memory that one buffer names to `runs`.
///
/// # Errors
/// The last fault that was met.
pub(super) fn read_free_memory<M>(
    mut chain: DescriptorChain<M>,
    runs: &mut Vec<PageRun>,
) -> Result<(), BufferFault>
where
    M: Deref<Target = GuestMemory>,
{
    let mut fault = Ok(());
    for descriptor in chain.by_ref().take(MAX_DESCRIPTORS) {
        if !descriptor.is_write_only() {
            fault = Err(BufferFault::ReadOnly(descriptor.len()));
            continue;
        }
        let start = descriptor.addr().0;
        let end = start.saturating_add(descriptor.len().into()) / PAGE_SIZE;
        let start = start.div_ceil(PAGE_SIZE);
        match u32::try_from(start) {
            Ok(first) if end > start => runs.push(PageRun {
                first: Pfn(first),
                count: end - start,
            }),
            // Not a whole page.
            Ok(_) => {}
            Err(_) => fault = Err(BufferFault::Outside(descriptor.addr().0)),
        }
    }
    if chain.next().is_some() {
        fault = Err(BufferFault::TooMany);
    }
    fault
}
