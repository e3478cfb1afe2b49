//! What a guest may do to its balloon, and its host meanwhile: one thing after the other, as an
//! input says.

use aerostat_devices::PAGE_SIZE;
use aerostat_devices::bus::BusDevice;

use super::choices::Choices;
use super::machine::{BUFFER, CONFIG, Guest, QUEUE_SEL, QUEUE_SIZE, QUEUES, STATUS};

/// The registers of the transport (virtio 1.2 §4.2.2).
pub const REGISTERS: [u64; 32] = [
    0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x20, 0x24, QUEUE_SEL, 0x34, 0x38, 0x44, 0x50, 0x60, 0x64,
    STATUS, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac, 0xb0, 0xc0, 0xfc, CONFIG, 0x104, 0x108,
    0x10c, 0x110, 0xffc,
];

/// Descriptor flags (§2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Which queue reports free memory when all are there.
const REPORTING: u8 = 3;

/// Does one thing that the choices say.
pub fn act(guest: &mut Guest, choices: &mut Choices<'_>) {
    let (queue, kind) = (choices.byte() % QUEUES, choices.byte());
    match kind % 20 {
        0 => {
            let offset = choices.of(&REGISTERS);
            guest.write(offset, choices.number());
        }
        1 => {
            let (width, offset) = (choices.width(), u64::from(choices.word() % 0x1000));
            let bytes: [u8; 8] = choices.bytes();
            guest.transport.write(offset, &bytes[..width]);
        }
        2 => {
            let (width, offset) = (choices.width(), u64::from(choices.word() % 0x1000));
            guest.transport.read(offset, &mut [0; 8][..width]);
        }
        3 => {
            let address = u64::from(choices.word()) << (choices.byte() % 32);
            guest.poke(address, &choices.bytes::<8>());
        }
        4 => {
            let address = u64::from(choices.word()) << (choices.byte() % 48);
            let (slot, length) = (choices.word(), choices.number());
            let (flags, next) = (choices.word() % 8, choices.word() % 256);
            guest.describe(queue, slot, address, length, flags, next);
        }
        5 => guest.offer(queue, choices.word() % 256),
        6 => {
            let index = choices.word();
            guest.submitted[usize::from(queue)] = index;
            guest.poke(guest.available(queue) + 2, &index.to_le_bytes());
        }
        7 => guest.kick(queue),
        8 => guest.run_device(),
        9 => guest.start(choices.byte().into()),
        10 => send_pages(guest, queue, choices),
        11 => guest.set_target(choices.number()),
        12 => command(guest, choices),
        13 => guest.transport.reset(),
        14 => guest.pass_time(),
        15 => send_chain(guest, queue, choices),
        16 => send_indirect(guest, queue, choices),
        17 => {
            // Statistics, or what is none.
            let (tag, value, length) = (choices.word() % 20, choices.number(), choices.byte());
            guest.poke(BUFFER, &tag.to_le_bytes());
            guest.poke(BUFFER + 2, &u64::from(value).to_le_bytes());
            guest.describe(queue, tag, BUFFER, length.into(), 0, 0);
            guest.offer(queue, tag);
            guest.kick(queue);
        }
        18 => {
            // The rings over what is released, or over the buffers, or half outside.
            let features = choices.byte();
            guest.start_at(features.into(), u64::from(choices.byte()) * PAGE_SIZE);
        }
        _ => {
            // As much as can be, of memory as it is.
            let (slot, page) = (choices.word(), u64::from(choices.word()));
            let length = choices.of(&[256 << 10, u32::MAX, !3, 1 << 20]);
            let flags = u16::from(queue == REPORTING) * WRITE;
            guest.describe(queue, slot, page * PAGE_SIZE, length, flags, 0);
            guest.offer(queue, slot % QUEUE_SIZE);
            guest.kick(queue);
        }
    }
}

/// What the host does at its will; some leave the machine as the host would have it.
fn command(guest: &Guest, choices: &mut Choices<'_>) {
    let balloon = &guest.balloon;
    match choices.byte() % 7 {
        0 => balloon.stop(),
        1 => balloon.resume(),
        2 => balloon.request_statistics(),
        3 => balloon.set_polling_interval(choices.byte().into()),
        4 => balloon.switch_reporting(choices.byte().is_multiple_of(2)),
        5 => balloon.set_reporting_rate(u64::from(choices.byte() % 4) << 25),
        _ => drop(balloon.statistics()),
    }
}

/// An array of page numbers, in order.
fn send_pages(guest: &mut Guest, queue: u8, choices: &mut Choices<'_>) {
    let (slot, count) = (choices.word(), choices.byte());
    let (first, step) = (choices.number(), choices.byte());
    let at = BUFFER + u64::from(choices.byte()) * 64;
    for index in 0..u32::from(count) {
        let page = first.wrapping_add(index.wrapping_mul(step.into()));
        guest.poke(at + u64::from(index) * 4, &page.to_le_bytes());
    }
    let flags = u16::from(queue == REPORTING) * WRITE;
    guest.describe(queue, slot, at, u32::from(count) * 4, flags, 0);
    guest.offer(queue, slot % QUEUE_SIZE);
    guest.kick(queue);
}

/// A chain over many descriptors, which may bite its tail.
fn send_chain(guest: &mut Guest, queue: u8, choices: &mut Choices<'_>) {
    let (first, count) = (choices.word() % QUEUE_SIZE, u16::from(choices.byte()));
    let (length, flags) = (choices.word(), (choices.word() % 8) & !NEXT);
    let address = u64::from(choices.word()) * 16;
    let last = first.wrapping_add(count);
    for slot in first..last {
        guest.describe(
            queue,
            slot,
            address,
            length.into(),
            flags | NEXT,
            (slot + 1) % QUEUE_SIZE,
        );
    }
    let end = flags | u16::from(choices.byte() % 2);
    guest.describe(queue, last, address, length.into(), end, first);
    guest.offer(queue, first);
    guest.kick(queue);
}

/// A table elsewhere, of more descriptors than a queue has, which may hold tables again.
fn send_indirect(guest: &mut Guest, queue: u8, choices: &mut Choices<'_>) {
    let (slot, count) = (choices.word() % QUEUE_SIZE, choices.word() % 512);
    let (length, flags) = (choices.word(), choices.word() % 8);
    let address = u64::from(choices.word()) * 16;
    for index in 0..count {
        let at = BUFFER + u64::from(index) * 16;
        guest.describe_at(at, address, length.into(), flags | NEXT, index + 1);
    }
    let bytes = u32::from(count) * 16 + u32::from(choices.byte() % 2);
    guest.describe(
        queue,
        slot,
        BUFFER,
        bytes,
        INDIRECT | (choices.word() % 8),
        0,
    );
    guest.offer(queue, slot);
    guest.kick(queue);
}
