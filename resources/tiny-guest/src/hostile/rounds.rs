//! One round of each attack, after a script.

use super::{RINGS, SAME_PAGES, SAME_PAGES_COUNT};
use crate::balloon::{MAX_QUEUES, QUEUE_SIZE, register};
use crate::{BalloonDriver, Script};

/// Address, length, flags and next of a descriptor (virtio 1.2 §2.7.5).
type Descriptor = (u64, u32, u16, u16);

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

const STATISTICS: usize = 2;
const REPORTING: usize = 3;

/// Where what is read goes.
const SCRATCH: u64 = 0x600c;

fn notify(script: Script, driver: &BalloonDriver, queue: u32) -> Script {
    script.store32(driver.register(register::QUEUE_NOTIFY), queue)
}

fn reset(script: Script, driver: &BalloonDriver) -> Script {
    script.store32(driver.register(register::STATUS), 0)
}

pub(super) fn kicks(script: Script, driver: &mut BalloonDriver) -> Script {
    let all = |mut script: Script, driver: &BalloonDriver| {
        for _ in 0..64 {
            for queue in [0, 1, 2, 3, 0, 0, 4, 0xffff, u32::MAX] {
                script = notify(script, driver, queue);
            }
        }
        script
    };
    let script = driver.init(script);
    let script = all(script, driver);
    let script = reset(script, driver);
    all(script, driver)
}

pub(super) fn resets(script: Script, driver: &mut BalloonDriver) -> Script {
    let mut script = script;
    for _ in 0..32 {
        script = driver.init(script);
        for _ in 0..8 {
            script = reset(script, driver);
        }
    }
    script
}

pub(super) fn sizes(script: Script, driver: &mut BalloonDriver) -> Script {
    let mut script = driver.init(script);
    for pages in (0..256).flat_map(|pages| [pages, u32::MAX]) {
        script = script.store32(driver.actual(), pages);
    }
    script
}

pub(super) fn registers(script: Script, driver: &mut BalloonDriver) -> Script {
    every_byte(script, driver, 0x1000)
}

/// As [`registers`], for all that there is in the page.
pub(super) fn used_registers(script: Script, driver: &mut BalloonDriver) -> Script {
    every_byte(script, driver, register::CONFIG + 0x20)
}

fn every_byte(script: Script, driver: &mut BalloonDriver, length: u64) -> Script {
    let page = driver.register(0);
    let mut script = driver.init(script);
    for width in [1, 2, 4, 8] {
        script = script
            .load_each(page, length, width)
            .store_each(page, length, width, u64::MAX);
    }
    script
}

pub(super) fn generation(script: Script, driver: &mut BalloonDriver) -> Script {
    let mut script = driver.init(script);
    for _ in 0..256 {
        script = script
            .copy32(SCRATCH, driver.register(register::CONFIG_GENERATION))
            .copy32(SCRATCH, driver.num_pages());
    }
    script
}

/// Fills each queue with buffers that are all this one.
fn fill_queues(
    mut script: Script,
    driver: &BalloonDriver,
    buffer: impl Fn(usize) -> Descriptor,
) -> Script {
    for (queue, number) in (0..MAX_QUEUES).zip(0..) {
        for slot in 0..u64::from(QUEUE_SIZE) {
            let entry = driver.available(queue) + 4 + 2 * slot;
            script = describe(script, driver, queue, slot, buffer(queue)).store(entry, slot, 2);
        }
        script = script.store(driver.available(queue) + 2, QUEUE_SIZE.into(), 2);
        script = notify(script, driver, number);
    }
    (0..MAX_QUEUES).fold(script, |script, queue| {
        returned(script, driver, queue, QUEUE_SIZE)
    })
}

/// Waits until the device has returned all of so many buffers, but the statistics that it keeps.
fn returned(script: Script, driver: &BalloonDriver, queue: usize, index: u32) -> Script {
    let kept = u32::from(queue == STATISTICS);
    script.wait32(driver.used(queue), 0xffff_0000, (index - kept) << 16)
}

fn describe(
    script: Script,
    driver: &BalloonDriver,
    queue: usize,
    slot: u64,
    (address, length, flags, next): Descriptor,
) -> Script {
    let at = driver.descriptors(queue) + 16 * slot;
    let rest = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
    script.store(at, address, 8).store(at + 8, rest, 8)
}

pub(super) fn long_buffers(script: Script, driver: &mut BalloonDriver) -> Script {
    let script = driver.init(script);
    fill_queues(script, driver, |queue| {
        let flags = if queue == REPORTING { WRITE } else { 0 };
        (SAME_PAGES, 4 * SAME_PAGES_COUNT, flags, 0)
    })
}

/// Each fills the first two places of the table, which is then offered from its first on.
const BAD_BUFFERS: [[Descriptor; 2]; 18] = [
    // Lengths that nothing fits.
    [(SAME_PAGES, 0, 0, 0), (0, 0, 0, 0)],
    [(SAME_PAGES, 1, 0, 0), (0, 0, 0, 0)],
    [(SAME_PAGES, 7, 0, 0), (0, 0, 0, 0)],
    [(SAME_PAGES + 1, 41, 0, 0), (0, 0, 0, 0)],
    [(SAME_PAGES, u32::MAX, 0, 0), (0, 0, 0, 0)],
    // For the other side.
    [(SAME_PAGES, 8, WRITE, 0), (0, 0, 0, 0)],
    [(SAME_PAGES, 0x2000, WRITE, 0), (0, 0, 0, 0)],
    [(SAME_PAGES, 8, WRITE | NEXT, 1), (SAME_PAGES, 8, 0, 0)],
    // Past the end of memory, in the hole, at the device, and where addresses end.
    [(0x400_0000 - 4, 8, 0, 0), (0, 0, 0, 0)],
    [(0xc000_0000, 64, 0, 0), (0, 0, 0, 0)],
    [(0xd000_0000, 64, WRITE, 0), (0, 0, 0, 0)],
    [(u64::MAX - 3, 64, WRITE, 0), (0, 0, 0, 0)],
    // Chains that bite their tail, or leave the table.
    [(SAME_PAGES, 64, NEXT, 0), (0, 0, 0, 0)],
    [(SAME_PAGES, 64, NEXT, 1), (SAME_PAGES, 64, NEXT, 0)],
    [(SAME_PAGES, 64, NEXT, 0xffff), (0, 0, 0, 0)],
    // Tables elsewhere, which nobody has negotiated.
    [(RINGS, 16, INDIRECT, 0), (0, 0, 0, 0)],
    [(RINGS, u32::MAX, INDIRECT, 0), (0, 0, 0, 0)],
    [
        (SAME_PAGES, 24, INDIRECT | NEXT, 1),
        (RINGS, 16, INDIRECT, 0),
    ],
];

/// Page numbers past the end of memory, in the hole, and named twice.
const BAD_PAGES: [u32; 6] = [0x4000, 0xc0000, 0xd0000, 0xf_ffff, u32::MAX, u32::MAX];

pub(super) fn bad_buffers(script: Script, driver: &mut BalloonDriver) -> Script {
    let mut script = driver.init(script);
    for (at, page) in (SAME_PAGES..).step_by(4).zip(BAD_PAGES) {
        script = script.store32(at, page);
    }
    for (queue, number) in (0..MAX_QUEUES).zip(0..) {
        for (index, [first, second]) in (1..).zip(BAD_BUFFERS) {
            script = describe(script, driver, queue, 0, first);
            script = describe(script, driver, queue, 1, second).store(
                driver.available(queue) + 2,
                u64::from(index),
                2,
            );
            script = notify(script, driver, number);
            script = returned(script, driver, queue, index);
        }
    }
    script
}

pub(super) fn lost_rings(script: Script, driver: &mut BalloonDriver) -> Script {
    let pages = 3 * u32::try_from(MAX_QUEUES).unwrap_or(4);
    let first = u32::try_from(RINGS / 4096).unwrap_or(0);
    let mut script = driver.init(script);
    // What the device returns it writes into a ring that has just been released.
    script = script.numbers(driver.buffer(), pages.into(), first, 1);
    script = driver.submit(script, 0, driver.buffer(), 4 * pages, 0);
    script = notify(script, driver, 0);
    script = driver.init(script);
    script = driver.submit(script, REPORTING, RINGS, 4096 * pages, WRITE);
    script = notify(script, driver, 3);
    // All queues in one and the same place.
    script = driver.negotiate(script);
    for queue in 0..4 {
        script = script.store32(driver.register(register::QUEUE_SEL), queue);
        script = place(script, driver, [RINGS; 3]);
    }
    script = script.store32(driver.register(register::STATUS), 15);
    for (queue, index) in (0..4).zip(1..) {
        script = script.store(RINGS + 2, index, 2);
        script = notify(script, driver, queue);
    }
    script
}

/// Sets where the parts of the chosen queue are, and makes it ready.
fn place(script: Script, driver: &BalloonDriver, parts: [u64; 3]) -> Script {
    let registers = [
        register::QUEUE_DESC_LOW,
        register::QUEUE_DRIVER_LOW,
        register::QUEUE_DEVICE_LOW,
    ];
    registers
        .into_iter()
        .zip(parts)
        .fold(script, |script, (register, part)| {
            let part = u32::try_from(part).unwrap_or(u32::MAX);
            script.store32(driver.register(register), part)
        })
        .store32(driver.register(register::QUEUE_READY), 1)
}

pub(super) fn jumps(script: Script, driver: &mut BalloonDriver) -> Script {
    const NEEDS_RESET: u32 = 64;
    const JUMPS: [(u64, u64); 5] = [(0, 17), (0, 0x8000), (0, 0xffff), (16, 1), (0xffff, 1)];
    let mut script = script;
    for (queue, number) in (0..MAX_QUEUES).zip(0..) {
        // Statistics are kept, whatever their head is: it is looked at when they go back.
        let count = if queue == STATISTICS { 3 } else { JUMPS.len() };
        for (head, index) in JUMPS.into_iter().take(count) {
            script = driver
                .init(script)
                .store(driver.available(queue) + 4, head, 2)
                .store(driver.available(queue) + 2, index, 2);
            script = notify(script, driver, number).wait32(
                driver.register(register::STATUS),
                NEEDS_RESET,
                NEEDS_RESET,
            );
        }
    }
    script
}

/// As [`jumps`], by somebody who does not wait for the device's answer.
pub(super) fn jumps_unanswered(script: Script, driver: &mut BalloonDriver) -> Script {
    let mut script = driver.init(script);
    for (queue, number) in (0..MAX_QUEUES).zip(0..) {
        script = script.store(driver.available(queue) + 2, 0x8000, 2);
        script = notify(script, driver, number);
    }
    script
}

pub(super) fn moved_queues(script: Script, driver: &mut BalloonDriver) -> Script {
    let mut script = driver.init(script);
    for queue in 0..4 {
        for size in [0, 3, 128, u32::MAX] {
            script = script
                .store32(driver.register(register::QUEUE_SEL), queue)
                .store32(driver.register(register::QUEUE_READY), 0)
                .store32(driver.register(register::QUEUE_NUM), size);
            script = place(script, driver, [SAME_PAGES, 0xd000_0000, u64::MAX]);
        }
    }
    // The queues are where they were.
    for queue in [0, 1] {
        script = driver.submit(script, queue, SAME_PAGES, 64, 0);
    }
    script
}
