//! A stock Linux gives memory of each backing and takes it back: what it gave is gone from the host,
//! and what it has again it can use.
//!
//! How each backing releases is tested page by page with the bare-metal guest; here is what of it a
//! real guest's order of pages leaves. Each test boots a guest of its own.

mod common;

use std::time::Duration;

use common::host::{memfd_kib, memory_field_kib};
use common::huge_pages::{self, HugePages};
use common::machine::Machine;
use common::qmp::Client;
use common::setup::Setup;
use common::wait_until;

const MIB: u64 = 1 << 20;
const MEM: u64 = 256 * MIB;
/// What is left to the guests when the balloon is inflated.
const INFLATED: u64 = 160 * MIB;
/// What of the 96 MiB must really move: a guest keeps some noise of its own.
const MOVED_KIB: u64 = 72 << 10;
/// What the guests write at their fill: most of what is free after boot.
const FILL_MIB: u64 = 120;
/// Time for a balloon to reach its target: some MiB come in a millisecond on hardware.
const BALLOON: Duration = Duration::from_secs(30);
/// Time for what waits for the rest of its huge page.
const REST: Duration = Duration::from_secs(10);

/// A guest with memory of this kind, all that is free of it written, and its QMP client.
fn boot(options: &str) -> (Machine, Client) {
    // What the guest would give by itself is not the balloon's doing.
    let setup = Setup::linux(&format!("256M,{options}"))
        .expect("guest files")
        .argument("--balloon", "free-page-reporting=off");
    let mut machine = setup.start().expect("start");
    machine.wait_for_shell().expect("boot");
    machine.fill_guest_memory(FILL_MIB).expect("fill");
    let qmp = machine.qmp().expect("QMP");
    (machine, qmp)
}

/// The guest gives, and takes `back` KiB at least; `kib` is what its memory costs the host.
fn memory_goes_and_comes(options: &str, back: u64, kib: impl Fn(u32) -> u64) {
    let (mut machine, mut qmp) = boot(options);
    let full = kib(machine.pid());
    qmp.balloon(INFLATED).expect("balloon");
    qmp.wait_for_actual(INFLATED, BALLOON).expect("inflate");
    let moved = || full.saturating_sub(kib(machine.pid()));
    let is_gone = wait_until(REST, || moved() >= MOVED_KIB);
    assert!(is_gone, "{options}: {} KiB of 96 MiB went", moved());
    let left = kib(machine.pid());

    qmp.balloon(MEM).expect("balloon");
    qmp.wait_for_actual(MEM, BALLOON).expect("deflate");
    machine.fill_guest_memory(FILL_MIB).expect("fill again");
    let came = kib(machine.pid()).saturating_sub(left);
    assert!(came >= back, "{options}: {came} KiB of 96 MiB came");
}

#[test]
fn memory_of_a_memfd_goes_and_comes() {
    memory_goes_and_comes("backing=memfd", MOVED_KIB, |pid| {
        memfd_kib(pid).expect("files")
    });
}

#[test]
fn transparent_huge_pages_go_and_come() {
    // What the host has split comes back in small pages first.
    memory_goes_and_comes("thp=on", MOVED_KIB / 2, |pid| {
        memory_field_kib(pid, "AnonHugePages").expect("AnonHugePages")
    });
}

#[test]
fn huge_pages_of_the_pool_go_and_are_kept_for_the_guest_that_takes_them_back() {
    let _pages = HugePages::take(MEM >> 21);
    let before = huge_pages::available();
    let in_use_kib = || (before - huge_pages::available()) << 11;
    let (mut machine, mut qmp) = boot("backing=hugetlbfs");
    assert_eq!(in_use_kib(), MEM >> 10);

    qmp.balloon(INFLATED).expect("balloon");
    qmp.wait_for_actual(INFLATED, BALLOON).expect("inflate");
    let left = in_use_kib();
    assert!(left + MOVED_KIB <= MEM >> 10, "{left} KiB are still in use");

    qmp.balloon(MEM).expect("balloon");
    qmp.wait_for_actual(MEM, BALLOON).expect("deflate");
    assert_eq!(in_use_kib(), MEM >> 10);
    machine.fill_guest_memory(FILL_MIB).expect("fill again");
}
