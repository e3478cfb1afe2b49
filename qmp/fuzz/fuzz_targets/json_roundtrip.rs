//! What the writer writes the framer reads.

#![no_main]

#[path = "../src/properties.rs"]
#[allow(dead_code, reason = "each target has one property")]
mod properties;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    properties::written_json_is_read_again(data);
});
