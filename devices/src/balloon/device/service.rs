//! What the device thread does with the queues.

use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::{Balloon, BalloonNews, RoleQueue};
use crate::balloon::features::{F_PAGE_POISON, Role};
use crate::balloon::request::{read_free_memory, read_pages, read_statistics};
use crate::balloon::runs::Pages;
use crate::balloon::statistics::Statistics;
use crate::balloon::{MAX_BATCH_PAGES, MAX_BATCH_REPORTS, MAX_BATCHES, QUEUE_SIZE};
use crate::memory::PageRun;
use crate::{GuestMemory, PAGE_SIZE};

/// VIRTQ_AVAIL_F_NO_INTERRUPT (§2.7.7): the driver does not want to hear of used buffers.
const NO_INTERRUPT: u16 = 1;

/// Whether the driver is to be told of the buffers that have been returned (§2.7.7.2). It has not
/// been offered VIRTIO_F_EVENT_IDX, so the flags of its ring say so.
fn wants_interrupt(queue: &Queue, memory: &GuestMemory) -> bool {
    // The buffers are returned before the flags are read: a driver that wants to hear of them again
    // sets the flag, and then looks at the ring once more.
    fence(Ordering::SeqCst);
    let flags = memory.load::<u16>(GuestAddress(queue.avail_ring()), Ordering::Relaxed);
    flags.map_or(true, |flags| u16::from_le(flags) & NO_INTERRUPT == 0)
}

impl Balloon {
    /// Serves a queue until it is empty, or for so long that others must have their turn.
    /// Runs on the device thread.
    pub(crate) fn serve(&self, queue: usize) {
        for _ in 0..MAX_BATCHES {
            // The lock is not fair: whoever waits for it could wait for all batches.
            if self.is_halting() {
                break;
            }
            if !self.with_queue(queue, |queue| self.take_batch(queue)) {
                return;
            }
        }
        if let Some(kick) = self.kicks.get(queue) {
            let _ = kick.write(1);
        }
    }

    /// Asks the guest for its statistics by giving its buffer back, if it has left one. If not,
    /// the buffer that comes next is the answer. Runs on the device thread.
    pub(in crate::balloon) fn ask_guest(&self) {
        let index = {
            let mut service = self.lock_service();
            service.is_asked |= service.is_stopped;
            service.index_of(Role::Statistics)
        };
        if let Some(index) = index {
            self.with_queue(index, |queue| {
                queue.is_awaited = true;
                let Some(head) = queue.held.take() else {
                    return Ok(0);
                };
                queue.queue.add_used(&self.memory, head, 0)?;
                Ok(1)
            });
        }
    }

    /// Serves the reports that had to wait. Runs on the device thread.
    pub(in crate::balloon) fn serve_reports(&self) {
        let index = self.lock_service().index_of(Role::Reporting);
        if let Some(index) = index {
            self.serve(index);
        }
    }

    /// Does something with a queue of the driver; whether that has returned buffers.
    ///
    /// A reset waits for the lock, so a driver that comes after it cannot have a page in use
    /// that is about to be dropped.
    pub(super) fn with_queue(
        &self,
        index: usize,
        act: impl FnOnce(&mut RoleQueue) -> Result<usize, virtio_queue::Error>,
    ) -> bool {
        let mut service = self.lock_service();
        if service.is_stopped {
            return false;
        }
        let queue = service.queues.get_mut(index);
        let Some(queue) = queue.filter(|queue| queue.queue.ready()) else {
            return false;
        };
        match act(queue) {
            Ok(0) => false,
            Ok(_) => {
                if wants_interrupt(&queue.queue, &self.memory) {
                    self.interrupt.used_buffer();
                }
                true
            }
            Err(error) => {
                self.faults
                    .record(|| format!("queue {index} is broken: {error}"));
                service.queues.clear();
                self.forget_pages();
                self.negotiated.store(0, Ordering::Release);
                (self.sink)(BalloonNews::Other);
                self.interrupt.needs_reset();
                false
            }
        }
    }

    /// Takes buffers of up to [`MAX_BATCH_PAGES`] pages and does what they ask for; how many have
    /// been returned.
    pub(super) fn take_batch(&self, queue: &mut RoleQueue) -> Result<usize, virtio_queue::Error> {
        match queue.role {
            Role::Inflate | Role::Deflate => self.take_pages(queue),
            Role::Statistics => self.take_statistics(queue),
            Role::Reporting => self.take_reports(&mut queue.queue),
        }
    }

    fn take_pages(
        &self,
        RoleQueue { role, queue, .. }: &mut RoleQueue,
    ) -> Result<usize, virtio_queue::Error> {
        let first = queue.next_avail();
        let mut heads = Vec::new();
        let mut pages = Pages::default();
        for chain in queue.iter(&self.memory)?.take(QUEUE_SIZE.into()) {
            heads.push(chain.head_index());
            if let Err(fault) = read_pages(chain, &self.memory, &mut pages) {
                self.faults.record(|| fault.to_string());
            }
            if pages.count() >= MAX_BATCH_PAGES {
                break;
            }
        }
        let runs = pages.into_runs();
        let is_done = match role {
            Role::Deflate => self.deflate(&runs),
            _ => self.inflate(&runs),
        };
        if !is_done {
            queue.set_next_avail(first);
            return Ok(0);
        }
        self.return_all(queue, &heads)
    }

    /// Takes buffers of statistics and keeps the last; those before it go back.
    fn take_statistics(
        &self,
        RoleQueue {
            queue,
            held,
            is_awaited,
            ..
        }: &mut RoleQueue,
    ) -> Result<usize, virtio_queue::Error> {
        let mut heads = Vec::new();
        for chain in queue.iter(&self.memory)?.take(QUEUE_SIZE.into()) {
            heads.extend(held.replace(chain.head_index()));
            let mut bytes = Vec::new();
            if let Err(fault) = read_statistics(chain, &self.memory, &mut bytes) {
                self.faults.record(|| fault.to_string());
            }
            let is_answer = std::mem::take(is_awaited);
            {
                let mut statistics = self.lock_statistics();
                let answers = statistics.answers + u64::from(is_answer);
                *statistics = Statistics::from_bytes(&bytes, answers);
            }
            self.polling.begin();
            if is_answer {
                (self.sink)(BalloonNews::Other);
            }
        }
        self.return_all(queue, &heads)
    }

    /// Takes reports of free memory, and releases it unless the guest counts on its contents.
    fn take_reports(&self, queue: &mut Queue) -> Result<usize, virtio_queue::Error> {
        if !self.reporting.may_take(Instant::now()) {
            return Ok(0);
        }
        let first = queue.next_avail();
        let mut heads = Vec::new();
        let mut runs: Vec<PageRun> = Vec::new();
        let buffers = match self.reporting.max_rate() {
            0 => QUEUE_SIZE,
            _ => 1,
        };
        for chain in queue.iter(&self.memory)?.take(buffers.into()) {
            heads.push(chain.head_index());
            if let Err(fault) = read_free_memory(chain, &mut runs) {
                self.faults.record(|| fault.to_string());
            }
            if runs.len() >= MAX_BATCH_REPORTS {
                break;
            }
        }
        // §5.5.6.7: a page that comes back holds zeroes, which must be what the guest expects.
        let poisons = self.negotiated.load(Ordering::Acquire) & F_PAGE_POISON != 0;
        let is_wanted = self.reporting.is_on() && (!poisons || self.config.poison() == 0);
        if is_wanted {
            let Some(pages) = self.release(&PageRun::merged(runs)) else {
                queue.set_next_avail(first);
                return Ok(0);
            };
            self.reported_pages.fetch_add(pages, Ordering::Relaxed);
            let bytes = pages.saturating_mul(PAGE_SIZE);
            self.reporting.gave(bytes, Instant::now());
        }
        self.return_all(queue, &heads)
    }

    /// Returns buffers, into which the device writes nothing: used length 0.
    fn return_all(&self, queue: &mut Queue, heads: &[u16]) -> Result<usize, virtio_queue::Error> {
        for &head in heads {
            queue.add_used(&self.memory, head, 0)?;
        }
        Ok(heads.len())
    }
}
