//! The I/O APIC is what its specification says, after any accesses and edges.

#![no_main]

#[path = "../src/guest.rs"]
#[allow(dead_code, reason = "each target has one property")]
mod guest;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    guest::ioapic::ioapic_keeps_to_its_model(data);
});
