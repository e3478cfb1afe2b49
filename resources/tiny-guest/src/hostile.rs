//! A guest that attacks its balloon until it is told to behave.
//!
//! It prints a dot after each round. Once the host wants one page ([`HostileGuest::BEHAVE`]), or
//! when the machine is reset while it does, the guest resets the device, prints `behaves` and does
//! what a driver should: it inflates and deflates as it is told. Then it goes on with its attack, once
//! something is typed.

use crate::balloon::{MAX_QUEUES, QUEUE_SIZE, register};
use crate::{BalloonDriver, Script};

/// What a guest may try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Kicks of all queues, of queues that do not exist, and of a device in reset.
    Kicks,
    /// Resets of the device, one after the other.
    Resets,
    /// Another size of the balloon each time.
    Sizes,
    /// Reads and writes of each register and each byte of the device's page, in every width.
    Registers,
    /// The configuration and its generation are read over and over.
    Generation,
    /// All queues full of the longest buffers, of one and the same page.
    LongBuffers,
    /// Buffers of every kind that no driver should use, in each queue.
    BadBuffers,
    /// Rings that the driver puts into its balloon itself, and that lie over each other.
    LostRings,
    /// Available rings that jump, and heads that are past the end of the table.
    Jumps,
    /// Registers of the queues rewritten while the device works.
    MovedQueues,
    /// What needs no answer of the device, by all CPUs at once.
    AllCpus,
}

/// Address, length, flags and next of a descriptor (virtio 1.2 §2.7.5).
type Descriptor = (u64, u32, u16, u16);

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Statistics and reporting, so that there are all queues.
const FEATURES: u32 = 1 << 1 | 1 << 5;
const STATISTICS: usize = 2;
const REPORTING: usize = 3;

const RINGS: u64 = 0x200_0000;
/// 256 KiB of page numbers, all the same.
const SAME_PAGES: u64 = 0x300_0000;
const SAME_PAGES_COUNT: u32 = 65536;
/// Where the CPUs note what they have read of the target, those beside the first in another place.
const SEEN: [u64; 2] = [0x6000, 0x6004];
/// How many of the other CPUs have stopped.
const STOPPED: u64 = 0x6008;
/// Where what is read goes.
const SCRATCH: u64 = 0x600c;

impl Attack {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Kicks,
        Self::Resets,
        Self::Sizes,
        Self::Registers,
        Self::Generation,
        Self::LongBuffers,
        Self::BadBuffers,
        Self::LostRings,
        Self::Jumps,
        Self::MovedQueues,
        Self::AllCpus,
    ];

    /// A short name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kicks => "kicks",
            Self::Resets => "resets",
            Self::Sizes => "sizes",
            Self::Registers => "registers",
            Self::Generation => "generation",
            Self::LongBuffers => "long_buffers",
            Self::BadBuffers => "bad_buffers",
            Self::LostRings => "lost_rings",
            Self::Jumps => "jumps",
            Self::MovedQueues => "moved_queues",
            Self::AllCpus => "all_cpus",
        }
    }

    /// One round of it.
    fn round(self, script: Script, driver: &mut BalloonDriver) -> Script {
        match self {
            Self::Kicks => kicks(script, driver),
            Self::Resets => resets(script, driver),
            Self::Sizes => sizes(script, driver),
            Self::Registers => registers(script, driver),
            Self::Generation => generation(script, driver),
            Self::LongBuffers => long_buffers(script, driver),
            Self::BadBuffers => bad_buffers(script, driver),
            Self::LostRings => lost_rings(script, driver),
            Self::Jumps => jumps(script, driver),
            Self::MovedQueues => moved_queues(script, driver),
            Self::AllCpus => [
                kicks,
                resets,
                sizes,
                generation,
                jumps_unanswered,
                used_registers,
            ]
            .into_iter()
            .fold(script, |script, part| part(script, driver)),
        }
    }
}

/// A guest of 64 MiB whose balloon offers free page reporting.
#[derive(Clone, Copy, Debug)]
pub struct HostileGuest {
    /// What it does.
    pub attack: Attack,
    /// CPUs that take part, beside the first.
    pub others: u16,
}

impl HostileGuest {
    /// The pages that the host wants when the guest is to behave.
    pub const BEHAVE: u32 = 1;
    /// The pages that it then gives once the host wants just as many, and takes back once the host
    /// wants none.
    pub const GIVES: u32 = 1024;
    /// The first of them.
    const FIRST_PFN: u32 = 0x1000;

    /// Its script, for the balloon at `base`.
    #[must_use]
    pub fn script(self, base: u64) -> Script {
        let mut driver = BalloonDriver::new(base, RINGS)
            .with_features(FEATURES)
            .with_queues(MAX_QUEUES);
        // Where the attack begins is known once what comes before it has been written down.
        let others_begin = self.behaving(&mut driver, 0).here();
        let begin = self
            .others_attacking(self.behaving(&mut driver, 0), &mut driver)
            .here();
        let script = self.behaving(&mut driver, begin);
        let mut script = self
            .others_attacking(script, &mut driver)
            .store32(STOPPED, 0);
        if self.others > 0 {
            script = script.start_others_at(others_begin);
        }
        let same = match self.attack {
            Attack::LongBuffers => SAME_PAGES_COUNT,
            _ => 16,
        };
        let script = script.numbers(SAME_PAGES, same.into(), Self::FIRST_PFN, 0);
        let round = script.here();
        let script = self.attack.round(script, &mut driver).puts(".");
        unless_to_behave(script, &driver, SEEN[0], round)
            .wait32(STOPPED, 0xffff, self.others.into())
            .jump(0)
    }

    /// What a driver should do, from the first operation of the script on; else `attack`.
    fn behaving(self, driver: &mut BalloonDriver, attack: u64) -> Script {
        let script = unless_to_behave(Script::new(), driver, SEEN[0], attack);
        let (pages, count) = (u64::from(Self::FIRST_PFN) * 4096, Self::GIVES);
        let script = driver
            .init(script)
            .fill(pages, count.into(), 4096, u64::MAX)
            .puts("behaves\n")
            .wait32(driver.num_pages(), u32::MAX, count);
        let script = driver
            .inflate(script, Self::FIRST_PFN, count, 1, count)
            .puts("inflated\n")
            .wait32(driver.num_pages(), u32::MAX, 0)
            .collect("contents", pages, count.into(), 4096);
        let script = driver
            .deflate(script, Self::FIRST_PFN, count, 0)
            .puts("deflated\n")
            .echo_serial();
        script.jump(0)
    }

    /// What the other CPUs do, after `script`.
    fn others_attacking(self, script: Script, driver: &mut BalloonDriver) -> Script {
        let begin = script.here();
        let script = self.attack.round(script, driver);
        unless_to_behave(script, driver, SEEN[1], begin)
            .add16(STOPPED, 1)
            .halt()
    }
}

/// Goes to `operation` unless the host wants [`HostileGuest::BEHAVE`] pages.
fn unless_to_behave(script: Script, driver: &BalloonDriver, seen: u64, operation: u64) -> Script {
    script
        .copy32(seen, driver.num_pages())
        .repeat(seen, operation)
}

fn notify(script: Script, driver: &BalloonDriver, queue: u32) -> Script {
    script.store32(driver.register(register::QUEUE_NOTIFY), queue)
}

fn reset(script: Script, driver: &BalloonDriver) -> Script {
    script.store32(driver.register(register::STATUS), 0)
}

fn kicks(script: Script, driver: &mut BalloonDriver) -> Script {
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

fn resets(script: Script, driver: &mut BalloonDriver) -> Script {
    let mut script = script;
    for _ in 0..32 {
        script = driver.init(script);
        for _ in 0..8 {
            script = reset(script, driver);
        }
    }
    script
}

fn sizes(script: Script, driver: &mut BalloonDriver) -> Script {
    let mut script = driver.init(script);
    for pages in (0..256).flat_map(|pages| [pages, u32::MAX]) {
        script = script.store32(driver.actual(), pages);
    }
    script
}

fn registers(script: Script, driver: &mut BalloonDriver) -> Script {
    every_byte(script, driver, 0x1000)
}

/// As [`registers`], for all that there is in the page.
fn used_registers(script: Script, driver: &mut BalloonDriver) -> Script {
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

fn generation(script: Script, driver: &mut BalloonDriver) -> Script {
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

fn long_buffers(script: Script, driver: &mut BalloonDriver) -> Script {
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

fn bad_buffers(script: Script, driver: &mut BalloonDriver) -> Script {
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

fn lost_rings(script: Script, driver: &mut BalloonDriver) -> Script {
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

fn jumps(script: Script, driver: &mut BalloonDriver) -> Script {
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
fn jumps_unanswered(script: Script, driver: &mut BalloonDriver) -> Script {
    let mut script = driver.init(script);
    for (queue, number) in (0..MAX_QUEUES).zip(0..) {
        script = script.store(driver.available(queue) + 2, 0x8000, 2);
        script = notify(script, driver, number);
    }
    script
}

fn moved_queues(script: Script, driver: &mut BalloonDriver) -> Script {
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
