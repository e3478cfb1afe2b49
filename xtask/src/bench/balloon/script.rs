//! What the tiny guest does: it writes a GiB, gives it, takes it back, writes it again and gives it
//! again, each time when the host asks, and halts.
//!
//! As Linux's driver it gives 256 pages in a buffer, waits for each buffer, and then tells its size.
//! Where each instruction is emulated, what it can have prepared before it is asked it has.

use aerostat_tiny_guest::{BalloonDriver, Script};

use crate::harness::tiny::RINGS;

use super::release::order::{BUFFER_PAGES, Order, PAGES};

/// Its memory: what it gives, and a part for itself on either side.
pub const MEM_MIB: u64 = 1280;
/// What it gives.
pub const GIVEN_MIB: u64 = 1024;
/// What it gives, from 128 MiB on.
const FIRST: u32 = 0x800_0000 / PAGE;
const PAGE: u32 = 4096;
/// The numbers of all pages in the order in which they are given.
const NUMBERS: u64 = 0x300_0000;
/// The numbers of [`BUFFER_PAGES`] pages.
const BUFFER_BYTES: u32 = 1024;
/// The queues.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;

/// All pages are written; it waits for a target.
pub const FILLED: &str = "filled\n";
/// All pages are given; it waits for a target.
pub const INFLATED: &str = "inflated\n";
/// All pages are taken back, and it begins to write them.
pub const DEFLATED: &str = "deflated\n";
/// All pages are given once more, and the guest halts.
pub const HALTED: &str = "halted\n";

/// The script for a balloon whose registers are at `device`.
pub fn script(device: u64) -> Script {
    let mut driver = BalloonDriver::new(device, RINGS);
    let script = driver.init(Script::new());
    let script = numbers(write_all(script)).puts(FILLED);
    let script = give(&mut driver, script).puts(INFLATED);
    let script = take(&mut driver, script).puts(DEFLATED);
    let script = write_all(script).puts(FILLED);
    give(&mut driver, script).puts(HALTED)
}

fn write_all(script: Script) -> Script {
    let first = u64::from(FIRST) * u64::from(PAGE);
    script.fill(first, PAGES.into(), PAGE.into(), u64::MAX)
}

/// Prepares the buffers, from pages that follow one another downwards.
fn numbers(script: Script) -> Script {
    let pages = Order::Neighbours.pages(PAGES);
    let downwards = pages.chunk_by(|a, b| *a == b + 1);
    let (script, _) = downwards.fold((script, NUMBERS), |(script, address), pages| {
        let count = pages.len() as u64;
        let script = script.numbers(address, count, FIRST + pages[0], -1);
        (script, address + 4 * count)
    });
    script
}

fn give(driver: &mut BalloonDriver, script: Script) -> Script {
    let script = script.wait32(driver.num_pages(), u32::MAX, PAGES);
    send(driver, script, INFLATE, |sent| sent)
}

fn take(driver: &mut BalloonDriver, script: Script) -> Script {
    let script = script.wait32(driver.num_pages(), u32::MAX, 0);
    send(driver, script, DEFLATE, |sent| PAGES - sent)
}

/// Sends all pages, and after each buffer the pages that are in the balloon now.
fn send(
    driver: &mut BalloonDriver,
    script: Script,
    queue: usize,
    actual: impl Fn(u32) -> u32,
) -> Script {
    let buffers = (NUMBERS..).step_by(BUFFER_PAGES * 4);
    let sent = (0..=PAGES).step_by(BUFFER_PAGES).skip(1);
    sent.zip(buffers).fold(script, |script, (sent, buffer)| {
        driver
            .submit(script, queue, buffer, BUFFER_BYTES, 0)
            .store32(driver.actual(), actual(sent))
    })
}
