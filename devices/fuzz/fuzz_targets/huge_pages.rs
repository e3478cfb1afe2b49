//! No driver can break a device that keeps pages until their huge page is whole.

#![no_main]

#[path = "../src/guest.rs"]
#[allow(dead_code, reason = "each target has one property")]
mod guest;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    guest::huge_pages::huge_pages_survive_any_driver(data);
});
