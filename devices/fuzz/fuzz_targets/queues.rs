//! No guest can break the device, and a driver that keeps to the rules works after a reset.

#![no_main]

#[path = "../src/guest.rs"]
#[allow(dead_code, reason = "each target has one property")]
mod guest;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    guest::queues_survive_any_driver(data);
});
