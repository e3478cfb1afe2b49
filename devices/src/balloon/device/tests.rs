//! The device behind its transport, with well-behaved and hostile drivers.

use vm_memory::{Bytes, GuestAddress};

use super::RoleQueue;
use crate::test_driver::{
    BUFFER, DRIVER_OK, FREE_PAGE, MEMORY_PAGES, NEEDS_RESET, STATUS, TestDriver,
};

mod halting;
mod huge_pages;
mod reporting;
mod statistics;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
/// Descriptor flags (virtio 1.2 §2.7.5), in the low half of the flags-and-next word.
const NEXT: u32 = 1;
const WRITE: u32 = 2;
const INDIRECT: u32 = 4;

#[test]
fn inflated_pages_are_released_and_no_others() {
    let mut driver = TestDriver::running();
    driver.touch_all();
    driver.send(INFLATE, &[102, 101, 100, 300]);
    assert_eq!(driver.empty_pages(), [100, 101, 102, 300]);
    assert_eq!(driver.balloon.released_pages(), 4);
}

#[test]
fn inflated_buffer_is_returned_with_an_interrupt() {
    let mut driver = TestDriver::running();
    driver.send(INFLATE, &[100]);
    assert_eq!(driver.used_index(INFLATE), 1);
    assert_eq!(driver.read(0x60), 1);
}

#[test]
fn driver_that_does_not_want_interrupts_gets_none() {
    let mut driver = TestDriver::running();
    driver.set_available_flags(INFLATE, 1);
    driver.send(INFLATE, &[100]);
    assert_eq!(driver.used_index(INFLATE), 1);
    assert_eq!(driver.read(0x60), 0);
    driver.set_available_flags(INFLATE, 0);
    driver.send(INFLATE, &[101]);
    assert_eq!(driver.read(0x60), 1);
}

#[test]
fn deflated_pages_keep_what_the_guest_wrote() {
    let mut driver = TestDriver::running();
    driver.touch_all();
    driver.send(DEFLATE, &[100, 101]);
    assert!(driver.empty_pages().is_empty());
    assert_eq!(driver.used_index(DEFLATE), 1);
}

#[test]
fn neighbours_over_several_buffers_are_released_together() {
    let mut driver = TestDriver::running();
    driver.touch_all();
    for (head, page) in (0u16..).zip([102, 100, 101]) {
        let (address, length) = driver.page_numbers(u64::from(head) * 64, &[page]);
        driver.describe(INFLATE, head, address, length, 0);
        driver.make_available(INFLATE, head);
    }
    driver.balloon.serve(INFLATE);
    assert_eq!(driver.empty_pages(), [100, 101, 102]);
    assert_eq!(driver.used_index(INFLATE), 3);
}

#[test]
fn page_numbers_may_be_split_over_descriptors() {
    let mut driver = TestDriver::running();
    driver.touch_all();
    let (first, length) = driver.page_numbers(0, &[100]);
    let (second, _) = driver.page_numbers(64, &[200]);
    driver.describe(INFLATE, 0, first, length, NEXT | 1 << 16);
    driver.describe(INFLATE, 1, second, length, 0);
    driver.make_available(INFLATE, 0);
    driver.balloon.serve(INFLATE);
    assert_eq!(driver.empty_pages(), [100, 200]);
}

#[test]
fn actual_is_reported_when_it_changes() {
    let driver = TestDriver::running();
    for pages in [1, 1, 2] {
        driver.write(0x104, pages);
    }
    assert_eq!(*driver.reported.lock().unwrap(), [1, 2]);
    assert_eq!(driver.balloon.actual_pages(), 2);
}

#[test]
fn target_and_actual_outlive_a_reset() {
    let mut driver = TestDriver::running();
    driver.balloon.set_target_pages(9);
    driver.write(0x104, 5);
    driver.start();
    assert_eq!((driver.read(0x100), driver.read(0x104)), (9, 5));
}

#[test]
fn pages_past_the_end_of_memory_are_ignored() {
    let mut driver = TestDriver::running();
    driver.touch_all();
    driver.send(INFLATE, &[MEMORY_PAGES, u32::MAX, 100, MEMORY_PAGES + 1]);
    assert_eq!(driver.empty_pages(), [100]);
    assert_eq!(driver.used_index(INFLATE), 1);
}

#[test]
fn repeated_pages_are_released_once() {
    let mut driver = TestDriver::running();
    driver.send(INFLATE, &[100, 100, 100]);
    assert_eq!(driver.balloon.released_pages(), 1);
}

#[test]
fn trailing_bytes_of_an_odd_buffer_are_ignored() {
    let mut driver = TestDriver::running();
    driver.touch_all();
    let (address, length) = driver.page_numbers(0, &[100, 101]);
    driver.describe(INFLATE, 0, address, length - 1, 0);
    driver.make_available(INFLATE, 0);
    driver.balloon.serve(INFLATE);
    assert_eq!(driver.empty_pages(), [100]);
    assert_eq!(driver.used_index(INFLATE), 1);
}

#[test]
fn buffer_for_the_device_to_write_is_returned_unread() {
    let mut driver = TestDriver::running();
    driver.touch_all();
    let (address, length) = driver.page_numbers(0, &[100]);
    driver.describe(INFLATE, 0, address, length, WRITE);
    driver.make_available(INFLATE, 0);
    driver.balloon.serve(INFLATE);
    assert!(driver.empty_pages().is_empty());
    assert_eq!(driver.used_index(INFLATE), 1);
}

#[test]
fn buffer_outside_memory_is_returned_unread() {
    let mut driver = TestDriver::running();
    driver.describe(INFLATE, 0, u64::MAX - 3, 64, 0);
    driver.make_available(INFLATE, 0);
    driver.balloon.serve(INFLATE);
    assert_eq!(driver.used_index(INFLATE), 1);
}

#[test]
fn looped_chain_ends() {
    let mut driver = TestDriver::running();
    let (address, length) = driver.page_numbers(0, &[100]);
    driver.describe(INFLATE, 0, address, length, NEXT);
    driver.make_available(INFLATE, 0);
    driver.balloon.serve(INFLATE);
    assert_eq!(driver.used_index(INFLATE), 1);
}

#[test]
fn huge_buffer_is_read_to_its_bound_only() {
    let mut driver = TestDriver::running();
    driver.touch_all();
    // The whole of memory as page numbers, over and over in one chain.
    for slot in 0..15u16 {
        let next = NEXT | u32::from(slot + 1) << 16;
        driver.describe(INFLATE, slot, 0, MEMORY_PAGES * 4096, next);
    }
    driver.describe(INFLATE, 15, 0, MEMORY_PAGES * 4096, 0);
    driver.make_available(INFLATE, 0);
    driver.balloon.serve(INFLATE);
    assert!(driver.balloon.released_pages() <= 65536);
}

#[test]
fn indirect_chain_that_was_not_negotiated_is_harmless() {
    let mut driver = TestDriver::running();
    driver.describe(INFLATE, 0, BUFFER, 16, INDIRECT);
    driver.describe(INFLATE, 1, BUFFER, 16, INDIRECT | NEXT);
    driver.make_available(INFLATE, 0);
    driver.make_available(INFLATE, 1);
    driver.balloon.serve(INFLATE);
    assert_eq!(driver.used_index(INFLATE), 2);
}

#[test]
fn chain_is_read_no_further_than_a_queue_is_long() {
    let mut driver = TestDriver::running();
    driver.touch_all();
    // A table of 400 descriptors elsewhere, each with one page number.
    let table = BUFFER + 0x1000;
    for slot in 0..400u32 {
        let (number, length) = driver.page_numbers(0x8000 + u64::from(slot) * 4, &[100 + slot]);
        let at = table + u64::from(slot) * 16;
        let flags_next = NEXT | (slot + 1) << 16;
        driver.memory.write_obj(number, GuestAddress(at)).unwrap();
        let rest = u64::from(length) | u64::from(flags_next) << 32;
        driver.memory.write_obj(rest, GuestAddress(at + 8)).unwrap();
    }
    driver.describe(INFLATE, 0, table, 400 * 16, INDIRECT);
    driver.make_available(INFLATE, 0);
    driver.balloon.serve(INFLATE);
    assert_eq!(driver.empty_pages().len(), usize::from(super::QUEUE_SIZE));
    assert_eq!(driver.used_index(INFLATE), 1);
}

#[test]
fn available_index_that_jumps_stops_the_device_until_reset() {
    let mut driver = TestDriver::running();
    driver.set_available_index(INFLATE, 1000);
    driver.balloon.serve(INFLATE);
    assert_eq!(driver.read(STATUS), DRIVER_OK | NEEDS_RESET);
    driver.start();
    driver.send(INFLATE, &[100]);
    assert_eq!(
        (driver.read(STATUS), driver.used_index(INFLATE)),
        (DRIVER_OK, 1)
    );
}

#[test]
fn head_past_the_table_stops_the_device_until_reset() {
    let mut driver = TestDriver::running();
    driver.make_available(INFLATE, 999);
    driver.balloon.serve(INFLATE);
    assert_eq!(driver.read(STATUS), DRIVER_OK | NEEDS_RESET);
}

#[test]
fn rings_given_to_the_balloon_are_harmless() {
    let mut driver = TestDriver::running();
    let rings: Vec<u32> = (0..FREE_PAGE).collect();
    driver.send(INFLATE, &rings);
    driver.start();
    driver.send(INFLATE, &[100]);
    assert_eq!(driver.used_index(INFLATE), 1);
}

#[test]
fn kick_on_a_device_in_reset_does_nothing() {
    let mut driver = TestDriver::running();
    driver.touch_all();
    driver.write(STATUS, 0);
    driver.send(INFLATE, &[100]);
    assert!(driver.empty_pages().is_empty());
}

#[test]
fn buffer_filled_before_driver_ok_is_announced_by_activation() {
    let mut driver = TestDriver::new();
    driver.start();
    assert_eq!(driver.balloon.kicks()[INFLATE].read().unwrap(), 1);
}

#[test]
fn reading_past_the_configuration_space_sees_zero() {
    let driver = TestDriver::running();
    driver.memory.write_obj(1u32, GuestAddress(BUFFER)).unwrap();
    assert_eq!(
        [0x108, 0x10c, 0xffc].map(|offset| driver.read(offset)),
        [0; 3]
    );
}
