//! What holds for every guest holds for those that fuzzing has found, and for any others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

#[path = "../fuzz/src/guest.rs"]
mod guest;

use std::path::Path;

use proptest::prelude::*;

/// Hands each input of a fuzz target's corpus to `check`.
fn replay(target: &str, check: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let files = std::fs::read_dir(corpus.join(target)).unwrap();
    let inputs: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert!(!inputs.is_empty());
    for path in inputs {
        eprintln!("{}", path.display());
        check(&std::fs::read(path).unwrap());
    }
}

#[test]
fn corpus_of_the_device_holds() {
    replay("hostile_guest", guest::device_survives_any_guest);
}

#[test]
fn corpus_of_whole_huge_pages_holds() {
    replay(
        "huge_pages",
        guest::huge_pages::huge_pages_survive_any_driver,
    );
}

#[test]
fn corpus_of_the_ioapic_holds() {
    replay("ioapic", guest::ioapic::ioapic_keeps_to_its_model);
}

#[test]
fn corpus_of_a_drivers_own_pages_holds() {
    replay("own_pages", guest::huge_pages::guest_keeps_its_pages);
}

#[test]
fn corpus_of_the_queues_holds() {
    replay("queues", guest::queues_survive_any_driver);
}

#[test]
fn corpus_of_the_registers_holds() {
    replay("registers", guest::registers::transport_keeps_to_its_model);
}

#[test]
fn corpus_of_the_pages_holds() {
    replay("pages", guest::pages::device_releases_just_what_it_is_given);
}

proptest! {
    #[test]
    fn device_survives_any_guest(input in prop::collection::vec(any::<u8>(), 0..400)) {
        guest::device_survives_any_guest(&input);
    }

    #[test]
    fn huge_pages_survive_any_driver(input in prop::collection::vec(any::<u8>(), 0..400)) {
        guest::huge_pages::huge_pages_survive_any_driver(&input);
    }

    #[test]
    fn ioapic_keeps_to_its_model(input in prop::collection::vec(any::<u8>(), 0..400)) {
        guest::ioapic::ioapic_keeps_to_its_model(&input);
    }

    #[test]
    fn guest_keeps_its_pages(input in prop::collection::vec(any::<u8>(), 0..200)) {
        guest::huge_pages::guest_keeps_its_pages(&input);
    }

    #[test]
    fn queues_survive_any_driver(input in prop::collection::vec(any::<u8>(), 0..400)) {
        guest::queues_survive_any_driver(&input);
    }

    #[test]
    fn transport_keeps_to_its_model(input in prop::collection::vec(any::<u8>(), 0..400)) {
        guest::registers::transport_keeps_to_its_model(&input);
    }

    #[test]
    fn device_releases_just_what_it_is_given(input in prop::collection::vec(any::<u8>(), 0..400)) {
        guest::pages::device_releases_just_what_it_is_given(&input);
    }
}
