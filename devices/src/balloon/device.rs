//! The balloon device: its state, and what each thread does with it.
//!
//! The control thread sets targets and reads sizes through atomics; vCPU threads access
//! configuration space and activate or reset; the device thread serves the queues under the one
//! lock of the queues, which is held for a batch of buffers. A batch is bounded, and whoever stops
//! or resets the device has it given up on the way.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use virtio_queue::Queue;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::config::{BalloonConfig, Change};
use super::features::{BalloonOptions, F_MUST_TELL_HOST, Role, roles};
use super::huge_pages::HugePages;
use super::pausable::PausableTimer;
use super::polling::Polling;
use super::reporting::Reporting;
use super::statistics::Statistics;
use super::{DEVICE_ID, MAX_QUEUES, QUEUE_SIZE};
use crate::fault_log::{FaultLog, LogLimit};
use crate::virtio::{MmioInterrupt, VirtioDevice};
use crate::{Granularity, GuestMemory, GuestRam};

/// What the guest makes known of its balloon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalloonNews {
    /// Its balloon has another size: the number of pages in it. Told on a vCPU thread.
    Actual(u32),
    /// Something else of it has changed: it has answered what was asked of its memory, or a driver
    /// has come or gone. Told on any thread.
    Other,
}

/// Is told what the guest makes known; must not block.
pub type BalloonSink = Box<dyn Fn(BalloonNews) + Send + Sync>;

/// A queue of a driver, and what it is for.
struct RoleQueue {
    role: Role,
    queue: Queue,
    /// The statistics buffer that the device keeps until it wants to know more (§5.5.6.3).
    held: Option<u16>,
    /// The guest has been asked for its statistics: the next buffer is the answer.
    is_awaited: bool,
}

/// What the device thread serves.
#[derive(Default)]
struct Service {
    /// The queues of a driver that has set DRIVER_OK, in their order; none without a driver.
    queues: Vec<RoleQueue>,
    /// The machine is stopped: nothing of the guest's memory changes.
    is_stopped: bool,
    /// The guest was to be asked for its statistics while it was stopped.
    is_asked: bool,
}

impl Service {
    fn index_of(&self, role: Role) -> Option<usize> {
        self.queues.iter().position(|queue| queue.role == role)
    }
}

/// The memory balloon of a machine.
pub struct Balloon {
    /// The features on offer.
    features: u64,
    memory: GuestMemory,
    ram: GuestRam,
    config: BalloonConfig,
    interrupt: Arc<MmioInterrupt>,
    kicks: Vec<EventFd>,
    service: Mutex<Service>,
    /// Somebody waits for `service` who wants no batch to be done before.
    is_halting: AtomicBool,
    /// The features that this driver uses, and VIRTIO_F_VERSION_1 among them; 0 without a driver.
    negotiated: AtomicU64,
    /// Drivers that there have been.
    drivers: AtomicU64,
    released_pages: AtomicU64,
    /// Those of them that the guest had reported as free.
    reported_pages: AtomicU64,
    reporting: Reporting,
    /// The pages that wait for the rest of their huge page; `None` where none do. Locked by whoever
    /// has locked `service`.
    huge_pages: Option<Mutex<HugePages>>,
    /// When they have waited for long enough.
    kept: PausableTimer,
    /// Somebody wants to know the statistics.
    ask: EventFd,
    polling: Polling,
    /// Never held while anything else is done.
    statistics: Mutex<Statistics>,
    sink: BalloonSink,
    /// Held while a write of the guest is taken and told.
    telling: Mutex<()>,
    faults: FaultLog,
    arrivals: LogLimit,
}

impl fmt::Debug for Balloon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balloon")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Balloon {
    /// An empty balloon. It tells the guest to say before it uses a page again where pages are kept
    /// until their huge page is whole.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub fn new(
        options: BalloonOptions,
        ram: impl Into<GuestRam>,
        interrupt: Arc<MmioInterrupt>,
        sink: BalloonSink,
    ) -> io::Result<Self> {
        let ram = ram.into();
        let huge_pages = match ram.granularity() {
            Granularity::Pages => None,
            Granularity::BetterWhole(size) => Some(HugePages::new(size, false)),
            Granularity::OnlyWhole(size) => Some(HugePages::new(size, true)),
        };
        let tells = huge_pages.as_ref().map_or(0, |_| F_MUST_TELL_HOST);
        let features = options.features() | tells;
        let kicks = roles(features).map(|_| EventFd::new(EFD_NONBLOCK));
        let kicks: io::Result<_> = kicks.collect();
        Ok(Self {
            features,
            memory: ram.memory().clone(),
            ram,
            config: BalloonConfig::new(options.page_poison),
            interrupt,
            kicks: kicks?,
            service: Mutex::default(),
            is_halting: AtomicBool::new(false),
            negotiated: AtomicU64::new(0),
            drivers: AtomicU64::new(0),
            released_pages: AtomicU64::new(0),
            reported_pages: AtomicU64::new(0),
            reporting: Reporting::new()?,
            huge_pages: huge_pages.map(Mutex::new),
            kept: PausableTimer::new()?,
            ask: EventFd::new(EFD_NONBLOCK)?,
            polling: Polling::new()?,
            statistics: Mutex::default(),
            sink,
            telling: Mutex::default(),
            faults: FaultLog::new("balloon", "guest fault"),
            arrivals: LogLimit::new(),
        })
    }

    /// The events that stand for notifications of the queues, in the order of the queues.
    #[must_use]
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    pub(super) fn ask(&self) -> &EventFd {
        &self.ask
    }

    pub(super) fn polling(&self) -> &Polling {
        &self.polling
    }

    pub(super) fn reporting(&self) -> &Reporting {
        &self.reporting
    }

    pub(super) fn kept(&self) -> &PausableTimer {
        &self.kept
    }

    fn lock_service(&self) -> MutexGuard<'_, Service> {
        self.service.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Self::lock_service`], but does not wait for the batch that is under way, which is
    /// given up.
    fn halt(&self) -> MutexGuard<'_, Service> {
        self.is_halting.store(true, Ordering::Release);
        let service = self.lock_service();
        self.is_halting.store(false, Ordering::Release);
        service
    }

    fn is_halting(&self) -> bool {
        self.is_halting.load(Ordering::Acquire)
    }

    /// Has all queues looked at.
    fn kick_all(&self) {
        for kick in &self.kicks {
            let _ = kick.write(1);
        }
    }

    fn lock_statistics(&self) -> MutexGuard<'_, Statistics> {
        let lock = self.statistics.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }
}

impl VirtioDevice for Balloon {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; MAX_QUEUES][..self.kicks.len()]
    }

    fn config_generation(&self) -> u32 {
        self.config.generation()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        // Two CPUs that write at once: the size that holds is the one that is told last.
        let _order = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        match self.config.write(offset, data) {
            Ok(Change::Actual) => (self.sink)(BalloonNews::Actual(self.config.actual_pages())),
            Ok(Change::FirstWord) => (self.sink)(BalloonNews::Other),
            Ok(Change::Nothing) => {}
            Err(_) => self.faults.record(|| {
                format!(
                    "{} bytes written to the configuration at {offset:#x}",
                    data.len()
                )
            }),
        }
    }

    fn activate(&self, features: u64, queues: Vec<Queue>) {
        // A guest may let drivers come and go as fast as it likes.
        if self.arrivals.line_is_due(Instant::now()) {
            log::info!("Balloon: a driver is ready, features {features:#x}");
        }
        let queues = roles(features).zip(queues).map(|(role, queue)| RoleQueue {
            role,
            queue,
            held: None,
            is_awaited: false,
        });
        // Before the queues: they are served as was negotiated.
        self.drivers.fetch_add(1, Ordering::AcqRel);
        self.negotiated.store(features, Ordering::Release);
        self.lock_service().queues = queues.collect();
        (self.sink)(BalloonNews::Other);
        // A driver may have filled a queue before DRIVER_OK, when its kick went unheard.
        self.kick_all();
    }

    fn notify(&self, queue: usize) {
        if let Some(kick) = self.kicks.get(queue) {
            let _ = kick.write(1);
        }
    }

    /// Target, `actual` and the interval of polling outlive a reset, as in QEMU; a new driver
    /// starts from them. What the guest said of its memory does not.
    fn reset(&self) {
        {
            let mut service = self.halt();
            service.queues.clear();
            self.forget_pages();
        }
        self.negotiated.store(0, Ordering::Release);
        self.config.reset();
        self.polling.end();
        *self.lock_statistics() = Statistics::default();
        (self.sink)(BalloonNews::Other);
    }
}

mod control;
mod release;
mod service;
#[cfg(test)]
mod tests;
