//! What a driver writes into the queue registers, before anything of it is believed.

use virtio_queue::{Error, Queue, QueueT};
use vm_memory::GuestAddress;

use crate::GuestMemory;

/// The registers of one queue (virtio 1.2 §4.2.2).
#[derive(Clone, Debug)]
pub(super) struct QueueSetup {
    pub(super) max_size: u16,
    pub(super) size: u32,
    pub(super) ready: bool,
    /// Descriptor table, available ring, used ring: the order of the registers.
    pub(super) addresses: [u64; 3],
}

impl QueueSetup {
    /// A queue after reset.
    pub(super) fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size.into(),
            ready: false,
            addresses: [0; 3],
        }
    }

    /// Sets the lower or upper 32 bits of an address.
    pub(super) fn set_half(&mut self, area: usize, upper: bool, value: u32) {
        let value = u64::from(value);
        if let Some(address) = self.addresses.get_mut(area) {
            *address = if upper {
                *address & 0xffff_ffff | value << 32
            } else {
                *address & !0xffff_ffff | value
            };
        }
    }

    /// The queue to work with: its size a power of two within the maximum, its parts aligned
    /// (§2.7) and in guest memory.
    ///
    /// # Errors
    /// The first of these rules that the driver broke.
    pub(super) fn validate(&self, memory: &GuestMemory) -> Result<Queue, Error> {
        let mut queue = Queue::new(self.max_size)?;
        if !self.ready {
            return Ok(queue);
        }
        queue.try_set_size(u16::try_from(self.size).map_err(|_| Error::InvalidSize)?)?;
        let [descriptors, available, used] = self.addresses.map(GuestAddress);
        queue.try_set_desc_table_address(descriptors)?;
        queue.try_set_avail_ring_address(available)?;
        queue.try_set_used_ring_address(used)?;
        queue.set_ready(true);
        if queue.is_valid(memory) {
            Ok(queue)
        } else {
            Err(Error::FindMemoryRegion)
        }
    }
}
