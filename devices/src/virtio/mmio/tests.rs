//! The registers as a driver sees them, with the balloon as the device.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::bus::BusDevice;
use crate::test_driver::{DRIVER_OK, MEMORY_PAGES, NEEDS_RESET, STATUS, TestDriver};

const FEATURES_OK: u32 = 11;

#[test]
fn identification_registers_name_a_balloon_on_version_2() {
    let driver = TestDriver::new();
    assert_eq!(driver.read(0x000), 0x7472_6976);
    assert_eq!(driver.read(0x004), 2);
    assert_eq!(driver.read(0x008), 5);
}

#[test]
fn features_of_the_device_and_version_1_are_on_offer() {
    let driver = TestDriver::new();
    let words = [0, 1, 2].map(|word| {
        driver.write(0x14, word);
        driver.read(0x10)
    });
    assert_eq!(words, [0b1_0010, 1, 0]);
}

#[test]
fn negotiation_in_order_reaches_driver_ok() {
    let driver = TestDriver::running();
    assert_eq!(driver.read(STATUS), DRIVER_OK);
}

#[test]
fn features_without_version_1_leave_features_ok_unset() {
    let driver = TestDriver::new();
    for status in [1, 3, FEATURES_OK] {
        driver.write(STATUS, status);
    }
    assert_eq!(driver.read(STATUS), 3);
}

#[test]
fn features_not_on_offer_leave_features_ok_unset() {
    let driver = TestDriver::new();
    for (register, value) in [
        (STATUS, 1),
        (STATUS, 3),
        (0x24, 1),
        (0x20, 1),
        (0x24, 0),
        (0x20, 1 << 5),
        (STATUS, 11),
    ] {
        driver.write(register, value);
    }
    assert_eq!(driver.read(STATUS), 3);
}

#[test]
fn features_are_fixed_after_features_ok() {
    let mut driver = TestDriver::new();
    driver.negotiate(0);
    driver.write(0x20, 0);
    driver.write(STATUS, DRIVER_OK);
    assert_eq!(driver.read(STATUS), DRIVER_OK);
}

#[test]
fn status_skipping_driver_is_ignored() {
    let driver = TestDriver::new();
    driver.write(STATUS, 1);
    driver.write(STATUS, 9);
    assert_eq!(driver.read(STATUS), 1);
}

#[test]
fn queue_maximum_is_shown_for_queues_that_exist_only() {
    let driver = TestDriver::new();
    let maxima = [0, 2, 3, u32::MAX].map(|queue| {
        driver.write(0x30, queue);
        driver.read(0x34)
    });
    assert_eq!(maxima, [128, 128, 0, 0]);
}

#[test]
fn queue_registers_are_fixed_once_the_driver_is_ready() {
    let driver = TestDriver::running();
    driver.write(0x30, 0);
    driver.write(0x44, 0);
    assert_eq!(driver.read(0x44), 1);
}

#[test]
fn ready_queue_cannot_be_moved() {
    let mut driver = TestDriver::new();
    driver.negotiate(0);
    driver.set_up_queue(0, 0x1000, 16);
    driver.write(0x80, u32::MAX);
    driver.write(STATUS, DRIVER_OK);
    assert_eq!(driver.read(STATUS), DRIVER_OK);
}

/// Status after DRIVER_OK with a queue of this place and size.
fn status_with_queue(rings: u64, size: u32) -> u32 {
    let mut driver = TestDriver::new();
    driver.negotiate(0);
    driver.set_up_queue(0, rings, size);
    driver.write(STATUS, DRIVER_OK);
    driver.read(STATUS)
}

#[test]
fn malformed_queues_stop_the_device_with_needs_reset() {
    let end = u64::from(MEMORY_PAGES) * 4096;
    for (rings, size) in [
        (0x1001, 16),                // misaligned
        (0x1000, 0),                 // empty
        (0x1000, 3),                 // no power of two
        (0x1000, 256),               // above the maximum
        (0x1000, 0x1_0010),          // does not fit into 16 bits
        (end - 0x1000, 16),          // rings past the end of memory
        (0xffff_ffff_ffff_c000, 16), // at the end of the address space
    ] {
        let status = status_with_queue(rings, size);
        assert_eq!(
            status,
            DRIVER_OK | NEEDS_RESET,
            "rings at {rings:#x}, size {size}"
        );
    }
}

#[test]
fn needs_reset_is_announced_as_a_configuration_change() {
    let mut driver = TestDriver::new();
    driver.negotiate(0);
    driver.set_up_queue(0, 0x1001, 16);
    driver.write(STATUS, DRIVER_OK);
    assert_eq!(driver.read(0x60), 2);
    assert_eq!(driver.interrupts.read().unwrap(), 1);
}

#[test]
fn device_that_nobody_can_serve_needs_a_reset_and_works_once_somebody_can() {
    let mut driver = TestDriver::new();
    let can_serve = Arc::new(AtomicBool::new(false));
    let seen = can_serve.clone();
    let act = move || match seen.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err(io::Error::other("no thread")),
    };
    driver.transport = driver.transport.before_activation(Box::new(act));
    driver.start();
    assert_eq!(driver.read(STATUS), DRIVER_OK | NEEDS_RESET);
    can_serve.store(true, Ordering::Relaxed);
    driver.write(STATUS, 0);
    driver.start();
    assert_eq!(driver.read(STATUS), DRIVER_OK);
}

#[test]
fn reset_clears_everything_and_the_device_works_again() {
    let mut driver = TestDriver::running();
    driver.balloon.set_target_pages(7);
    driver.write(STATUS, 0);
    assert_eq!(
        (driver.read(STATUS), driver.read(0x60), driver.read(0x44)),
        (0, 0, 0)
    );
    driver.start();
    assert_eq!(driver.read(STATUS), DRIVER_OK);
}

#[test]
fn acknowledged_interrupts_are_cleared() {
    let driver = TestDriver::running();
    driver.balloon.set_target_pages(7);
    assert_eq!(driver.read(0x60), 2);
    driver.write(0x64, 2);
    assert_eq!(driver.read(0x60), 0);
}

#[test]
fn target_before_driver_ok_interrupts_nobody() {
    let driver = TestDriver::new();
    driver.balloon.set_target_pages(7);
    assert_eq!(driver.read(0x60), 0);
    assert!(driver.interrupts.read().is_err());
}

#[test]
fn a_new_target_changes_the_generation() {
    let driver = TestDriver::running();
    let before = driver.read(0xfc);
    driver.balloon.set_target_pages(7);
    assert_ne!(driver.read(0xfc), before);
}

#[test]
fn shared_memory_regions_do_not_exist() {
    let driver = TestDriver::new();
    driver.write(0xac, 0);
    assert_eq!(
        [0xb0, 0xb4, 0xb8, 0xbc].map(|register| driver.read(register)),
        [u32::MAX; 4]
    );
}

#[test]
fn accesses_of_every_width_and_offset_are_harmless() {
    let driver = TestDriver::running();
    for offset in 0..0x200 {
        for width in 1..=8 {
            let mut data = [0; 8];
            driver.transport.read(offset, &mut data[..width]);
            // All but the status register, where 0 resets by right.
            if !(STATUS..STATUS + 4).contains(&offset) {
                driver.transport.write(offset, &[0xff; 8][..width]);
            }
        }
    }
    assert_eq!(driver.read(STATUS), DRIVER_OK);
    assert_eq!(driver.balloon.target_pages(), 0);
}
