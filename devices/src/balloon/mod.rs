//! The memory balloon (virtio 1.2 §5.5): the guest gives pages, the host gets their memory.
//!
//! `features` is what is on offer, `config` what guest and host tell each other, `request` what
//! the guest puts into the queues, `runs` how its pages are put together, `huge_pages` which of them
//! wait for the rest of their huge page, `statistics` and `polling` what it says of its memory and
//! when it is asked, `reporting` what becomes of free memory that it tells of by itself, `pausable`
//! a timer whose time stands still, `device` the device, `device::service` what the device thread
//! does with the queues, `device::release` how pages go back to the host, and `events` what its loop
//! calls.

mod config;
mod device;
mod events;
mod features;
mod huge_pages;
mod pausable;
mod polling;
mod reporting;
mod request;
mod runs;
mod statistics;

use std::time::Duration;

pub use device::{Balloon, BalloonNews, BalloonSink};
pub use events::BalloonEvents;
pub use features::{BalloonOptions, F_DEFLATE_ON_OOM, F_REPORTING, F_STATS_VQ, feature_names};
pub use reporting::MIN_REPORTING_RATE;
pub use statistics::Statistics;

/// The device type of the traditional balloon (§5.5.1).
const DEVICE_ID: u32 = 5;

/// Queues with all features that can be offered (§5.5.2): inflate, deflate, statistics, reporting.
const MAX_QUEUES: usize = 4;

/// Descriptors in each queue; as in QEMU. Linux has one buffer in flight.
const QUEUE_SIZE: u16 = 128;

/// Page numbers taken from the guest before their memory is released, and those of the buffer that
/// passes it: 16 MiB of guest memory. It bounds what a guest can make the device keep, and still lets
/// the runs of many buffers merge.
const MAX_BATCH_PAGES: usize = 4096;

/// Reports of free memory taken from the guest before it is released, and those of the buffer that
/// passes it. Linux sends 32 in a buffer.
const MAX_BATCH_REPORTS: usize = 128;

/// Batches of one queue before the device thread looks at other events again.
const MAX_BATCHES: usize = 64;

/// The most pages that wait for the rest of their huge page where the host could also take them as
/// they are: 64 MiB.
const MAX_KEPT_PAGES: u64 = 16 << 10;

/// How long they wait at least after the last buffer of pages, and twice that at most. Linux has the
/// next one ready within a millisecond, unless it has to find free pages first.
const KEPT_FOR: Duration = Duration::from_millis(20);
