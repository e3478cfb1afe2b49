//! Every message gets one reply line, whatever it says and however it is cut.

#![no_main]

#[path = "../src/properties.rs"]
#[allow(dead_code, reason = "each target has one property")]
mod properties;

use libfuzzer_sys::fuzz_target;
use properties::Cut;

fuzz_target!(|data: &[u8]| {
    properties::session_answers_each_message_with_one_line(&Cut::from_fuzzer(data));
});
