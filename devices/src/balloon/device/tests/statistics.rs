//! The statistics queue.

use std::sync::atomic::Ordering;

use super::*;

const STATS_VQ: u32 = 1 << 1;
const STATISTICS: usize = 2;
const UNSET: u64 = u64::MAX;

/// A driver with a statistics queue.
fn running() -> TestDriver {
    let mut driver = TestDriver::new();
    driver.start_with(STATS_VQ, 3);
    driver
}

/// Sends statistics in the descriptor `slot`.
fn send(driver: &mut TestDriver, slot: u16, entries: &[(u16, u64)]) {
    let address = BUFFER + u64::from(slot) * 0x100;
    for (at, (tag, value)) in (address..).step_by(10).zip(entries) {
        driver.memory.write_obj(*tag, GuestAddress(at)).unwrap();
        driver
            .memory
            .write_obj(*value, GuestAddress(at + 2))
            .unwrap();
    }
    let length = u32::try_from(entries.len() * 10).unwrap();
    driver.describe(STATISTICS, slot, address, length, 0);
    driver.make_available(STATISTICS, slot);
    driver.balloon.serve(STATISTICS);
}

#[test]
fn first_buffer_is_kept_and_read_with_polling_off() {
    let mut driver = running();
    send(&mut driver, 0, &[(4, 1000), (5, 2000)]);
    let statistics = driver.balloon.statistics();
    assert_eq!((statistics.values[4], statistics.values[5]), (1000, 2000));
    assert_eq!(statistics.values[0], UNSET);
    assert!(statistics.last_update > 0);
    assert_eq!(driver.used_index(STATISTICS), 0);
}

#[test]
fn guest_is_asked_by_getting_its_buffer_back() {
    let mut driver = running();
    send(&mut driver, 0, &[(4, 1000)]);
    driver.balloon.ask_guest();
    assert_eq!(driver.used_index(STATISTICS), 1);
    assert_eq!(driver.read(0x60), 1);
    driver.balloon.ask_guest();
    assert_eq!(driver.used_index(STATISTICS), 1);
    send(&mut driver, 0, &[(5, 2000)]);
    let statistics = driver.balloon.statistics();
    assert_eq!((statistics.values[4], statistics.values[5]), (UNSET, 2000));
}

#[test]
fn only_what_was_asked_for_is_an_answer() {
    let mut driver = running();
    let news = |driver: &TestDriver| driver.statistics_news.load(Ordering::Relaxed);
    let before = news(&driver);
    send(&mut driver, 0, &[(4, 1000)]);
    assert_eq!(
        (driver.balloon.statistics().answers, news(&driver)),
        (0, before)
    );
    driver.balloon.ask_guest();
    send(&mut driver, 0, &[(4, 2000)]);
    let statistics = driver.balloon.statistics();
    assert_eq!((statistics.answers, statistics.values[4]), (1, 2000));
    assert_eq!(news(&driver), before + 1);
    driver.start_with(STATS_VQ, 3);
    assert_eq!(driver.balloon.statistics().answers, 0);
    assert!(news(&driver) > before + 1);
}

#[test]
fn further_buffers_send_those_before_them_back() {
    let mut driver = running();
    send(&mut driver, 0, &[(4, 1)]);
    for slot in 1..4 {
        driver.describe(STATISTICS, slot, BUFFER, 10, 0);
        driver.make_available(STATISTICS, slot);
    }
    driver.balloon.serve(STATISTICS);
    assert_eq!(driver.used_index(STATISTICS), 3);
}

#[test]
fn polling_asks_at_once_and_is_remembered_over_a_reset() {
    let mut driver = running();
    send(&mut driver, 0, &[(4, 1000)]);
    driver.balloon.set_polling_interval(2);
    assert_eq!(driver.balloon.ask().read().unwrap(), 1);
    driver.start_with(STATS_VQ, 3);
    assert_eq!(driver.balloon.polling_interval(), 2);
    assert_eq!(driver.balloon.statistics(), Default::default());
}

#[test]
fn buffers_that_cannot_be_read_say_nothing_and_are_kept() {
    let outside = u64::from(MEMORY_PAGES) * 4096;
    for (address, length, flags) in [
        (outside, 20, 0),
        (BUFFER, 20, WRITE),
        (BUFFER, u32::MAX, 0),
        (BUFFER, 0, 0),
    ] {
        let mut driver = running();
        driver.describe(STATISTICS, 0, address, length, flags);
        driver.make_available(STATISTICS, 0);
        driver.balloon.serve(STATISTICS);
        driver.balloon.ask_guest();
        assert_eq!(driver.used_index(STATISTICS), 1, "{address:#x} {length}");
    }
}

#[test]
fn statistics_split_over_descriptors_are_read_together() {
    let mut driver = running();
    driver
        .memory
        .write_obj(4_u16, GuestAddress(BUFFER))
        .unwrap();
    driver
        .memory
        .write_obj(7_u64, GuestAddress(BUFFER + 0x802))
        .unwrap();
    driver.describe(STATISTICS, 0, BUFFER, 2, NEXT | 1 << 16);
    driver.describe(STATISTICS, 1, BUFFER + 0x802, 8, 0);
    driver.make_available(STATISTICS, 0);
    driver.balloon.serve(STATISTICS);
    assert_eq!(driver.balloon.statistics().values[4], 7);
}

#[test]
fn driver_without_the_feature_has_no_such_queue() {
    let driver = TestDriver::running();
    driver.balloon.ask_guest();
    driver.balloon.serve(STATISTICS);
    assert_eq!(driver.balloon.negotiated_features(), Some(1 << 32));
    driver.write(STATUS, 0);
    assert_eq!(driver.balloon.negotiated_features(), None);
}
