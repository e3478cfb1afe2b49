//! What all virtio devices share: the device trait and the constants of virtio 1.2.

pub mod mmio;
mod mmio_interrupt;
mod queue_setup;
mod status;

pub use mmio_interrupt::MmioInterrupt;
pub use status::DeviceStatus;

use virtio_queue::Queue;

/// VIRTIO_F_VERSION_1 (virtio 1.2 §6): the device and its driver follow virtio 1.0 or later.
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;

/// A virtio device behind a transport.
///
/// `read_config`, `write_config`, `activate`, `notify` and `reset` run on vCPU threads.
pub trait VirtioDevice: Send + Sync {
    /// The device type (virtio 1.2 §5).
    fn device_id(&self) -> u32;

    /// The feature bits on offer.
    fn features(&self) -> u64;

    /// The largest size of each queue, in descriptors; a power of two each.
    fn queue_max_sizes(&self) -> &[u16];

    /// Changes whenever the configuration space does by the device's doing (§2.5.1).
    fn config_generation(&self) -> u32;

    /// Reads from the configuration space; bytes past its end stay as they are.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// A write of the driver to the configuration space, of any offset and length.
    fn write_config(&self, offset: u64, data: &[u8]);

    /// The driver has set DRIVER_OK. `queues` are validated; one that the driver left unused is
    /// not ready.
    fn activate(&self, features: u64, queues: Vec<Queue>);

    /// The driver has put something into a queue, by its index (§4.2.2.2, QueueNotify). Must not block.
    fn notify(&self, queue: usize);

    /// Back to the state before the first driver (§2.4). When this returns, the device no longer
    /// touches its queues nor the memory that they name.
    fn reset(&self);
}
