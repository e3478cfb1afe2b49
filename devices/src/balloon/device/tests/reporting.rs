//! Free page reporting, and the pattern of free pages.

use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::PAGE_SIZE;
use crate::balloon::{BalloonOptions, MIN_REPORTING_RATE};

const PAGE_POISON: u32 = 1 << 4;
const REPORTING: u32 = 1 << 5;
/// Without a statistics queue the reporting queue is the third.
const REPORTS: usize = 2;

/// A driver that reports free pages, and has filled all memory.
fn running(features: u32) -> TestDriver {
    let mut driver = TestDriver::with(BalloonOptions {
        free_page_reporting: true,
        ..BalloonOptions::default()
    });
    driver.start_with(REPORTING | features, 3);
    driver.touch_all();
    driver
}

fn report(driver: &mut TestDriver, start: u64, bytes: u32, flags: u32) {
    driver.describe(REPORTS, 0, start, bytes, flags);
    driver.make_available(REPORTS, 0);
    driver.balloon.serve(REPORTS);
}

fn page(number: u32) -> u64 {
    u64::from(number) * PAGE_SIZE
}

#[test]
fn reported_pages_are_released_and_the_buffer_returned() {
    let mut driver = running(0);
    report(&mut driver, page(100), 0x3000, WRITE);
    assert_eq!(driver.empty_pages(), [100, 101, 102]);
    assert_eq!(driver.used_index(REPORTS), 1);
    assert_eq!(driver.balloon.released_pages(), 3);
}

#[test]
fn only_whole_pages_are_released() {
    let mut driver = running(0);
    report(&mut driver, page(100) + 1, 0x3000, WRITE);
    assert_eq!(driver.empty_pages(), [101, 102]);
    report(&mut driver, page(200) + 8, 16, WRITE);
    assert_eq!(driver.empty_pages(), [101, 102]);
}

#[test]
fn pages_that_are_to_keep_a_pattern_are_not_released() {
    let mut driver = running(PAGE_POISON);
    driver.write(0x100 + 12, 0xaaaa_aaaa);
    report(&mut driver, page(100), 0x1000, WRITE);
    assert!(driver.empty_pages().is_empty());
    assert_eq!(driver.used_index(REPORTS), 1);
    // Filled with zeroes they may be.
    driver.write(0x100 + 12, 0);
    report(&mut driver, page(100), 0x1000, WRITE);
    assert_eq!(driver.empty_pages(), [100]);
}

#[test]
fn pattern_of_a_driver_that_did_not_negotiate_it_means_nothing() {
    let mut driver = running(0);
    driver.write(0x100 + 12, 0xaaaa_aaaa);
    report(&mut driver, page(100), 0x1000, WRITE);
    assert_eq!(driver.empty_pages(), [100]);
}

#[test]
fn what_is_no_memory_or_not_reported_as_such_is_left_alone() {
    let mut driver = running(0);
    report(&mut driver, page(100), 0x1000, 0);
    for start in [page(MEMORY_PAGES), u64::MAX - 0x1fff, 1 << 44] {
        report(&mut driver, start, 0x2000, WRITE);
    }
    report(&mut driver, page(MEMORY_PAGES - 1), u32::MAX, WRITE);
    assert_eq!(driver.empty_pages(), [MEMORY_PAGES - 1]);
    assert_eq!(driver.used_index(REPORTS), 5);
    assert_eq!(driver.read(STATUS), DRIVER_OK);
}

#[test]
fn features_that_are_not_on_offer_cannot_be_negotiated() {
    let mut driver = TestDriver::new();
    driver.negotiate(REPORTING);
    assert_eq!(driver.read(STATUS), 3);
}

#[test]
fn what_is_reported_while_it_is_switched_off_stays() {
    let mut driver = running(0);
    driver.balloon.switch_reporting(false);
    report(&mut driver, page(100), 0x1000, WRITE);
    assert!(driver.empty_pages().is_empty());
    assert_eq!(driver.used_index(REPORTS), 1);
    driver.balloon.switch_reporting(true);
    report(&mut driver, page(101), 0x1000, WRITE);
    assert_eq!(driver.empty_pages(), [101]);
}

#[test]
fn reported_pages_are_counted_apart_from_inflated_ones() {
    let mut driver = running(0);
    driver.send(0, &[200, 201]);
    report(&mut driver, page(100), 0x3000, WRITE);
    let balloon = &driver.balloon;
    assert_eq!((balloon.released_pages(), balloon.reported_pages()), (5, 3));
}

#[test]
fn next_report_waits_in_its_queue_where_there_is_a_rate() {
    let mut driver = running(0);
    driver.balloon.set_reporting_rate(MIN_REPORTING_RATE);
    report(&mut driver, page(100), 0x1000, WRITE);
    // As after a report that takes longer than any host needs for what follows.
    let reporting = driver.balloon.reporting();
    reporting.gave(u64::MAX, Instant::now());
    report(&mut driver, page(101), 0x1000, WRITE);
    assert_eq!(driver.used_index(REPORTS), 1);

    let balloon = driver.balloon.clone();
    let timer = balloon.reporting().timer();
    poll(&mut [PollFd::new(timer, PollFlags::IN)], None).unwrap();
    assert!(timer.has_called());
    balloon.serve_reports();

    assert_eq!(driver.used_index(REPORTS), 2);
}

#[test]
fn report_that_waits_is_taken_when_the_rate_is_lifted() {
    let mut driver = running(0);
    driver.balloon.set_reporting_rate(MIN_REPORTING_RATE);
    report(&mut driver, page(100), 0x1000, WRITE);
    // As after a report that takes longer than any host needs for what follows.
    let reporting = driver.balloon.reporting();
    reporting.gave(u64::MAX, Instant::now());
    report(&mut driver, page(101), 0x1000, WRITE);
    driver.balloon.set_reporting_rate(0);
    driver.balloon.kicks()[REPORTS].read().unwrap();
    driver.balloon.serve(REPORTS);
    assert_eq!(driver.used_index(REPORTS), 2);
}
