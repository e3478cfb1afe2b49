//! A guest that does to its balloon whatever an input says, and what must hold whatever that is.
//!
//! The fuzz targets, the replay of their corpora and the tests with generated inputs share it.

mod actions;
mod choices;
mod clock;
pub mod huge_pages;
pub mod ioapic;
pub mod machine;
pub mod pages;
pub mod registers;

use aerostat_devices::balloon::BalloonOptions;

use choices::Choices;
use machine::{ALL_OPTIONS, Guest};

/// A balloon as somebody may choose it.
fn options(choices: &mut Choices<'_>) -> BalloonOptions {
    let [deflate_on_oom, free_page_reporting, page_poison] = {
        let byte = choices.byte();
        [1, 2, 4].map(|bit| byte & bit == 0)
    };
    BalloonOptions {
        deflate_on_oom,
        free_page_reporting,
        page_poison,
    }
}

/// A guest that begins with nothing and does whatever it likes.
pub fn device_survives_any_guest(input: &[u8]) {
    let mut choices = Choices::new(input);
    let guest = Guest::new(options(&mut choices));
    survive(guest, choices);
}

/// As [`device_survives_any_guest`], with a driver of all features that goes on from DRIVER_OK.
pub fn queues_survive_any_driver(input: &[u8]) {
    let mut guest = Guest::new(ALL_OPTIONS);
    guest.start(u32::from(u8::MAX) & features(&guest));
    survive(guest, Choices::new(input));
}

/// All that the device offers below 32.
fn features(guest: &Guest) -> u32 {
    u32::try_from(guest.balloon.offered_features() & 0xffff_ffff).expect("32 bits")
}

fn survive(mut guest: Guest, mut choices: Choices<'_>) {
    while !choices.is_empty() {
        actions::act(&mut guest, &mut choices);
        guest.check();
    }
    guest.run_device();
    guest.check();
    guest.behave();
}
