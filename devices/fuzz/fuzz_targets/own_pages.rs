//! A driver that keeps to the rules never loses a page.

#![no_main]

#[path = "../src/guest.rs"]
#[allow(dead_code, reason = "each target has one property")]
mod guest;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    guest::huge_pages::guest_keeps_its_pages(data);
});
