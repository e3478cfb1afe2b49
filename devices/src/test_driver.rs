//! A balloon driver for unit tests: it goes through the registers and rings as a guest does.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::balloon::{Balloon, BalloonNews, BalloonOptions};
use crate::bus::BusDevice;
use crate::virtio::MmioInterrupt;
use crate::virtio::mmio::MmioTransport;
use crate::{GuestMemory, GuestRam, PAGE_SIZE, Pfn, RamOptions};

pub const STATUS: u64 = 0x70;
pub const DRIVER_OK: u32 = 15;
pub const NEEDS_RESET: u32 = 64;
/// Pages of guest memory; the rings are in the first 16.
pub const MEMORY_PAGES: u32 = 4096;
/// Pages from here on are free for tests.
pub const FREE_PAGE: u32 = 64;
const QUEUE_SIZE: u16 = 16;
const RING_STRIDE: u64 = 0x3000;
/// As many queues as there are rings for.
const QUEUES: usize = 4;
/// Where page numbers are put: 48 pages in front of the free ones.
pub const BUFFER: u64 = 0x1_0000;

/// A balloon behind its transport, and what a driver keeps.
pub struct TestDriver {
    pub balloon: Arc<Balloon>,
    pub transport: MmioTransport,
    pub memory: GuestMemory,
    /// Counts the interrupts.
    pub interrupts: EventFd,
    /// What the device reported as `actual`.
    pub reported: Arc<Mutex<Vec<u32>>>,
    /// How often the device has told that statistics are there, or will not come.
    pub statistics_news: Arc<AtomicU64>,
    submitted: [u16; QUEUES],
}

impl TestDriver {
    /// A device in reset, without a queue for reports.
    pub fn new() -> Self {
        Self::with(BalloonOptions {
            free_page_reporting: false,
            ..BalloonOptions::default()
        })
    }

    /// A device in reset that offers what is chosen.
    pub fn with(options: BalloonOptions) -> Self {
        let bytes = usize::try_from(u64::from(MEMORY_PAGES) * PAGE_SIZE).unwrap();
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), bytes)]).unwrap();
        Self::with_ram(options, memory.into())
    }

    /// The same, with [`MEMORY_PAGES`] pages of this kind.
    pub fn with_backing(ram: RamOptions) -> Self {
        let range = (GuestAddress(0), u64::from(MEMORY_PAGES) * PAGE_SIZE);
        let mut watch = |_| ControlFlow::Continue(());
        let ram = GuestRam::map(&[range], ram, &mut watch).unwrap();
        Self::with_ram(BalloonOptions::default(), ram)
    }

    fn with_ram(options: BalloonOptions, ram: GuestRam) -> Self {
        let memory = ram.memory().clone();
        let interrupts = EventFd::new(EFD_NONBLOCK).unwrap();
        let line = interrupts.try_clone().unwrap().into();
        let interrupt = Arc::new(MmioInterrupt::new(line));
        let reported = Arc::new(Mutex::new(Vec::new()));
        let log = reported.clone();
        let answers = Arc::new(AtomicU64::new(0));
        let answer_count = answers.clone();
        let sink = Box::new(move |news| match news {
            BalloonNews::Actual(pages) => log.lock().unwrap().push(pages),
            BalloonNews::Other => {
                answer_count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let balloon = Arc::new(Balloon::new(options, ram, interrupt.clone(), sink).unwrap());
        let transport = MmioTransport::new(balloon.clone(), memory.clone(), interrupt);
        Self {
            balloon,
            transport,
            memory,
            interrupts,
            reported,
            statistics_news: answers,
            submitted: [0; QUEUES],
        }
    }

    /// A device with a driver that has set DRIVER_OK.
    pub fn running() -> Self {
        let mut driver = Self::new();
        driver.start();
        driver
    }

    pub fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    pub fn read(&self, register: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register, &mut data);
        u32::from_le_bytes(data)
    }

    /// From reset to FEATURES_OK with the first 32 features that are wanted.
    pub fn negotiate(&mut self, features: u32) {
        self.submitted = [0; QUEUES];
        for (register, value) in [
            (STATUS, 0),
            (STATUS, 1),
            (STATUS, 3),
            (0x24, 0),
            (0x20, features),
            (0x24, 1),
            (0x20, 1),
            (STATUS, 11),
        ] {
            self.write(register, value);
        }
    }

    /// Sets up queue `index` with rings at an address of the caller's choice.
    pub fn set_up_queue(&self, index: u32, rings: u64, size: u32) {
        let low = |address: u64| u32::try_from(address & 0xffff_ffff).unwrap();
        let high = |address: u64| u32::try_from(address >> 32).unwrap();
        for (register, value) in [
            (0x30, index),
            (0x38, size),
            (0x80, low(rings)),
            (0x84, high(rings)),
            (0x90, low(rings + 0x1000)),
            (0x94, high(rings + 0x1000)),
            (0xa0, low(rings + 0x2000)),
            (0xa4, high(rings + 0x2000)),
            (0x44, 1),
        ] {
            self.write(register, value);
        }
    }

    /// From reset to DRIVER_OK with inflate and deflate queue, their rings cleared.
    pub fn start(&mut self) {
        self.start_with(0, 2);
    }

    /// The same with features and the number of queues that follows from them.
    pub fn start_with(&mut self, features: u32, queues: u32) {
        self.negotiate(features);
        for queue in 0..queues {
            let rings = Self::rings(usize::try_from(queue).unwrap());
            self.memory
                .write_slice(&[0; 0x3000], GuestAddress(rings))
                .unwrap();
            self.set_up_queue(queue, rings, QUEUE_SIZE.into());
        }
        self.write(STATUS, DRIVER_OK);
    }

    fn rings(queue: usize) -> u64 {
        0x1000 + RING_STRIDE * u64::try_from(queue).unwrap()
    }

    /// Writes one descriptor into the table of `queue`.
    pub fn describe(&self, queue: usize, slot: u16, address: u64, length: u32, flags_next: u32) {
        let at = Self::rings(queue) + 16 * u64::from(slot);
        self.memory.write_obj(address, GuestAddress(at)).unwrap();
        self.memory.write_obj(length, GuestAddress(at + 8)).unwrap();
        self.memory
            .write_obj(flags_next, GuestAddress(at + 12))
            .unwrap();
    }

    /// Makes the chain at `head` available.
    pub fn make_available(&mut self, queue: usize, head: u16) {
        let ring = Self::rings(queue) + 0x1000;
        let slot = u64::from(self.submitted[queue] % QUEUE_SIZE);
        self.submitted[queue] = self.submitted[queue].wrapping_add(1);
        self.memory
            .write_obj(head, GuestAddress(ring + 4 + 2 * slot))
            .unwrap();
        self.set_available_index(queue, self.submitted[queue]);
    }

    pub fn set_available_index(&self, queue: usize, index: u16) {
        let ring = Self::rings(queue) + 0x1000;
        self.memory
            .write_obj(index, GuestAddress(ring + 2))
            .unwrap();
    }

    /// Sets the flags of the available ring.
    pub fn set_available_flags(&self, queue: usize, flags: u16) {
        let ring = Self::rings(queue) + 0x1000;
        self.memory.write_obj(flags, GuestAddress(ring)).unwrap();
    }

    /// Buffers that the device has returned.
    pub fn used_index(&self, queue: usize) -> u16 {
        self.memory
            .read_obj(GuestAddress(Self::rings(queue) + 0x2002))
            .unwrap()
    }

    /// Writes page numbers to [`BUFFER`] + `offset`; returns address and length of the array.
    pub fn page_numbers(&self, offset: u64, pages: &[u32]) -> (u64, u32) {
        for (at, page) in (BUFFER + offset..).step_by(4).zip(pages) {
            self.memory.write_obj(*page, GuestAddress(at)).unwrap();
        }
        (BUFFER + offset, u32::try_from(pages.len() * 4).unwrap())
    }

    /// Sends page numbers as one buffer and lets the device serve the queue.
    pub fn send(&mut self, queue: usize, pages: &[u32]) {
        let (address, length) = self.page_numbers(0, pages);
        self.describe(queue, 0, address, length, 0);
        self.make_available(queue, 0);
        self.balloon.serve(queue);
    }

    /// Writes something into every free page.
    pub fn touch_all(&self) {
        for page in FREE_PAGE..MEMORY_PAGES {
            self.memory
                .write_obj(u64::from(page), Pfn(page).address())
                .unwrap();
        }
    }

    /// The free pages that hold nothing.
    pub fn empty_pages(&self) -> Vec<u32> {
        let empty = |&page: &u32| self.memory.read_obj::<u64>(Pfn(page).address()).unwrap() == 0;
        (FREE_PAGE..MEMORY_PAGES).filter(empty).collect()
    }
}
