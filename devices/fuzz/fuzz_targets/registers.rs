//! Every register is what the specification says it is, after any accesses.

#![no_main]

#[path = "../src/guest.rs"]
#[allow(dead_code, reason = "each target has one property")]
mod guest;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    guest::registers::transport_keeps_to_its_model(data);
});
