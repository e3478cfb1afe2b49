//! A device that is stopped with its machine, and batches that are given up on the way.

use std::sync::atomic::Ordering;

use super::*;
use crate::memory::PAGE_SIZE;

const STATS_VQ: u32 = 1 << 1;
const STATISTICS: usize = 2;

#[test]
fn stopped_device_leaves_its_queues_alone_until_it_goes_on() {
    let mut driver = TestDriver::running();
    driver.touch_all();
    for kick in driver.balloon.kicks() {
        let _ = kick.read();
    }
    driver.balloon.stop();
    driver.send(INFLATE, &[100]);
    assert!(driver.empty_pages().is_empty());
    assert_eq!(driver.used_index(INFLATE), 0);

    driver.balloon.resume();
    assert_eq!(driver.balloon.kicks()[INFLATE].read().unwrap(), 1);
    driver.balloon.serve(INFLATE);
    assert_eq!(driver.empty_pages(), [100]);
    assert_eq!(driver.used_index(INFLATE), 1);
}

#[test]
fn question_that_comes_while_stopped_is_asked_afterwards() {
    let mut driver = TestDriver::new();
    driver.start_with(STATS_VQ, 3);
    driver.describe(STATISTICS, 0, BUFFER, 10, 0);
    driver.make_available(STATISTICS, 0);
    driver.balloon.serve(STATISTICS);
    driver.balloon.stop();
    driver.balloon.ask_guest();
    assert_eq!(driver.used_index(STATISTICS), 0);

    driver.balloon.resume();
    assert_eq!(driver.balloon.ask().read().unwrap(), 1);
    driver.balloon.ask_guest();
    assert_eq!(driver.used_index(STATISTICS), 1);
}

#[test]
fn batch_that_is_given_up_is_taken_again() {
    for (queue, flags) in [(INFLATE, 0), (DEFLATE + 1, WRITE)] {
        let mut driver = TestDriver::with(crate::balloon::BalloonOptions {
            free_page_reporting: true,
            ..Default::default()
        });
        driver.start_with(1 << 5, 3);
        driver.touch_all();
        let (address, length) = if queue == INFLATE {
            driver.page_numbers(0, &[100])
        } else {
            (100 * PAGE_SIZE, u32::try_from(PAGE_SIZE).unwrap())
        };
        driver.describe(queue, 0, address, length, flags);
        driver.make_available(queue, 0);
        // As if somebody began to wait in the midst of the batch.
        driver.balloon.is_halting.store(true, Ordering::Release);
        let take = |role: &mut RoleQueue| driver.balloon.take_batch(role);
        assert!(!driver.balloon.with_queue(queue, take));
        assert_eq!(driver.used_index(queue), 0);
        assert_eq!(driver.balloon.released_pages(), 0);

        driver.balloon.is_halting.store(false, Ordering::Release);
        driver.balloon.serve(queue);
        assert_eq!(driver.empty_pages(), [100]);
        assert_eq!(driver.used_index(queue), 1);
    }
}
