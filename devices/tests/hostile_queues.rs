//! What drivers put into the queues that no driver should: each kind on each queue that can have
//! it, and that a driver which keeps to the rules works afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

#[path = "../fuzz/src/guest.rs"]
#[allow(dead_code, reason = "the properties are checked elsewhere")]
mod guest;

use aerostat_devices::{PAGE_SIZE, Pfn};
use guest::machine::{ALL_OPTIONS, BUFFER, Guest, HIGH, LOW, QUEUE_SIZE, QUEUES, STATUS};
use vm_memory::{Bytes, GuestAddress};

const INFLATE: u8 = 0;
const DEFLATE: u8 = 1;
const STATISTICS: u8 = 2;
const REPORTING: u8 = 3;
/// Descriptor flags (virtio 1.2 §2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

const DRIVER_OK: u32 = 15;
const NEEDS_RESET: u32 = 64;
/// Statistics, deflate on OOM, reporting.
const FEATURES: u32 = 1 << 1 | 1 << 2 | 1 << 5;
const WITH_STATISTICS: u32 = 1 << 1;

/// Pages that no ring and no buffer is in.
const FIRST: u32 = 100;
const PAGE_BYTES: u32 = 4096;

fn running() -> Guest {
    let mut guest = Guest::new(ALL_OPTIONS);
    guest.start(FEATURES);
    guest.run_device();
    guest
}

fn fill(guest: &Guest, page: u32) {
    guest.poke(Pfn(page).address().0, &[1; 8]);
}

fn is_empty(guest: &Guest, page: u32) -> bool {
    let word: u64 = guest.memory.read_obj(Pfn(page).address()).unwrap();
    word == 0
}

fn numbers(guest: &Guest, at: u64, pages: &[u32]) {
    let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
    guest.poke(at, &bytes);
}

/// One buffer of one descriptor.
fn send(guest: &mut Guest, queue: u8, address: u64, length: u32, flags: u16) {
    let slot = guest.submitted[usize::from(queue)] % QUEUE_SIZE;
    guest.describe(queue, slot, address, length, flags, 0);
    guest.offer(queue, slot);
    guest.kick(queue);
    guest.run_device();
}

/// The queue has returned all buffers but the one of statistics that it keeps, and goes on.
fn returned_all(guest: &mut Guest, queue: u8) {
    let kept = u16::from(queue == STATISTICS);
    let submitted = guest.submitted[usize::from(queue)];
    assert_eq!(guest.used_index(queue), submitted - kept, "queue {queue}");
    assert_eq!(guest.read(STATUS), DRIVER_OK);
    guest.check();
}

#[test]
fn pages_in_the_hole_are_ignored_and_their_neighbours_released() {
    let mut guest = running();
    let end = u32::try_from(LOW.1 as u64 / PAGE_SIZE).unwrap();
    let behind = u32::try_from(HIGH.0 / PAGE_SIZE).unwrap();
    let around: Vec<u32> = (end - 1..=behind).collect();
    fill(&guest, end - 1);
    fill(&guest, behind);
    numbers(&guest, BUFFER, &around);
    send(
        &mut guest,
        INFLATE,
        BUFFER,
        4 * u32::try_from(around.len()).unwrap(),
        0,
    );
    assert!(is_empty(&guest, end - 1) && is_empty(&guest, behind));
    assert_eq!(guest.balloon.released_pages(), 2);

    let hole = u32::try_from(around.len()).unwrap() * PAGE_BYTES;
    send(&mut guest, REPORTING, Pfn(end - 1).address().0, hole, WRITE);
    assert_eq!(guest.balloon.reported_pages(), 2);
    returned_all(&mut guest, INFLATE);
    guest.behave();
}

#[test]
fn pages_past_the_end_are_ignored_on_each_queue() {
    for queue in [INFLATE, DEFLATE] {
        let mut guest = running();
        let end = u32::try_from((HIGH.0 + HIGH.1 as u64) / PAGE_SIZE).unwrap();
        numbers(
            &guest,
            BUFFER,
            &[end, end + 1, 1 << 20, u32::MAX - 1, u32::MAX],
        );
        send(&mut guest, queue, BUFFER, 20, 0);
        assert_eq!(guest.balloon.released_pages(), 0);
        returned_all(&mut guest, queue);
        guest.behave();
    }
    for start in [HIGH.0 + HIGH.1 as u64, 1 << 44, u64::MAX - 0xfff] {
        let mut guest = running();
        send(&mut guest, REPORTING, start, u32::MAX, WRITE);
        assert_eq!(guest.balloon.released_pages(), 0);
        returned_all(&mut guest, REPORTING);
        guest.behave();
    }
}

#[test]
fn page_named_in_all_buffers_at_once_is_released_once_for_each_batch_at_most() {
    let mut guest = running();
    numbers(&guest, BUFFER, &[FIRST; 16]);
    for slot in 0..QUEUE_SIZE {
        guest.describe(INFLATE, slot, BUFFER, 64, 0, 0);
        guest.offer(INFLATE, slot);
    }
    guest.kick(INFLATE);
    guest.run_device();
    assert_eq!(guest.balloon.released_pages(), 1);
    returned_all(&mut guest, INFLATE);
    guest.behave();
}

#[test]
fn all_rings_given_away_are_released_and_a_new_driver_works() {
    for queue in [INFLATE, REPORTING] {
        let mut guest = running();
        let rings: Vec<u32> = (0..64).collect();
        if queue == INFLATE {
            numbers(&guest, BUFFER, &rings);
            send(&mut guest, queue, BUFFER, 256, 0);
        } else {
            send(&mut guest, queue, 0, 64 * PAGE_BYTES, WRITE);
        }
        assert_eq!(guest.balloon.released_pages(), 64);
        // The available ring says 0 again; all that the device may do is return and stop.
        guest.kick(queue);
        guest.run_device();
        guest.check();
        guest.behave();
    }
}

#[test]
fn rings_that_lie_over_each_other_and_over_the_buffer_do_no_harm() {
    for base in 0..20 {
        let mut guest = running();
        guest.start_at(FEATURES, base * PAGE_SIZE);
        for queue in 0..QUEUES {
            let flags = if queue == REPORTING { WRITE } else { 0 };
            let slot = u16::from(queue);
            guest.describe(queue, slot, base * PAGE_SIZE, 13 * PAGE_BYTES, flags, 0);
            guest.offer(queue, slot);
            guest.kick(queue);
        }
        guest.run_device();
        guest.check();
        guest.behave();
    }
}

#[test]
fn buffers_of_any_length_are_returned_and_whole_numbers_of_them_count() {
    for length in 0..=41 {
        for queue in 0..QUEUES {
            let mut guest = running();
            let pages: Vec<u32> = (FIRST..FIRST + 11).collect();
            numbers(&guest, BUFFER, &pages);
            let flags = if queue == REPORTING { WRITE } else { 0 };
            send(&mut guest, queue, BUFFER, length, flags);
            let released = if queue == INFLATE { length / 4 } else { 0 };
            assert_eq!(guest.balloon.released_pages(), u64::from(released));
            returned_all(&mut guest, queue);
        }
    }
}

#[test]
fn buffers_for_the_wrong_side_are_returned_and_release_nothing() {
    for queue in 0..QUEUES {
        let mut guest = running();
        numbers(&guest, BUFFER, &[FIRST, FIRST + 1]);
        let flags = if queue == REPORTING { 0 } else { WRITE };
        send(&mut guest, queue, BUFFER, 8, flags);
        assert_eq!(guest.balloon.released_pages(), 0);
        assert_eq!(guest.balloon.statistics().values, [u64::MAX; 16]);
        returned_all(&mut guest, queue);
        guest.behave();
    }
}

#[test]
fn chains_that_bite_their_tail_end_on_each_queue() {
    for queue in 0..QUEUES {
        for loop_length in [1, 2, QUEUE_SIZE] {
            let mut guest = running();
            numbers(&guest, BUFFER, &[FIRST]);
            let flags = NEXT | if queue == REPORTING { WRITE } else { 0 };
            for slot in 0..loop_length {
                guest.describe(queue, slot, BUFFER, 4, flags, (slot + 1) % loop_length);
            }
            guest.offer(queue, 0);
            guest.kick(queue);
            guest.run_device();
            returned_all(&mut guest, queue);
            guest.behave();
        }
    }
}

#[test]
fn chain_of_all_descriptors_is_read_to_its_end() {
    let mut guest = running();
    for slot in 0..QUEUE_SIZE {
        let page = FIRST + u32::from(slot);
        fill(&guest, page);
        let at = BUFFER + 4 * u64::from(slot);
        numbers(&guest, at, &[page]);
        let flags = if slot + 1 < QUEUE_SIZE { NEXT } else { 0 };
        guest.describe(INFLATE, slot, at, 4, flags, slot + 1);
    }
    guest.offer(INFLATE, 0);
    guest.kick(INFLATE);
    guest.run_device();
    assert_eq!(guest.balloon.released_pages(), u64::from(QUEUE_SIZE));
    returned_all(&mut guest, INFLATE);
    guest.behave();
}

#[test]
fn indirect_tables_that_nobody_negotiated_do_no_harm_on_any_queue() {
    // The table holds itself; or is empty, odd, longer than memory, or followed by more.
    for (length, flags) in [
        (16, INDIRECT),
        (0, INDIRECT),
        (24, INDIRECT),
        (u32::MAX, INDIRECT),
        (16 * 4096, INDIRECT),
        (16, INDIRECT | NEXT),
        (16, INDIRECT | WRITE),
    ] {
        for queue in 0..QUEUES {
            let mut guest = running();
            guest.describe_at(BUFFER, BUFFER, 16, INDIRECT | NEXT, 0);
            guest.describe(queue, 0, BUFFER, length, flags, 1);
            guest.describe(queue, 1, BUFFER, 16, INDIRECT, 0);
            guest.offer(queue, 0);
            guest.kick(queue);
            guest.run_device();
            assert_eq!(guest.balloon.released_pages(), 0);
            returned_all(&mut guest, queue);
            guest.behave();
        }
    }
}

#[test]
fn queues_full_of_the_longest_buffers_end_in_time_on_each_queue() {
    for queue in 0..QUEUES {
        let mut guest = running();
        // 256 KiB of the same page number, and each chain as long as can be.
        guest.poke(HIGH.0, &FIRST.to_le_bytes().repeat(1 << 16));
        let flags = NEXT | if queue == REPORTING { WRITE } else { 0 };
        for slot in 0..QUEUE_SIZE {
            guest.describe(
                queue,
                slot,
                HIGH.0,
                256 << 10,
                flags,
                (slot + 1) % QUEUE_SIZE,
            );
            guest.offer(queue, slot);
        }
        guest.kick(queue);
        guest.run_device();
        returned_all(&mut guest, queue);
        guest.behave();
    }
}

#[test]
fn available_index_that_jumps_stops_the_device_until_reset_on_each_queue() {
    for queue in 0..QUEUES {
        for index in [QUEUE_SIZE + 1, 1 << 15, u16::MAX] {
            let mut guest = running();
            guest.poke(guest.available(queue) + 2, &index.to_le_bytes());
            guest.kick(queue);
            guest.run_device();
            assert_eq!(guest.read(STATUS), DRIVER_OK | NEEDS_RESET);
            assert_eq!(guest.balloon.negotiated_features(), None);
            // No queue of this driver is served any more.
            numbers(&guest, BUFFER, &[FIRST]);
            send(&mut guest, INFLATE, BUFFER, 4, 0);
            assert_eq!(guest.balloon.released_pages(), 0);
            guest.behave();
        }
    }
}

#[test]
fn available_index_that_goes_back_stops_the_device_until_reset() {
    let mut guest = running();
    numbers(&guest, BUFFER, &[FIRST]);
    send(&mut guest, INFLATE, BUFFER, 4, 0);
    guest.poke(guest.available(INFLATE) + 2, &0_u16.to_le_bytes());
    guest.kick(INFLATE);
    guest.run_device();
    assert_eq!(guest.read(STATUS), DRIVER_OK | NEEDS_RESET);
    guest.behave();
}

#[test]
fn statistics_of_any_size_are_read_to_their_bound() {
    let entry = |tag: u16, value: u64| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat();
    // 200 entries are read: the last of them counts for tag 4, and what comes behind does not.
    let table: Vec<u8> = (0..7000).flat_map(|value| entry(4, value)).collect();
    for (length, expected) in [
        (0, u64::MAX),
        (9, u64::MAX),
        (10, 0),
        (19, 0),
        (20, 1),
        (1999, 198),
        (2000, 199),
        (2001, 199),
        (65536, 199),
    ] {
        let mut guest = Guest::new(ALL_OPTIONS);
        guest.start(WITH_STATISTICS);
        guest
            .memory
            .write_slice(&table, GuestAddress(HIGH.0))
            .unwrap();
        send(&mut guest, STATISTICS, HIGH.0, length, 0);
        let values = guest.balloon.statistics().values;
        assert_eq!(values[4], expected, "{length} bytes");
        guest.balloon.request_statistics();
        guest.run_device();
        assert_eq!(guest.used_index(STATISTICS), 1);
        guest.behave();
    }
}

#[test]
fn statistics_that_leave_memory_say_nothing_and_the_buffer_comes_back() {
    let mut guest = Guest::new(ALL_OPTIONS);
    guest.start(WITH_STATISTICS);
    for (address, length) in [
        (HIGH.0 + HIGH.1 as u64 - 10, 20),
        (LOW.1 as u64 - 10, 4000),
        (u64::MAX - 9, 10),
        (1 << 40, u32::MAX),
    ] {
        send(&mut guest, STATISTICS, address, length, 0);
        assert_eq!(guest.balloon.statistics().values, [u64::MAX; 16]);
    }
    returned_all(&mut guest, STATISTICS);
    guest.behave();
}
