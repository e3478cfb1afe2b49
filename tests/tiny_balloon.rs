//! The balloon of the real binary, driven by the bare-metal guest: milliseconds, on any KVM.
//!
//! The guest polls, so that nothing here depends on interrupts; what Linux makes of the same
//! device is in `linux_balloon.rs`.

mod common;

use std::time::Duration;

use aerostat_tiny_guest::{BalloonDriver, Script};
use common::machine::Machine;
use common::setup::Setup;
use common::tiny::{DEVICE, PAGE, RINGS};
use serde_json::json;

/// Guest memory to give away: 16 MiB from 16 MiB.
const PAGES: u64 = 0x100_0000;
const FIRST_PFN: u32 = 0x1000;
const COUNT: u32 = 4096;
const MEMORY: u64 = 64 << 20;
const MIB_KIB: u64 = 1024;
const LIMIT: Duration = Duration::from_secs(30);

/// Brings the device up, fills the memory to give away, and says so.
fn filled() -> (BalloonDriver, Script) {
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let script = driver
        .init(Script::new())
        .fill(PAGES, COUNT.into(), PAGE, u64::MAX)
        .puts("filled\n");
    (driver, script)
}

/// Waits for the target of all [`COUNT`] pages, then gives them, half of them downwards.
fn inflate_all(driver: &mut BalloonDriver, script: Script) -> Script {
    let script = script.wait32(driver.num_pages(), u32::MAX, COUNT);
    let script = driver.inflate(script, FIRST_PFN, COUNT / 2, 1, COUNT / 2);
    driver
        .inflate(script, FIRST_PFN + COUNT - 1, COUNT / 2, -1, COUNT)
        .puts("inflated\n")
}

fn start(script: Script) -> Machine {
    Setup::tiny(script).expect("guest").start().expect("start")
}

fn wait_for(machine: &mut Machine, text: &str) -> String {
    machine.console.wait_for(text, LIMIT).expect("console")
}

#[test]
fn inflating_gives_the_memory_back_to_the_host() {
    let (mut driver, script) = filled();
    let mut machine = start(inflate_all(&mut driver, script));
    let mut qmp = machine.qmp().expect("connect");
    wait_for(&mut machine, "filled");
    let full_kib = machine.resident_kib().expect("RSS");

    qmp.balloon(MEMORY - u64::from(COUNT) * PAGE)
        .expect("balloon");
    wait_for(&mut machine, "inflated");

    let left_kib = machine.resident_kib().expect("RSS");
    let released_kib = full_kib.saturating_sub(left_kib);
    assert!(
        released_kib > 15 * MIB_KIB,
        "{released_kib} KiB of 16 MiB came back"
    );
}

#[test]
fn inflated_pages_read_zero_and_cost_memory_again_when_touched() {
    let (mut driver, script) = filled();
    let script = inflate_all(&mut driver, script)
        .collect("contents", PAGES, COUNT.into(), PAGE)
        .echo_serial()
        .fill(PAGES, COUNT.into(), PAGE, 1)
        .puts("touched\n");
    let mut machine = start(script);
    let mut qmp = machine.qmp().expect("connect");
    qmp.balloon(MEMORY - u64::from(COUNT) * PAGE)
        .expect("balloon");
    wait_for(&mut machine, "contents ");
    assert_eq!(wait_for(&mut machine, "\n"), "0000000000000000");
    let before_kib = machine.resident_kib().expect("RSS");

    machine.console.send("k").expect("type");
    wait_for(&mut machine, "touched");

    let taken_kib = machine
        .resident_kib()
        .expect("RSS")
        .saturating_sub(before_kib);
    assert!(taken_kib > 15 * MIB_KIB, "{taken_kib} KiB were taken again");
}

#[test]
fn balloon_change_ends_with_the_last_value() {
    let (mut driver, script) = filled();
    let mut machine = start(inflate_all(&mut driver, script));
    let mut qmp = machine.qmp().expect("connect");
    let target = MEMORY - u64::from(COUNT) * PAGE;
    qmp.balloon(target).expect("balloon");
    wait_for(&mut machine, "inflated");

    let first = qmp
        .wait_event("BALLOON_CHANGE", LIMIT)
        .expect("first event");
    let last = qmp.wait_event("BALLOON_CHANGE", LIMIT).expect("last event");

    assert_eq!(
        first["data"]["actual"],
        MEMORY - u64::from(COUNT) / 2 * PAGE
    );
    assert_eq!(last["data"]["actual"], target);
    assert_eq!(qmp.balloon_actual().expect("actual"), target);
}

#[test]
fn deflating_raises_actual_and_leaves_the_contents() {
    let (mut driver, script) = filled();
    let script = inflate_all(&mut driver, script)
        .fill(PAGES, COUNT.into(), PAGE, 5)
        .wait32(driver.num_pages(), u32::MAX, 0);
    let script = driver.deflate(script, FIRST_PFN, 2048, 2048);
    let script = driver.deflate(script, FIRST_PFN + 2048, 2048, 0);
    let mut machine = start(script.collect("contents", PAGES, COUNT.into(), PAGE));
    let mut qmp = machine.qmp().expect("connect");
    qmp.balloon(MEMORY - u64::from(COUNT) * PAGE)
        .expect("inflate");
    wait_for(&mut machine, "inflated");

    qmp.balloon(MEMORY).expect("deflate");
    wait_for(&mut machine, "contents ");

    assert_eq!(wait_for(&mut machine, "\n"), "0000000000000005");
    assert_eq!(qmp.balloon_actual().expect("actual"), MEMORY);
}

#[test]
fn target_set_before_the_driver_is_found_by_it() {
    let (mut driver, script) = filled();
    let script = inflate_all(&mut driver, script);
    let mut machine = Setup::tiny(script)
        .expect("guest")
        .flag("--paused")
        .start()
        .expect("start");
    let mut qmp = machine.qmp().expect("connect");

    qmp.balloon(MEMORY - u64::from(COUNT) * PAGE)
        .expect("balloon");
    qmp.execute("cont").expect("cont");

    wait_for(&mut machine, "inflated");
}

#[test]
fn thread_for_devices_is_there_once_a_driver_is_and_stays() {
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let script = Script::new().puts("alone\n").echo_serial();
    let script = driver.init(script).puts("driven\n").echo_serial();
    let mut machine = start(script.reset());
    wait_for(&mut machine, "alone");
    let is_served = |machine: &Machine| machine.threads().iter().any(|name| name == "device");
    assert!(!is_served(&machine), "{:?}", machine.threads());
    machine.console.send("k").expect("type");
    wait_for(&mut machine, "driven");
    assert!(is_served(&machine), "{:?}", machine.threads());
    machine.console.send("k").expect("type");
    // The guest anew, and without a driver again.
    wait_for(&mut machine, "alone");
    assert!(is_served(&machine), "{:?}", machine.threads());
}

#[test]
fn guest_that_claims_a_balloon_larger_than_its_memory_has_nothing_left() {
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let script = driver
        .init(Script::new())
        .store32(driver.actual(), u32::MAX)
        .puts("claimed\n");
    let mut machine = start(script);
    let mut qmp = machine.qmp().expect("connect");
    wait_for(&mut machine, "claimed");
    assert_eq!(qmp.balloon_actual().expect("actual"), 0);
}

#[test]
fn machine_answers_while_its_guest_breaks_its_queue() {
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let script = driver
        .init(Script::new())
        .store(driver.available(0) + 2, 0xffff, 2)
        .store32(driver.register(0x50), 0)
        // DEVICE_NEEDS_RESET
        .wait32(driver.register(0x70), 64, 64)
        .puts("broken\n");
    let mut machine = start(script);
    let mut qmp = machine.qmp().expect("connect");
    wait_for(&mut machine, "broken");
    assert_eq!(qmp.status().expect("status"), "running");
}

#[test]
fn device_works_again_after_a_reset() {
    let (mut driver, script) = filled();
    let script = script
        .store(driver.available(0) + 2, 0xffff, 2)
        .store32(driver.register(0x50), 0)
        .wait32(driver.register(0x70), 64, 64);
    let script = driver.init(script);
    let mut machine = start(inflate_all(&mut driver, script));
    let mut qmp = machine.qmp().expect("connect");
    qmp.balloon(MEMORY - u64::from(COUNT) * PAGE)
        .expect("balloon");
    wait_for(&mut machine, "inflated");
}

#[test]
fn machine_without_a_balloon_says_so() {
    let machine = Setup::tiny(Script::new())
        .expect("guest")
        .argument("--balloon", "off")
        .start()
        .expect("start");
    let mut qmp = machine.qmp().expect("connect");
    let refused = qmp
        .balloon(MEMORY)
        .expect_err("there is no balloon")
        .to_string();
    assert!(refused.contains("DeviceNotActive"), "{refused}");
    assert!(
        refused.contains("No balloon device has been activated"),
        "{refused}"
    );
}

#[test]
fn guest_that_cannot_tell_of_its_memory_is_not_waited_for() {
    let machine = Setup::tiny(Script::new()).expect("guest").start();
    let mut qmp = machine.as_ref().expect("start").qmp().expect("connect");
    let arguments = json!({"timeout-ms": 600_000});
    let refused = qmp.execute_with("x-query-guest-stats", &arguments);
    let refused = refused.expect_err("there is no driver").to_string();
    assert!(refused.contains("no balloon driver"), "{refused}");
}
