//! A guest that does to its balloon whatever an input says, and what must hold whatever that is.
//!
//! The fuzz targets, the replay of their corpora and the tests with generated inputs share it.

use std::sync::Arc;

use aerostat_devices::balloon::{Balloon, BalloonEvents, BalloonOptions};
use aerostat_devices::bus::BusDevice;
use aerostat_devices::interrupt::InterruptLine;
use aerostat_devices::virtio::MmioInterrupt;
use aerostat_devices::virtio::mmio::MmioTransport;
use aerostat_devices::{GuestMemory, PAGE_SIZE};
use event_manager::{EventManager, SubscriberOps};
use vm_memory::{Bytes, GuestAddress};

/// Guest memory: below the hole and behind it.
const LOW: (u64, usize) = (0, 1 << 20);
const HIGH: (u64, usize) = (2 << 20, 1 << 20);
/// Inflate, deflate, statistics, reporting.
const QUEUES: u8 = 4;
const QUEUE_SIZE: u16 = 128;
/// Rings of a queue: descriptors, available and used ring, a page each.
const RING_STRIDE: u64 = 3 * PAGE_SIZE;
/// Where page numbers, statistics and indirect tables are put.
const BUFFER: u64 = 16 * PAGE_SIZE;
/// A page that no ring and no buffer is in.
const FREE_PAGE: u32 = 200;
/// How many rounds of the event loop may pass until the device has nothing more to do.
const MAX_ROUNDS: usize = 10_000;

const QUEUE_SEL: u64 = 0x30;
const STATUS: u64 = 0x70;
const CONFIG: u64 = 0x100;
/// The registers of the transport (virtio 1.2 §4.2.2).
const REGISTERS: [u64; 32] = [
    0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x20, 0x24, QUEUE_SEL, 0x34, 0x38, 0x44, 0x50, 0x60, 0x64,
    STATUS, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac, 0xb0, 0xc0, 0xfc, CONFIG, 0x104, 0x108,
    0x10c, 0x110, 0xffc,
];

/// Bytes that decide what happens; zeroes once they are used up.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn number(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn queue(&mut self) -> u8 {
        self.byte() % QUEUES
    }
}

/// A balloon, its device thread's loop, and the guest.
struct Guest {
    balloon: Arc<Balloon>,
    transport: MmioTransport,
    memory: GuestMemory,
    device_thread: EventManager<BalloonEvents>,
    submitted: [u16; QUEUES as usize],
}

impl Guest {
    fn new() -> Self {
        let ranges = [LOW, HIGH].map(|(start, bytes)| (GuestAddress(start), bytes));
        let memory = GuestMemory::from_ranges(&ranges).expect("memory");
        let line = InterruptLine::new().expect("interrupt");
        let interrupt = Arc::new(MmioInterrupt::new(line));
        let options = BalloonOptions {
            deflate_on_oom: true,
            free_page_reporting: true,
            page_poison: true,
        };
        let balloon = Balloon::new(options, memory.clone(), interrupt.clone(), Box::new(drop));
        let balloon = Arc::new(balloon.expect("balloon"));
        let transport = MmioTransport::new(balloon.clone(), memory.clone(), interrupt);
        let mut device_thread = EventManager::new().expect("event loop");
        device_thread.add_subscriber(BalloonEvents::new(balloon.clone()));
        Self {
            balloon,
            transport,
            memory,
            device_thread,
            submitted: [0; QUEUES as usize],
        }
    }

    fn write(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    fn read(&self, offset: u64) -> u32 {
        let mut value = [0; 4];
        self.transport.read(offset, &mut value);
        u32::from_le_bytes(value)
    }

    /// Lets the device thread do all that it has to do.
    fn run_device(&mut self) {
        for _ in 0..MAX_ROUNDS {
            if self.device_thread.run_with_timeout(0).expect("event loop") == 0 {
                return;
            }
        }
        panic!("the device thread does not come to rest");
    }

    /// As [`Bytes::write_slice`], where an address outside of memory means nothing.
    fn poke(&self, address: u64, bytes: &[u8]) {
        let _ = self.memory.write_slice(bytes, GuestAddress(address));
    }

    fn rings(queue: u8) -> u64 {
        u64::from(queue) * RING_STRIDE
    }

    /// A driver from reset to DRIVER_OK, with these features below 32 and empty rings.
    fn start(&mut self, features: u32) {
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
        let zeroes = usize::try_from(Self::rings(QUEUES)).expect("small");
        self.poke(0, &vec![0; zeroes]);
        self.submitted = [0; QUEUES as usize];
        for queue in 0..QUEUES {
            let rings = u32::try_from(Self::rings(queue)).expect("a low address");
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

    /// Writes a descriptor (§2.7.5).
    fn describe(&self, queue: u8, slot: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = Self::rings(queue) + u64::from(slot % QUEUE_SIZE) * 16;
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&address.to_le_bytes());
        descriptor[8..12].copy_from_slice(&length.to_le_bytes());
        descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
        descriptor[14..].copy_from_slice(&next.to_le_bytes());
        self.poke(at, &descriptor);
    }

    /// Puts a chain into the available ring (§2.7.6).
    fn offer(&mut self, queue: u8, head: u16) {
        let available = Self::rings(queue) + PAGE_SIZE;
        let submitted = &mut self.submitted[usize::from(queue)];
        let slot = *submitted % QUEUE_SIZE;
        *submitted = submitted.wrapping_add(1);
        let index = *submitted;
        self.poke(available + 4 + 2 * u64::from(slot), &head.to_le_bytes());
        self.poke(available + 2, &index.to_le_bytes());
    }

    fn kick(&self, queue: u8) {
        if let Some(kick) = self.balloon.kicks().get(usize::from(queue)) {
            kick.write(1).expect("kick");
        }
    }

    fn used_index(&self, queue: u8) -> u16 {
        let at = GuestAddress(Self::rings(queue) + 2 * PAGE_SIZE + 2);
        self.memory.read_obj(at).expect("used ring")
    }

    /// Does one thing that the choices say; some leave the machine as the host would have it.
    fn act(&mut self, choices: &mut Choices<'_>) {
        let (queue, kind) = (choices.queue(), choices.byte());
        match kind % 14 {
            0 => {
                let offset = REGISTERS[usize::from(choices.byte()) % REGISTERS.len()];
                self.write(offset, choices.number());
            }
            1 => {
                let width = usize::from(choices.byte() % 9);
                let offset = u64::from(choices.word() % 0x1000);
                let bytes: [u8; 8] = choices.bytes();
                self.transport.write(offset, &bytes[..width]);
            }
            2 => {
                let width = usize::from(choices.byte() % 9);
                let offset = u64::from(choices.word() % 0x1000);
                self.transport.read(offset, &mut [0; 8][..width]);
            }
            3 => {
                let address = u64::from(choices.word()) << (choices.byte() % 32);
                self.poke(address, &choices.bytes::<8>());
            }
            4 => {
                let address = u64::from(choices.word()) << (choices.byte() % 48);
                let (slot, length) = (choices.word(), choices.number());
                let (flags, next) = (choices.word() % 8, choices.word() % 256);
                self.describe(queue, slot, address, length, flags, next);
            }
            5 => self.offer(queue, choices.word() % 256),
            6 => {
                let index = choices.word();
                self.submitted[usize::from(queue)] = index;
                let available = Self::rings(queue) + PAGE_SIZE;
                self.poke(available + 2, &index.to_le_bytes());
            }
            7 => self.kick(queue),
            8 => self.run_device(),
            9 => self.start(choices.byte().into()),
            10 => {
                // An array of page numbers, in order.
                let (slot, count) = (choices.word(), choices.byte());
                let (first, step) = (choices.number(), choices.byte());
                let at = BUFFER + u64::from(choices.byte()) * 64;
                for index in 0..u32::from(count) {
                    let page = first.wrapping_add(index.wrapping_mul(step.into()));
                    self.poke(at + u64::from(index) * 4, &page.to_le_bytes());
                }
                let flags = u16::from(queue == 3) * 2;
                self.describe(queue, slot, at, u32::from(count) * 4, flags, 0);
                self.offer(queue, slot % QUEUE_SIZE);
                self.kick(queue);
            }
            11 => self.balloon.set_target_pages(choices.number()),
            12 => match choices.byte() % 4 {
                0 => self.balloon.stop(),
                1 => self.balloon.resume(),
                2 => self.balloon.request_statistics(),
                _ => self.balloon.set_polling_interval(choices.byte().into()),
            },
            _ => self.transport.reset(),
        }
    }

    /// Whatever came before: a driver that keeps to the rules works after a reset.
    fn behave(&mut self) {
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

/// A guest that begins with nothing and does whatever it likes.
pub fn device_survives_any_guest(input: &[u8]) {
    let mut guest = Guest::new();
    let mut choices = Choices(input);
    while !choices.0.is_empty() {
        guest.act(&mut choices);
    }
    guest.run_device();
    guest.behave();
}

/// As [`device_survives_any_guest`], with a driver of all features that goes on from DRIVER_OK.
pub fn queues_survive_any_driver(input: &[u8]) {
    let mut guest = Guest::new();
    guest.start(u32::from(u8::MAX));
    let mut choices = Choices(input);
    while !choices.0.is_empty() {
        guest.act(&mut choices);
    }
    guest.run_device();
    guest.behave();
}
