//! Drivers that keep to the rules, with memory of which whole huge pages go back: whatever they put
//! into the balloon and take out of it, what is theirs keeps its contents.

use std::ops::ControlFlow;

use aerostat_devices::{GuestRam, PAGE_SIZE, RamOptions};
use vm_memory::{Bytes, GuestAddress};

use super::choices::Choices;
use super::machine::{ALL_OPTIONS, BUFFER, Guest};
use super::{features, survive};

/// Memory in which there are whole huge pages of 2 MiB, below the hole and behind it.
const RANGES: [(u64, u64); 2] = [(0, 4 << 20), (8 << 20, 4 << 20)];
/// The pages in it that no ring and no buffer is in.
const PAGES: [std::ops::Range<u32>; 2] = [512..1024, 2048..3072];
const MUST_TELL_HOST: u32 = 1;
/// Page numbers in a buffer, as Linux sends them.
const BUFFER_PAGES: usize = 256;

fn transparent() -> GuestRam {
    let ranges = RANGES.map(|(start, bytes)| (GuestAddress(start), bytes));
    let options = RamOptions {
        thp: Some(true),
        ..RamOptions::default()
    };
    let ram = GuestRam::map(&ranges, options, &mut |_| ControlFlow::Continue(()));
    ram.expect("memory")
}

/// As [`queues_survive_any_driver`](super::queues_survive_any_driver), with memory of which whole huge
/// pages go back.
pub fn huge_pages_survive_any_driver(input: &[u8]) {
    let mut guest = Guest::with_ram(ALL_OPTIONS, transparent());
    guest.start(features(&guest));
    survive(guest, Choices::new(input));
}

/// A driver and what it knows of its pages.
struct Driver {
    guest: Guest,
    /// By page number: it is in the balloon.
    in_balloon: Vec<bool>,
}

impl Driver {
    fn new() -> Self {
        let mut guest = Guest::with_ram(ALL_OPTIONS, transparent());
        guest.start(MUST_TELL_HOST);
        let driver = Self {
            guest,
            in_balloon: vec![false; 3072],
        };
        for page in PAGES.into_iter().flatten() {
            driver.write(page);
        }
        driver
    }

    fn write(&self, page: u32) {
        let address = u64::from(page) * PAGE_SIZE;
        self.guest.poke(address, &address.to_le_bytes());
    }

    fn read(&self, page: u32) -> u64 {
        let address = GuestAddress(u64::from(page) * PAGE_SIZE);
        self.guest.memory.read_obj(address).expect("memory")
    }

    /// Puts pages into a queue, a buffer after the other, and waits for each.
    fn send(&mut self, queue: u8, pages: &[u32]) {
        for pages in pages.chunks(BUFFER_PAGES) {
            for (at, page) in (BUFFER..).step_by(4).zip(pages) {
                self.guest.poke(at, &page.to_le_bytes());
            }
            let length = u32::try_from(pages.len() * 4).expect("small");
            let before = self.guest.used_index(queue);
            self.guest.describe(queue, 0, BUFFER, length, 0, 0);
            self.guest.offer(queue, 0);
            self.guest.kick(queue);
            self.guest.run_device();
            assert_eq!(self.guest.used_index(queue), before.wrapping_add(1));
        }
    }

    /// Inflates or deflates some neighbouring pages, as far as they are not there yet.
    fn act(&mut self, choices: &mut Choices<'_>) {
        let kind = choices.byte() % 8;
        match kind {
            0 => {
                self.guest.balloon.stop();
                self.guest.balloon.resume();
                return;
            }
            1 => {
                self.guest.pass_time();
                self.guest.run_device();
                return;
            }
            _ => {}
        }
        let deflates = kind < 4;
        let range = PAGES[usize::from(choices.byte() % 2)].clone();
        let first = u32::from(choices.word()) % 1024;
        let count = u32::from(choices.word()) % 600;
        let descends = choices.byte().is_multiple_of(2);
        let pages = range.skip(usize::try_from(first).expect("small"));
        let pages = pages.take(usize::try_from(count).expect("small"));
        let is_other = |page: &u32| self.in_balloon[*page as usize] == deflates;
        let mut pages: Vec<_> = pages.filter(is_other).collect();
        if descends {
            pages.reverse();
        }
        self.send(u8::from(deflates), &pages);
        for page in pages {
            self.in_balloon[page as usize] = !deflates;
            if deflates {
                self.write(page);
            }
        }
    }

    /// What is the guest's keeps its contents; what is not has lost them.
    fn check(&self) {
        for page in PAGES.into_iter().flatten() {
            let (is, was) = (self.read(page), u64::from(page) * PAGE_SIZE);
            let expected = match self.in_balloon[page as usize] {
                true => 0,
                false => was,
            };
            assert_eq!(is, expected, "page {page}");
        }
    }
}

/// A driver that keeps to the rules never loses a page, and all that it gives goes back in the end.
pub fn guest_keeps_its_pages(input: &[u8]) {
    let mut driver = Driver::new();
    let mut choices = Choices::new(input);
    while !choices.is_empty() {
        driver.act(&mut choices);
    }
    // What waits for the rest of its huge page goes now: at the second call, if some came after the
    // first.
    for _ in 0..2 {
        driver.guest.pass_time();
        driver.guest.run_device();
    }
    driver.check();
}
