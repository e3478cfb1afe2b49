//! What each register of the transport is after any sequence of accesses, as virtio 1.2 §2.1,
//! §3.1.1, §4.2.2 and §5.5.4 have it: a second account of them, which the transport has to agree
//! with.

use aerostat_devices::bus::BusDevice;

use super::actions::REGISTERS;
use super::choices::Choices;
use super::machine::{CONFIG, Guest, HIGH, LOW, QUEUE_SEL, QUEUE_SIZE, STATUS};
use super::options;

const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
const NEEDS_RESET: u32 = 64;
const FAILED: u32 = 128;
const KNOWN: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | NEEDS_RESET | FAILED;

/// [`CONFIG`] among the offsets of an access.
const CONFIG_OFFSET: u16 = 0x100;
const VERSION_1: u64 = 1 << 32;
const CONFIG_CHANGE: u32 = 2;

/// Registers of an address, low and high half, and the part of the queue that it is of.
const ADDRESSES: [(u64, usize, u32); 6] = [
    (0x80, 0, 0),
    (0x84, 0, 32),
    (0x90, 1, 0),
    (0x94, 1, 32),
    (0xa0, 2, 0),
    (0xa4, 2, 32),
];

#[derive(Clone)]
struct Queue {
    size: u32,
    is_ready: bool,
    /// Descriptors, available ring, used ring.
    addresses: [u64; 3],
}

/// Whether a device may work with a queue.
#[derive(PartialEq)]
enum Verdict {
    Good,
    Bad,
    /// It ends where memory does, or crosses the hole: the device may find that out later.
    Open,
}

impl Queue {
    fn new() -> Self {
        Self {
            size: QUEUE_SIZE.into(),
            is_ready: false,
            addresses: [0; 3],
        }
    }

    fn verdict(&self) -> Verdict {
        if !self.is_ready {
            return Verdict::Good;
        }
        let is_size = self.size.is_power_of_two() && self.size <= QUEUE_SIZE.into();
        let is_aligned = (self.addresses.iter().zip([16, 2, 4])).all(|(at, by)| at % by == 0);
        if !is_size || !is_aligned {
            return Verdict::Bad;
        }
        let size = u64::from(self.size);
        let lengths = [16 * size, 6 + 2 * size, 6 + 8 * size];
        let parts = || self.addresses.iter().zip(lengths);
        let regions = || {
            [LOW, HIGH]
                .into_iter()
                .map(|(from, len)| (from, from + len as u64))
        };
        let within = |at: u64, end: u64| regions().any(|(from, to)| from <= at && end < to);
        if parts().all(|(&at, len)| at.checked_add(len).is_some_and(|end| within(at, end))) {
            return Verdict::Good;
        }
        let touches = |at: u64, end: u64| regions().any(|(from, to)| at < to && end >= from);
        match parts().all(|(&at, len)| at.checked_add(len).is_some_and(|end| touches(at, end))) {
            true => Verdict::Open,
            false => Verdict::Bad,
        }
    }
}

struct Model {
    offered: u64,
    has_poison: bool,
    status: u32,
    pending: u32,
    device_sel: u32,
    driver_sel: u32,
    accepted: u64,
    queue_sel: u32,
    queues: Vec<Queue>,
    target: u32,
    actual: u32,
    poison: u32,
    generation: u32,
}

/// The lower 32 bits, or the upper ones.
fn half(features: u64, sel: u32) -> u32 {
    u32::try_from(features >> (32 * sel) & 0xffff_ffff).expect("32 bits")
}

impl Model {
    fn new(guest: &Guest) -> Self {
        let features = guest.balloon.offered_features();
        Self {
            offered: features | VERSION_1,
            has_poison: features & (1 << 4) != 0,
            status: 0,
            pending: 0,
            device_sel: 0,
            driver_sel: 0,
            accepted: 0,
            queue_sel: 0,
            queues: vec![Queue::new(); guest.balloon.kicks().len()],
            target: 0,
            actual: 0,
            poison: 0,
            generation: guest.read(0xfc),
        }
    }

    fn reset(&mut self) {
        (self.status, self.pending, self.poison) = (0, 0, 0);
        (self.device_sel, self.driver_sel, self.queue_sel) = (0, 0, 0);
        self.accepted = 0;
        self.queues.fill(Queue::new());
    }

    fn queue(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }

    fn config(&self) -> Vec<u8> {
        let mut words = vec![self.target, self.actual];
        if self.has_poison {
            words.extend([0, self.poison]);
        }
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn read(&mut self, offset: u64) -> u32 {
        match offset {
            0x00 => u32::from_le_bytes(*b"virt"),
            0x04 => 2,
            0x08 => 5,
            0x0c => u32::from_le_bytes(*b"AERO"),
            0x10 if self.device_sel < 2 => half(self.offered, self.device_sel),
            0x34 => self.queue().map_or(0, |_| QUEUE_SIZE.into()),
            0x44 => self.queue().map_or(0, |queue| queue.is_ready.into()),
            0x60 => self.pending,
            STATUS => self.status,
            0xb0 | 0xb4 | 0xb8 | 0xbc => u32::MAX,
            0xfc => self.generation,
            _ => 0,
        }
    }

    /// A register is written, 32 bits wide; what the device made of it where that is its choice.
    fn write(&mut self, offset: u64, value: u32, needs_reset: bool) {
        let is = |bits| self.status & bits != 0;
        match offset {
            0x14 => self.device_sel = value,
            0x24 => self.driver_sel = value,
            0x20 if is(DRIVER) && !is(FEATURES_OK) && self.driver_sel < 2 => {
                let shift = 32 * self.driver_sel;
                self.accepted = self.accepted & !(0xffff_ffff << shift) | u64::from(value) << shift;
            }
            QUEUE_SEL => self.queue_sel = value,
            0x64 => self.pending &= !value,
            STATUS => self.write_status(value, needs_reset),
            _ if is(FEATURES_OK) && !is(DRIVER_OK) => self.write_queue(offset, value),
            _ => {}
        }
    }

    fn write_queue(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.queue() else { return };
        match offset {
            0x44 => queue.is_ready = value == 1,
            _ if queue.is_ready => {}
            0x38 => queue.size = value,
            _ => {
                for (_, part, shift) in ADDRESSES.iter().filter(|(at, ..)| *at == offset) {
                    let address = &mut queue.addresses[*part];
                    *address = *address & !(0xffff_ffff << shift) | u64::from(value) << shift;
                }
            }
        }
    }

    fn write_status(&mut self, value: u32, needs_reset: bool) {
        if value == 0 {
            return self.reset();
        }
        let kept = self.status & !NEEDS_RESET;
        let needs = |bit, before| value & bit == 0 || value & before != 0;
        let is_in_order = needs(DRIVER, ACKNOWLEDGE)
            && needs(FEATURES_OK, DRIVER)
            && needs(DRIVER_OK, FEATURES_OK);
        if value & kept != kept || value & !KNOWN != 0 || !is_in_order {
            return;
        }
        let added = value & !self.status;
        let is_acceptable = self.accepted & !self.offered == 0 && self.accepted & VERSION_1 != 0;
        if added & FEATURES_OK != 0 && !is_acceptable {
            return;
        }
        self.status = kept | value & !NEEDS_RESET | self.status & NEEDS_RESET;
        if added & DRIVER_OK != 0 && value & FAILED == 0 {
            let verdicts: Vec<_> = self.queues.iter().map(Queue::verdict).collect();
            let is_bad = verdicts.contains(&Verdict::Bad)
                || verdicts.contains(&Verdict::Open) && needs_reset;
            if is_bad {
                self.status |= NEEDS_RESET;
                self.pending |= CONFIG_CHANGE;
            }
        }
    }

    fn set_target(&mut self, pages: u32, generation: u32) {
        assert_ne!(generation, self.generation);
        (self.target, self.generation) = (pages, generation);
        if self.status & DRIVER_OK != 0 {
            self.pending |= CONFIG_CHANGE;
        }
    }
}

/// Registers and configuration are what the model says, and accesses to them alone change nothing
/// in memory and release nothing.
pub fn transport_keeps_to_its_model(input: &[u8]) {
    let mut choices = Choices::new(input);
    let mut guest = Guest::new(options(&mut choices));
    let mut model = Model::new(&guest);
    while !choices.is_empty() {
        step(&mut guest, &mut model, &mut choices);
        guest.check();
        for offset in [0x34, 0x44, 0x60, STATUS, 0xfc] {
            assert_eq!(
                guest.read(offset),
                model.read(offset),
                "register {offset:#x}"
            );
        }
    }
    guest.run_device();
    assert_eq!(guest.balloon.released_pages(), 0);
    guest.behave();
}

fn step(guest: &mut Guest, model: &mut Model, choices: &mut Choices<'_>) {
    match choices.byte() % 8 {
        0 => write(guest, model, choices.of(&REGISTERS), choices.number()),
        1 => {
            let value = choices.byte().into();
            write(guest, model, choices.of(&REGISTERS), value);
        }
        2 => {
            // As a driver goes on from here, perhaps with other features than are on offer.
            let next = [1, 3, 11, 15].map(|next| next | model.status);
            let next = next.into_iter().find(|next| *next != model.status);
            if next == Some(11) {
                for (word, value) in [(0, u32::from(choices.byte())), (1, 1)] {
                    write(guest, model, 0x24, word);
                    write(guest, model, 0x20, value);
                }
            }
            write(guest, model, STATUS, next.unwrap_or(0));
        }
        3 => {
            // A queue somewhere.
            let (queue, size) = (choices.byte() % 5, 1 << (choices.byte() % 10));
            let page = u32::from(choices.word() % 0x401) << 12;
            for (offset, value) in [
                (QUEUE_SEL, queue.into()),
                (0x38, size),
                (0x80, page),
                (0x90, page + 0x1000),
                (0xa0, page + 0x2000),
                (0x44, 1),
            ] {
                write(guest, model, offset, value);
            }
        }
        4 => {
            let (offset, width) = (u64::from(choices.word() % 0x1000), choices.width());
            let bytes: [u8; 8] = choices.bytes();
            write_any(guest, model, offset, &bytes[..width]);
        }
        5 => read_any(guest, model, choices.word() % 0x1000, choices.width()),
        6 => {
            let pages = choices.number();
            guest.set_target(pages);
            model.set_target(pages, guest.read(0xfc));
        }
        _ => match choices.byte() % 3 {
            0 => guest.run_device(),
            1 => {
                guest.transport.reset();
                model.reset();
            }
            _ => read_any(guest, model, choices.byte().into(), 4),
        },
    }
}

fn write(guest: &Guest, model: &mut Model, offset: u64, value: u32) {
    write_any(guest, model, offset, &value.to_le_bytes());
}

fn write_any(guest: &Guest, model: &mut Model, offset: u64, bytes: &[u8]) {
    guest.transport.write(offset, bytes);
    let word = <[u8; 4]>::try_from(bytes).map(u32::from_le_bytes);
    match (offset.checked_sub(CONFIG), word) {
        (Some(4), Ok(pages)) => model.actual = pages,
        (Some(12), Ok(pattern)) if model.has_poison => model.poison = pattern,
        (None, Ok(value)) if offset.is_multiple_of(4) => {
            let needs_reset = guest.read(STATUS) & NEEDS_RESET != 0;
            model.write(offset, value, needs_reset);
        }
        // Not the driver's to write, or not in this width.
        _ => {}
    }
}

fn read_any(guest: &Guest, model: &mut Model, offset: u16, width: usize) {
    let mut bytes = [0xff; 8];
    guest.transport.read(offset.into(), &mut bytes[..width]);
    let expected: Vec<u8> = match offset.checked_sub(CONFIG_OFFSET) {
        Some(at) => {
            let config = model.config().into_iter().chain(std::iter::repeat(0));
            config.skip(usize::from(at)).take(width).collect()
        }
        None if width == 4 && offset.is_multiple_of(4) => {
            model.read(offset.into()).to_le_bytes().to_vec()
        }
        None => vec![0; width],
    };
    assert_eq!(bytes[..width], expected, "{width} bytes at {offset:#x}");
}
