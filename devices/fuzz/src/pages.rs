//! What memory a balloon releases: just the pages that it was given, all of them once it has
//! returned their buffers, and nothing while the machine is stopped.

use std::collections::BTreeSet;
use std::mem::take;

use aerostat_devices::{PAGE_SIZE, Pfn};
use vm_memory::Bytes;

use super::choices::Choices;
use super::features;
use super::machine::{ALL_OPTIONS, BUFFER, CONFIG, Guest, HIGH, QUEUE_SIZE, QUEUES};

const INFLATE: u8 = 0;
const STATISTICS: u8 = 2;
const REPORTING: u8 = 3;
const WRITE: u16 = 2;
/// Room for the page numbers of one buffer.
const ROOM: u64 = 64;
/// Pages that no ring and no buffer is in: the rest of what is below the hole, and what is behind.
const BELOW: std::ops::Range<u32> = 64..256;
/// Buffers that a queue may hold.
const MAX_PENDING: usize = 64;

/// A driver that keeps to the rules, and what it knows.
struct Driver {
    guest: Guest,
    /// Pages that are not empty.
    full: BTreeSet<u32>,
    /// Pages in buffers that the device has not returned, for each queue.
    pending: [Vec<BTreeSet<u32>>; QUEUES as usize],
    is_kicked: [bool; QUEUES as usize],
    is_stopped: bool,
    is_reporting: bool,
    pattern: u32,
    /// The value that it told last.
    told: Option<u64>,
}

impl Driver {
    fn new() -> Self {
        let mut guest = Guest::new(ALL_OPTIONS);
        guest.start(features(&guest));
        Self {
            guest,
            full: BTreeSet::new(),
            pending: Default::default(),
            is_kicked: [true; QUEUES as usize],
            is_stopped: false,
            is_reporting: true,
            pattern: 0,
            told: None,
        }
    }

    /// Pages that an input names: some below the hole, some behind, some that are no memory.
    fn pages(choices: &mut Choices<'_>) -> Vec<u32> {
        let high = u32::try_from(HIGH.0 / PAGE_SIZE).expect("small");
        let first = match choices.byte() {
            byte @ ..192 => BELOW.start + u32::from(byte),
            byte => high + u32::from(byte) * 4 % 256,
        };
        let (count, step) = (
            u32::from(choices.byte() % 16),
            u32::from(choices.byte() % 4),
        );
        (0..count).map(|index| first + index * step).collect()
    }

    /// Those of them that are memory.
    fn memory(pages: &[u32]) -> BTreeSet<u32> {
        let high = u32::try_from(HIGH.0 / PAGE_SIZE).expect("small");
        let is_memory = |page: &u32| BELOW.contains(page) || (high..high + 256).contains(page);
        pages.iter().copied().filter(is_memory).collect()
    }

    fn fill(&mut self, pages: &[u32]) {
        for page in Self::memory(pages) {
            self.guest.poke(Pfn(page).address().0, &[1; 8]);
            self.full.insert(page);
        }
    }

    /// Where the page numbers of a queue's next buffer stand, and the slot that describes it.
    fn place(&self, queue: u8) -> (u64, u16) {
        let slot = self.guest.submitted[usize::from(queue)] % QUEUE_SIZE;
        let number = u64::from(queue) * u64::from(QUEUE_SIZE) + u64::from(slot);
        (BUFFER + number * ROOM, slot)
    }

    fn give(&mut self, queue: u8, pages: &[u32]) {
        let (at, slot) = self.place(queue);
        match queue {
            STATISTICS => return,
            REPORTING => {
                let Some(&first) = pages.first() else { return };
                let bytes = u32::try_from(PAGE_SIZE).expect("small");
                self.guest
                    .describe(queue, slot, Pfn(first).address().0, bytes, WRITE, 0);
            }
            _ => {
                for (at, page) in (at..).step_by(4).zip(pages) {
                    self.guest.poke(at, &page.to_le_bytes());
                }
                let bytes = u32::try_from(4 * pages.len()).expect("small");
                self.guest.describe(queue, slot, at, bytes, 0, 0);
            }
        }
        self.guest.offer(queue, slot);
        let pages = if queue == REPORTING {
            &pages[..1]
        } else {
            pages
        };
        self.pending[usize::from(queue)].push(Self::memory(pages));
    }

    /// Tells a value, after which the device gives back the buffer of the one before.
    fn tell(&mut self, value: u32) {
        let waiting = &mut self.pending[usize::from(STATISTICS)];
        if waiting.len() >= MAX_PENDING {
            return;
        }
        waiting.push(BTreeSet::new());
        let (at, slot) = self.place(STATISTICS);
        self.guest.poke(at, &4_u16.to_le_bytes());
        self.guest.poke(at + 2, &u64::from(value).to_le_bytes());
        self.guest.describe(STATISTICS, slot, at, 10, 0, 0);
        self.guest.offer(STATISTICS, slot);
        self.told = Some(value.into());
        self.kick(STATISTICS);
    }

    fn kick(&mut self, queue: u8) {
        self.guest.kick(queue);
        self.is_kicked[usize::from(queue)] = true;
    }

    fn resume(&mut self) {
        self.guest.balloon.resume();
        self.is_stopped = false;
        self.is_kicked = [true; QUEUES as usize];
    }

    /// Another driver comes; the buffers of this one are nobody's any more.
    fn restart(&mut self) {
        self.guest.start(features(&self.guest));
        self.pending = Default::default();
        self.is_kicked = [true; QUEUES as usize];
        (self.pattern, self.told) = (0, None);
    }

    fn run(&mut self) {
        self.guest.run_device();
        let kicked = take(&mut self.is_kicked);
        for (queue, _) in (0..QUEUES)
            .zip(kicked)
            .filter(|(_, is)| *is && !self.is_stopped)
        {
            let given = take(&mut self.pending[usize::from(queue)]);
            let is_released = match queue {
                INFLATE => true,
                REPORTING => self.is_reporting && self.pattern == 0,
                _ => false,
            };
            for page in given.iter().flatten().filter(|_| is_released) {
                self.full.remove(page);
            }
        }
        self.check();
    }

    fn check(&self) {
        let high = u32::try_from(HIGH.0 / PAGE_SIZE).expect("small");
        for page in BELOW.chain(high..high + 256) {
            let word: u64 = self
                .guest
                .memory
                .read_obj(Pfn(page).address())
                .expect("page");
            assert_eq!(word != 0, self.full.contains(&page), "page {page}");
        }
        for queue in [INFLATE, 1, REPORTING] {
            let left = self.pending[usize::from(queue)].len();
            let returned = self.guest.submitted[usize::from(queue)] - self.guest.used_index(queue);
            assert_eq!(usize::from(returned), left, "queue {queue}");
        }
        if let Some(value) = self.told.filter(|_| !self.is_stopped) {
            assert_eq!(self.guest.balloon.statistics().values[4], value);
        }
    }
}

/// A driver that keeps to the rules, a host that does what it likes, and time that passes.
pub fn device_releases_just_what_it_is_given(input: &[u8]) {
    let mut choices = Choices::new(input);
    let mut driver = Driver::new();
    driver.run();
    while !choices.is_empty() {
        step(&mut driver, &mut choices);
        driver.guest.check();
    }
    driver.resume();
    driver.run();
    driver.guest.behave();
}

fn step(driver: &mut Driver, choices: &mut Choices<'_>) {
    match choices.byte() % 12 {
        0 | 1 => driver.fill(&Driver::pages(choices)),
        2 | 3 => {
            let queue = choices.byte() % QUEUES;
            if driver.pending[usize::from(queue)].len() < MAX_PENDING {
                driver.give(queue, &Driver::pages(choices));
            }
        }
        4 => driver.kick(choices.byte() % QUEUES),
        5 => driver.run(),
        6 => {
            driver.guest.balloon.stop();
            driver.is_stopped = true;
        }
        7 => driver.resume(),
        8 => driver.restart(),
        9 => {
            driver.is_reporting = choices.byte().is_multiple_of(2);
            driver.guest.balloon.switch_reporting(driver.is_reporting);
            // What waited for a rate waits no longer: all queues are looked at.
            driver.is_kicked = [true; QUEUES as usize];
        }
        10 => {
            driver.pattern = u32::from(choices.byte() % 2);
            driver.guest.write(CONFIG + 12, driver.pattern);
        }
        _ => match choices.byte() % 4 {
            0 => driver.tell(choices.number()),
            1 => driver.guest.balloon.request_statistics(),
            2 => driver
                .guest
                .balloon
                .set_polling_interval(choices.byte().into()),
            _ => driver.guest.pass_time(),
        },
    }
}
