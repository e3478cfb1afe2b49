//! The balloon device: its state, and what each thread does with it.
//!
//! The control thread sets targets and reads sizes through atomics; vCPU threads access
//! configuration space and activate or reset; the device thread serves the queues under the one
//! lock, which is held for a bounded batch of buffers.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::config::BalloonConfig;
use super::request::read_pages;
use super::runs::runs;
use super::{
    DEVICE_ID, F_DEFLATE_ON_OOM, INFLATE_QUEUE, MAX_BATCH_PAGES, MAX_BATCHES, QUEUE_COUNT,
    QUEUE_SIZE,
};
use crate::fault_log::FaultLog;
use crate::memory::release_run;
use crate::virtio::{MmioInterrupt, VirtioDevice};
use crate::{GuestMemory, PageRelease, Pfn};

/// Is told when the guest says that its balloon has another size: the number of pages in it.
/// Runs on a vCPU thread; must not block.
pub type BalloonSink = Box<dyn Fn(u32) + Send + Sync>;

/// What a user can choose about the balloon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BalloonOptions {
    /// Offer VIRTIO_BALLOON_F_DEFLATE_ON_OOM.
    pub deflate_on_oom: bool,
}

/// The memory balloon of a machine.
pub struct Balloon {
    options: BalloonOptions,
    memory: GuestMemory,
    config: BalloonConfig,
    interrupt: Arc<MmioInterrupt>,
    kicks: [EventFd; QUEUE_COUNT],
    /// The queues of a driver that has set DRIVER_OK.
    active: Mutex<Option<Vec<Queue>>>,
    released_pages: AtomicU64,
    sink: BalloonSink,
    faults: FaultLog,
}

impl fmt::Debug for Balloon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balloon")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Balloon {
    /// An empty balloon.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub fn new(
        options: BalloonOptions,
        memory: GuestMemory,
        interrupt: Arc<MmioInterrupt>,
        sink: BalloonSink,
    ) -> io::Result<Self> {
        Ok(Self {
            options,
            memory,
            config: BalloonConfig::default(),
            interrupt,
            kicks: [EventFd::new(EFD_NONBLOCK)?, EventFd::new(EFD_NONBLOCK)?],
            active: Mutex::new(None),
            released_pages: AtomicU64::new(0),
            sink,
            faults: FaultLog::new("balloon"),
        })
    }

    /// The events that stand for notifications of the queues, in the order of the queues.
    #[must_use]
    pub fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    /// Asks the guest to have `pages` pages in the balloon, now or when a driver comes. A target
    /// that is set already is announced again, as QEMU does.
    pub fn set_target_pages(&self, pages: u32) {
        self.config.set_target_pages(pages);
        self.interrupt.config_changed();
    }

    /// Pages that the host wants in the balloon.
    #[must_use]
    pub fn target_pages(&self) -> u32 {
        self.config.target_pages()
    }

    /// Pages that the guest says are in the balloon: its word, nothing that was checked.
    #[must_use]
    pub fn actual_pages(&self) -> u32 {
        self.config.actual_pages()
    }

    /// Pages given back to the host since the start. A page counts each time that the guest puts
    /// it into the balloon; one that it has touched again since is not subtracted.
    #[must_use]
    pub fn released_pages(&self) -> u64 {
        self.released_pages.load(Ordering::Relaxed)
    }

    /// Serves a queue until it is empty, or for so long that others must have their turn.
    /// Runs on the device thread.
    pub(crate) fn serve(&self, queue: usize) {
        let mut pages = Vec::new();
        for _ in 0..MAX_BATCHES {
            pages.clear();
            if !self.serve_batch(queue, &mut pages) {
                return;
            }
        }
        if let Some(kick) = self.kicks.get(queue) {
            let _ = kick.write(1);
        }
    }

    /// Takes buffers of up to [`MAX_BATCH_PAGES`] pages, releases their pages, and returns them;
    /// whether more may be waiting.
    ///
    /// A reset waits for the lock, so a driver that comes after it cannot have a page in use
    /// that this batch is about to drop.
    fn serve_batch(&self, index: usize, pages: &mut Vec<Pfn>) -> bool {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let queues = active.as_mut().and_then(|queues| queues.get_mut(index));
        let Some(queue) = queues.filter(|queue| queue.ready()) else {
            return false;
        };
        match self.take_batch(queue, index, pages) {
            Ok(0) => false,
            Ok(_) => {
                match queue.needs_notification(&self.memory) {
                    Ok(false) => {}
                    Ok(true) | Err(_) => self.interrupt.used_buffer(),
                }
                true
            }
            Err(error) => {
                self.faults
                    .record(|| format!("queue {index} is broken: {error}"));
                *active = None;
                self.interrupt.needs_reset();
                false
            }
        }
    }

    /// One batch of `queue`; how many buffers it had.
    fn take_batch(
        &self,
        queue: &mut Queue,
        index: usize,
        pages: &mut Vec<Pfn>,
    ) -> Result<usize, virtio_queue::Error> {
        let mut heads = Vec::new();
        for chain in queue.iter(&self.memory)? {
            heads.push(chain.head_index());
            if let Err(fault) = read_pages(chain, &self.memory, pages) {
                self.faults.record(|| fault.to_string());
            }
            if pages.len() >= MAX_BATCH_PAGES {
                break;
            }
        }
        // Pages that leave the balloon need nothing: the guest finds their memory by touching it.
        if index == INFLATE_QUEUE {
            self.release(pages);
        }
        for &head in &heads {
            // The device writes nothing into a buffer: used length 0.
            queue.add_used(&self.memory, head, 0)?;
        }
        Ok(heads.len())
    }

    fn release(&self, pages: &mut Vec<Pfn>) {
        let mut total = PageRelease::default();
        for run in runs(pages) {
            total.add(release_run(&self.memory, run.first, run.count));
        }
        self.released_pages
            .fetch_add(total.released_pages, Ordering::Relaxed);
        if total.outside_pages > 0 {
            self.faults
                .record(|| format!("{} pages are not guest memory", total.outside_pages));
        }
        log::trace!("Balloon: {total:?}");
    }
}

impl VirtioDevice for Balloon {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        if self.options.deflate_on_oom {
            F_DEFLATE_ON_OOM
        } else {
            0
        }
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUE_COUNT]
    }

    fn config_generation(&self) -> u32 {
        self.config.generation()
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        match self.config.write(offset, data) {
            Ok(true) => (self.sink)(self.config.actual_pages()),
            Ok(false) => {}
            Err(_) => self.faults.record(|| {
                format!(
                    "{} bytes written to the configuration at {offset:#x}",
                    data.len()
                )
            }),
        }
    }

    fn activate(&self, features: u64, queues: Vec<Queue>) {
        log::info!("Balloon: a driver is ready, features {features:#x}");
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = Some(queues);
        // A driver may have filled a queue before DRIVER_OK, when its kick went unheard.
        for kick in &self.kicks {
            let _ = kick.write(1);
        }
    }

    /// Target and actual outlive a reset, as in QEMU; a new driver starts from them.
    fn reset(&self) {
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests;
