//! A guest that attacks its balloon until it is told to behave.
//!
//! It prints a dot after each round. Once the host wants one page ([`HostileGuest::BEHAVE`]), or
//! when the machine is reset while it does, the guest resets the device, prints `behaves` and does
//! what a driver should: it inflates and deflates as it is told. Then it goes on with its attack, once
//! something is typed.

mod rounds;

use rounds::{
    bad_buffers, generation, jumps, jumps_unanswered, kicks, long_buffers, lost_rings,
    moved_queues, registers, resets, sizes, used_registers,
};

use crate::balloon::MAX_QUEUES;
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

/// Statistics and reporting, so that there are all queues.
const FEATURES: u32 = 1 << 1 | 1 << 5;
const RINGS: u64 = 0x200_0000;
/// 256 KiB of page numbers, all the same.
const SAME_PAGES: u64 = 0x300_0000;
const SAME_PAGES_COUNT: u32 = 65536;
/// Where the CPUs note what they have read of the target, those beside the first in another place.
const SEEN: [u64; 2] = [0x6000, 0x6004];
/// How many of the other CPUs have stopped.
const STOPPED: u64 = 0x6008;
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
