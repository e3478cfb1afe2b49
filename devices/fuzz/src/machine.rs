//! A balloon behind its transport, the loop of its device thread, and the memory of its guest.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use aerostat_devices::balloon::{Balloon, BalloonEvents, BalloonOptions};
use aerostat_devices::bus::BusDevice;
use aerostat_devices::interrupt::InterruptLine;
use aerostat_devices::virtio::MmioInterrupt;
use aerostat_devices::virtio::mmio::MmioTransport;
use aerostat_devices::{GuestMemory, GuestRam, PAGE_SIZE};
use event_manager::{EventManager, SubscriberOps};
use vm_memory::{Bytes, GuestAddress};

use super::clock;

/// Guest memory: below the hole and behind it.
pub const LOW: (u64, usize) = (0, 1 << 20);
pub const HIGH: (u64, usize) = (2 << 20, 1 << 20);
/// Inflate, deflate, statistics, reporting: with all features.
pub const QUEUES: u8 = 4;
pub const QUEUE_SIZE: u16 = 128;
/// Rings of a queue: descriptors, available and used ring, a page each.
const RING_STRIDE: u64 = 3 * PAGE_SIZE;
/// Where page numbers, statistics and indirect tables are put.
pub const BUFFER: u64 = 16 * PAGE_SIZE;
/// A page that no ring and no buffer is in.
const FREE_PAGE: u32 = 200;
/// How many rounds of the event loop may pass until the device has nothing more to do.
const MAX_ROUNDS: usize = 10_000;

/// What can be chosen of a balloon.
pub const ALL_OPTIONS: BalloonOptions = BalloonOptions {
    deflate_on_oom: true,
    free_page_reporting: true,
    page_poison: true,
};

pub const QUEUE_SEL: u64 = 0x30;
pub const STATUS: u64 = 0x70;
pub const CONFIG: u64 = 0x100;

/// Status bits that stand for steps of a driver, in their order: ACKNOWLEDGE, DRIVER, FEATURES_OK,
/// DRIVER_OK (virtio 1.2 §2.1, §3.1.1).
const STEPS: [u32; 4] = [1, 2, 8, 4];

/// A balloon, its device thread's loop, and the guest.
pub struct Guest {
    pub balloon: Arc<Balloon>,
    pub transport: MmioTransport,
    pub memory: GuestMemory,
    device_thread: EventManager<BalloonEvents>,
    timers: Vec<RawFd>,
    /// Where the rings are.
    base: u64,
    pub submitted: [u16; QUEUES as usize],
    /// Pages that the host wants.
    target: u32,
}

impl Guest {
    pub fn new(options: BalloonOptions) -> Self {
        let ranges = [LOW, HIGH].map(|(start, bytes)| (GuestAddress(start), bytes));
        let memory = GuestMemory::from_ranges(&ranges).expect("memory");
        Self::with_ram(options, memory.into())
    }

    /// The same with memory of the caller's choice.
    pub fn with_ram(options: BalloonOptions, ram: GuestRam) -> Self {
        let memory = ram.memory().clone();
        let line = InterruptLine::new(|| {});
        let interrupt = Arc::new(MmioInterrupt::new(line));
        let balloon = Balloon::new(options, ram, interrupt.clone(), Box::new(drop));
        let balloon = Arc::new(balloon.expect("balloon"));
        let transport = MmioTransport::new(balloon.clone(), memory.clone(), interrupt);
        let mut device_thread = EventManager::new().expect("event loop");
        device_thread.add_subscriber(BalloonEvents::new(balloon.clone()));
        Self {
            balloon,
            transport,
            memory,
            device_thread,
            timers: Vec::new(),
            base: 0,
            submitted: [0; QUEUES as usize],
            target: 0,
        }
    }

    pub fn write(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    pub fn read(&self, offset: u64) -> u32 {
        let mut value = [0; 4];
        self.transport.read(offset, &mut value);
        u32::from_le_bytes(value)
    }

    /// Lets the device thread do all that it has to do.
    pub fn run_device(&mut self) {
        for _ in 0..MAX_ROUNDS {
            if self.device_thread.run_with_timeout(0).expect("event loop") == 0 {
                return;
            }
        }
        panic!("the device thread does not come to rest");
    }

    /// Lets the device's timers call, if they are set.
    pub fn pass_time(&mut self) {
        if self.timers.is_empty() {
            self.timers = clock::timers_beside(self.balloon.kicks()[0].as_raw_fd());
        }
        clock::pass_time(&self.timers);
    }

    pub fn set_target(&mut self, pages: u32) {
        self.target = pages;
        self.balloon.set_target_pages(pages);
    }

    /// As [`Bytes::write_slice`], where an address outside of memory means nothing.
    pub fn poke(&self, address: u64, bytes: &[u8]) {
        let _ = self.memory.write_slice(bytes, GuestAddress(address));
    }

    fn rings(&self, queue: u8) -> u64 {
        self.base + u64::from(queue) * RING_STRIDE
    }

    /// The available ring.
    pub fn available(&self, queue: u8) -> u64 {
        self.rings(queue) + PAGE_SIZE
    }

    /// A driver from reset to DRIVER_OK, with these features below 32 and empty rings.
    pub fn start(&mut self, features: u32) {
        self.start_at(features, 0);
    }

    /// The same with the rings from `base` on.
    pub fn start_at(&mut self, features: u32, base: u64) {
        for (offset, value) in [
            (STATUS, 0),
            (STATUS, 1),
            (STATUS, 3),
            (0x24, 0),
            (0x20, features),
            (0x24, 1),
            (0x20, 1),
            (STATUS, 11),
        ] {
            self.write(offset, value);
        }
        self.base = base;
        let length = usize::try_from(u64::from(QUEUES) * RING_STRIDE).expect("small");
        self.poke(base, &vec![0; length]);
        self.submitted = [0; QUEUES as usize];
        for queue in 0..QUEUES {
            let rings = u32::try_from(self.rings(queue)).expect("a low address");
            let page = u32::try_from(PAGE_SIZE).expect("small");
            for (offset, value) in [
                (QUEUE_SEL, queue.into()),
                (0x38, QUEUE_SIZE.into()),
                (0x80, rings),
                (0x84, 0),
                (0x90, rings + page),
                (0x94, 0),
                (0xa0, rings + 2 * page),
                (0xa4, 0),
                (0x44, 1),
            ] {
                self.write(offset, value);
            }
        }
        self.write(STATUS, 15);
    }

    /// Writes a descriptor (§2.7.5) of a queue's table.
    pub fn describe(&self, queue: u8, slot: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = self.rings(queue) + u64::from(slot % QUEUE_SIZE) * 16;
        self.describe_at(at, address, length, flags, next);
    }

    /// Writes a descriptor anywhere.
    pub fn describe_at(&self, at: u64, address: u64, length: u32, flags: u16, next: u16) {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&address.to_le_bytes());
        descriptor[8..12].copy_from_slice(&length.to_le_bytes());
        descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
        descriptor[14..].copy_from_slice(&next.to_le_bytes());
        self.poke(at, &descriptor);
    }

    /// Puts a chain into the available ring (§2.7.6).
    pub fn offer(&mut self, queue: u8, head: u16) {
        let available = self.available(queue);
        let submitted = &mut self.submitted[usize::from(queue)];
        let slot = *submitted % QUEUE_SIZE;
        *submitted = submitted.wrapping_add(1);
        let index = *submitted;
        self.poke(available + 4 + 2 * u64::from(slot), &head.to_le_bytes());
        self.poke(available + 2, &index.to_le_bytes());
    }

    pub fn kick(&self, queue: u8) {
        if let Some(kick) = self.balloon.kicks().get(usize::from(queue)) {
            kick.write(1).expect("kick");
        }
    }

    pub fn used_index(&self, queue: u8) -> u16 {
        let at = GuestAddress(self.rings(queue) + 2 * PAGE_SIZE + 2);
        self.memory.read_obj(at).expect("used ring")
    }

    /// What is true of the device at any moment, whatever its guest does.
    pub fn check(&self) {
        let balloon = &self.balloon;
        assert_eq!(balloon.target_pages(), self.target);
        assert!(balloon.reported_pages() <= balloon.released_pages());
        let given = balloon.given_pages();
        assert!(given == 0 || given == balloon.actual_pages());
        let status = self.read(STATUS);
        let steps = STEPS.map(|bit| status & bit != 0);
        assert!(steps.is_sorted_by(|a, b| a >= b), "status {status:#x}");
        if let Some(features) = balloon.negotiated_features() {
            let offered = balloon.offered_features() | 1 << 32;
            assert_eq!(features & !offered, 0, "{features:#x}");
            assert!(steps[3], "status {status:#x}");
        }
    }

    /// Whatever came before: a driver that keeps to the rules works after a reset.
    pub fn behave(&mut self) {
        self.balloon.resume();
        self.start(0);
        let page = u64::from(FREE_PAGE) * PAGE_SIZE;
        self.poke(page, &[1; 8]);
        self.poke(BUFFER, &FREE_PAGE.to_le_bytes());
        self.describe(0, 0, BUFFER, 4, 0, 0);
        self.offer(0, 0);
        self.kick(0);
        self.run_device();
        assert_eq!(self.used_index(0), 1);
        assert_eq!(self.read(STATUS), 15);
        let left: u64 = self.memory.read_obj(GuestAddress(page)).expect("read");
        assert_eq!(left, 0, "the page was not released");
    }
}
