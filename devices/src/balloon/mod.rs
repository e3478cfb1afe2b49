//! The memory balloon (virtio 1.2 §5.5): the guest gives pages, the host gets their memory.
//!
//! `config` is what guest and host tell each other, `request` the page numbers of the
//! guest's buffers, `runs` how they are put together, `device` the device, and `events`
//! what the device thread calls.

mod config;
mod device;
mod events;
mod request;
mod runs;

pub use device::{Balloon, BalloonOptions, BalloonSink};
pub use events::BalloonEvents;

/// The device type of the traditional balloon (§5.5.1).
const DEVICE_ID: u32 = 5;

/// Feature bit 2, VIRTIO_BALLOON_F_DEFLATE_ON_OOM (§5.5.3): the guest may take pages back when
/// it is short of memory.
const F_DEFLATE_ON_OOM: u64 = 1 << 2;

/// Queues (§5.5.2): inflate, then deflate. Those of features that are not negotiated do not
/// exist, and later ones are numbered without a gap.
const QUEUE_COUNT: usize = 2;
const INFLATE_QUEUE: usize = 0;

/// Descriptors in each queue; as in QEMU. Linux has one buffer in flight.
const QUEUE_SIZE: u16 = 128;

/// Page numbers taken from the guest before their memory is released: 16 MiB of guest memory.
/// It bounds what a guest can make the device keep, and for how long its reset may wait, and
/// still lets the runs of many buffers merge.
const MAX_BATCH_PAGES: usize = 4096;

/// Batches of one queue before the device thread looks at other events again.
const MAX_BATCHES: usize = 64;
