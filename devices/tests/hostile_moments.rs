//! Drivers that do at the wrong moment what would be right at another: registers rewritten, kicks
//! for nobody, resets in the midst of each operation; and that one which keeps to the rules works
//! afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

#[path = "../fuzz/src/guest.rs"]
#[allow(dead_code, reason = "the properties are checked elsewhere")]
mod guest;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use aerostat_devices::balloon::BalloonEvents;
use aerostat_devices::bus::BusDevice;
use aerostat_devices::{PAGE_SIZE, Pfn};
use event_manager::{EventManager, SubscriberOps};
use guest::machine::{ALL_OPTIONS, BUFFER, CONFIG, Guest, QUEUE_SEL, QUEUE_SIZE, QUEUES, STATUS};
use vm_memory::Bytes;

const INFLATE: u8 = 0;
const STATISTICS: u8 = 2;
const REPORTING: u8 = 3;
const WRITE: u16 = 2;
const DRIVER_OK: u32 = 15;
const WITH_STATISTICS: u32 = 1 << 1;
const WITH_REPORTING: u32 = 1 << 5;

const QUEUE_NOTIFY: u64 = 0x50;
const INTERRUPT_STATUS: u64 = 0x60;
/// Registers of a queue: its size, the addresses of its parts, and whether it is ready.
const QUEUE_REGISTERS: [u64; 8] = [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0x44];

/// Pages that no ring and no buffer is in.
const FIRST: u32 = 100;

fn running(features: u32) -> Guest {
    let mut guest = Guest::new(ALL_OPTIONS);
    guest.start(features);
    guest.run_device();
    guest
}

/// Offers one page to the inflate queue; whether its memory is gone once the device has rested.
fn inflates(guest: &mut Guest) -> bool {
    let slot = guest.submitted[0] % QUEUE_SIZE;
    guest.poke(Pfn(FIRST).address().0, &[1; 8]);
    guest.poke(BUFFER, &FIRST.to_le_bytes());
    guest.describe(INFLATE, slot, BUFFER, 4, 0, 0);
    guest.offer(INFLATE, slot);
    guest.kick(INFLATE);
    guest.run_device();
    let word: u64 = guest.memory.read_obj(Pfn(FIRST).address()).unwrap();
    word == 0
}

#[test]
fn queue_registers_rewritten_after_driver_ok_leave_the_queues_where_they_are() {
    let mut guest = running(WITH_STATISTICS | WITH_REPORTING);
    for queue in 0..u32::from(QUEUES) {
        guest.write(QUEUE_SEL, queue);
        for register in QUEUE_REGISTERS {
            for value in [0, 1, 0x8000, u32::MAX] {
                guest.write(register, value);
            }
        }
        assert_eq!(guest.read(0x44), 1, "queue {queue} is ready");
    }
    assert!(inflates(&mut guest));
    assert_eq!(guest.used_index(INFLATE), 1);
    assert_eq!(guest.read(STATUS), DRIVER_OK);
    guest.behave();
}

#[test]
fn features_and_status_rewritten_after_driver_ok_change_nothing() {
    let mut guest = running(WITH_STATISTICS);
    let before = guest.balloon.negotiated_features();
    guest.write(0x24, 0);
    guest.write(0x20, u32::MAX);
    for status in [1, 3, 11, 7, 14, 0x10 | 15, 0x100 | 15, u32::MAX] {
        guest.write(STATUS, status);
    }
    assert_eq!(guest.balloon.negotiated_features(), before);
    assert_eq!(guest.read(STATUS), DRIVER_OK);
    assert!(inflates(&mut guest));
    guest.behave();
}

#[test]
fn configuration_written_in_every_width_and_offset_changes_actual_and_pattern_alone() {
    for offset in 0..0x40 {
        for width in 1..=8 {
            let mut guest = running(0);
            guest.set_target(7);
            guest.transport.write(CONFIG + offset, &[0xff; 8][..width]);
            let mut space = [0; 24];
            for (at, byte) in (CONFIG..).zip(&mut space) {
                guest.transport.read(at, std::slice::from_mut(byte));
            }
            let mut expected = [0; 24];
            expected[0] = 7;
            match (offset, width) {
                (4, 4) => expected[4..8].fill(0xff),
                (12, 4) => expected[12..16].fill(0xff),
                _ => {}
            }
            assert_eq!(space, expected, "{width} bytes at {offset:#x}");
            guest.check();
        }
    }
}

#[test]
fn every_register_read_and_written_in_every_width_leaves_a_driver_at_work() {
    let mut guest = running(WITH_STATISTICS | WITH_REPORTING);
    for offset in 0..0x1000 {
        for width in 1..=8 {
            let mut bytes = [0; 8];
            guest.transport.read(offset, &mut bytes[..width]);
            // But for giving up or being reset, which a driver may.
            if offset != STATUS {
                guest.transport.write(offset, &[0xff; 8][..width]);
            }
        }
    }
    guest.run_device();
    guest.check();
    assert!(inflates(&mut guest));
    guest.behave();
}

#[test]
fn notifications_of_queues_that_do_not_exist_do_nothing() {
    let mut guest = running(0);
    // Those of queues that do exist never come to the transport.
    for queue in [u32::from(QUEUES), 5, 0xffff, 1 << 16, u32::MAX] {
        guest.write(QUEUE_NOTIFY, queue);
        guest
            .transport
            .write(QUEUE_NOTIFY, &queue.to_le_bytes()[..2]);
    }
    guest.run_device();
    assert_eq!(guest.read(INTERRUPT_STATUS), 0);
    assert!(inflates(&mut guest));
    guest.behave();
}

#[test]
fn kicks_of_queues_that_nobody_serves_do_nothing() {
    // In reset, then while features are negotiated, then for a driver without the last two queues.
    let mut guest = Guest::new(ALL_OPTIONS);
    for status in [0, 1, 3] {
        guest.write(STATUS, status);
        for queue in 0..QUEUES {
            guest.offer(queue, 0);
            guest.kick(queue);
        }
        guest.run_device();
        assert_eq!(guest.read(INTERRUPT_STATUS), 0);
    }
    guest.start(0);
    for queue in [STATISTICS, REPORTING] {
        guest.offer(queue, 0);
        guest.kick(queue);
    }
    guest.run_device();
    assert_eq!(
        [STATISTICS, REPORTING].map(|queue| guest.used_index(queue)),
        [0; 2]
    );
    assert_eq!(guest.balloon.released_pages(), 0);
    guest.behave();
}

#[test]
fn queue_that_was_not_made_ready_is_not_served() {
    let mut guest = running(0);
    for status in [0, 1, 3] {
        guest.write(STATUS, status);
    }
    guest.write(0x24, 1);
    guest.write(0x20, 1);
    guest.write(STATUS, 11);
    guest.write(STATUS, DRIVER_OK);
    assert!(!inflates(&mut guest));
    assert_eq!(guest.read(STATUS), DRIVER_OK);
    guest.behave();
}

/// A driver that has told its statistics once, and is to be asked again after a time.
fn polled() -> Guest {
    let mut guest = running(WITH_STATISTICS);
    guest.balloon.set_polling_interval(1000);
    tell(&mut guest);
    guest
}

fn tell(guest: &mut Guest) {
    let slot = guest.submitted[usize::from(STATISTICS)] % QUEUE_SIZE;
    guest.describe(STATISTICS, slot, BUFFER, 10, 0, 0);
    guest.offer(STATISTICS, slot);
    guest.kick(STATISTICS);
    guest.run_device();
}

#[test]
fn statistics_are_asked_for_when_the_time_has_come_and_not_before() {
    let mut guest = polled();
    assert_eq!(guest.used_index(STATISTICS), 0);
    guest.run_device();
    assert_eq!(guest.used_index(STATISTICS), 0);
    guest.pass_time();
    guest.run_device();
    assert_eq!(guest.used_index(STATISTICS), 1);
}

#[test]
fn statistics_timer_ends_with_its_driver_and_calls_again_for_the_next() {
    let mut guest = polled();
    guest.write(STATUS, 0);
    guest.start(WITH_STATISTICS);
    guest.pass_time();
    guest.run_device();
    tell(&mut guest);
    assert_eq!(guest.balloon.statistics().answers, 0, "it was not asked");
    guest.pass_time();
    guest.run_device();
    assert_eq!(guest.used_index(STATISTICS), 1);
    guest.behave();
}

#[test]
fn statistics_timer_that_has_called_for_nobody_asks_no_driver_that_comes_later() {
    let mut guest = polled();
    guest.pass_time();
    guest.write(STATUS, 0);
    guest.start(WITH_STATISTICS);
    guest.run_device();
    tell(&mut guest);
    assert_eq!(guest.balloon.statistics().answers, 0, "it was not asked");
    guest.behave();
}

#[test]
fn statistics_timer_of_a_stopped_machine_calls_when_it_goes_on() {
    let mut guest = polled();
    guest.balloon.stop();
    guest.pass_time();
    guest.run_device();
    assert_eq!(guest.used_index(STATISTICS), 0);
    guest.balloon.resume();
    guest.pass_time();
    guest.run_device();
    assert_eq!(guest.used_index(STATISTICS), 1);
}

/// Says that something is over when it goes out of scope, for a panic too.
struct SaysSo<'a>(&'a AtomicBool);

impl Drop for SaysSo<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Fills a queue with work: pages far apart, statistics, or reports.
fn fill_queue(guest: &mut Guest, queue: u8) {
    let pages: Vec<u8> = (0..8_u32)
        .flat_map(|index| (FIRST + 2 * index).to_le_bytes())
        .collect();
    guest.poke(BUFFER, &pages);
    for slot in 0..QUEUE_SIZE {
        let (address, length, flags) = match queue {
            STATISTICS => (BUFFER, 20, 0),
            REPORTING => (u64::from(FIRST) * PAGE_SIZE, 16 << 12, WRITE),
            _ => (BUFFER, 32, 0),
        };
        guest.describe(queue, slot, address, length, flags, 0);
        guest.offer(queue, slot);
    }
}

#[test]
fn reset_in_the_midst_of_each_operation_ends_it_before_it_returns() {
    for queue in 0..QUEUES {
        let mut guest = Guest::new(ALL_OPTIONS);
        let is_over = AtomicBool::new(false);
        let balloon = guest.balloon.clone();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut device_thread = EventManager::new().unwrap();
                device_thread.add_subscriber(BalloonEvents::new(balloon));
                while !is_over.load(Ordering::Acquire) {
                    device_thread.run_with_timeout(1).unwrap();
                }
            });
            let _says_so = SaysSo(&is_over);
            for round in 0..300 {
                guest.start(WITH_STATISTICS | WITH_REPORTING);
                fill_queue(&mut guest, queue);
                guest.kick(queue);
                // Now and then before the device has seen the kick, now and then while it works.
                for _ in 0..round % 50 * 20 {
                    std::hint::spin_loop();
                }
                guest.write(STATUS, 0);
                let used = guest.used_index(queue);
                let released = guest.balloon.released_pages();
                for page in FIRST..FIRST + 16 {
                    guest.poke(Pfn(page).address().0, &[1; 8]);
                }
                thread::yield_now();
                assert_eq!(guest.used_index(queue), used);
                assert_eq!(guest.balloon.released_pages(), released);
                assert_eq!(guest.read(STATUS), 0);
                for page in FIRST..FIRST + 16 {
                    let word: u64 = guest.memory.read_obj(Pfn(page).address()).unwrap();
                    assert_ne!(word, 0, "page {page} was released after the reset");
                }
            }
        });
        guest.behave();
    }
}
