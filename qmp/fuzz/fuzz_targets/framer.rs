//! Messages and faults are the same however the input is cut.

#![no_main]

#[path = "../src/properties.rs"]
#[allow(dead_code, reason = "each target has one property")]
mod properties;

use libfuzzer_sys::fuzz_target;
use properties::Cut;

fuzz_target!(|data: &[u8]| {
    properties::framer_is_blind_to_cuts(&Cut::from_fuzzer(data));
});
