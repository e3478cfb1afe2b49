//! The memory of just the pages that a driver gives is released, whatever the host does meanwhile.

#![no_main]

#[path = "../src/guest.rs"]
#[allow(dead_code, reason = "each target has one property")]
mod guest;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    guest::pages::device_releases_just_what_it_is_given(data);
});
