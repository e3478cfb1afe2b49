//! A stock Linux finds its balloon by itself and gives and takes memory through it.
//!
//! Each test boots a guest of its own, which takes most of its time where guests are slow. What counts is the host's memory, not what anyone says
//! about it: guests fill their memory first, so that there is something to give back.

mod common;

use std::time::Duration;

use common::host::resident_kib;
use common::machine::Machine;
use common::qmp::Client;
use common::setup::Setup;

const MIB: u64 = 1 << 20;
/// The guests' memory.
const MEM: u64 = 512 * MIB;
/// What is left to them when the balloon is inflated.
const INFLATED: u64 = 256 * MIB;
/// Time for a balloon to reach its target: some MiB come in a millisecond on hardware.
const BALLOON: Duration = Duration::from_secs(20);
/// What of 256 MiB must really move, in KiB: a guest keeps some noise of its own.
const MOVED_KIB: u64 = 200 << 10;
/// What the guests write at their fill: nearly all that is free after boot.
const FILL_MIB: u64 = 330;

/// A booted guest with `MEM` and its QMP client.
fn boot(balloon: &str) -> (Machine, Client) {
    // What the guest would give by itself is not the balloon's doing.
    let setup = Setup::linux("512M")
        .expect("guest files")
        .argument("--balloon", format!("{balloon},free-page-reporting=off"));
    let mut machine = setup.start().expect("start");
    machine.wait_for_shell().expect("boot");
    let qmp = machine.qmp().expect("QMP");
    (machine, qmp)
}

#[test]
fn driver_finds_the_balloon_through_acpi_alone() {
    let mut machine = Setup::linux("256M")
        .expect("guest files")
        .start()
        .expect("start");
    machine.wait_for_shell().expect("boot");

    let device = machine
        .console
        .run("cat /sys/bus/virtio/devices/*/device")
        .expect("device");
    let driver = machine
        .console
        .run("readlink /sys/bus/virtio/devices/*/driver")
        .expect("driver");
    let parent = machine
        .console
        .run("readlink -f /sys/bus/virtio/devices/*")
        .expect("parent");
    let cmdline = machine
        .console
        .run("cat /proc/cmdline")
        .expect("command line");

    assert_eq!(device, "0x0005");
    assert!(driver.ends_with("/virtio_balloon"), "{driver}");
    assert!(parent.contains("/LNRO0005:"), "{parent}");
    assert!(!cmdline.contains("virtio_mmio"), "{cmdline}");
}

#[test]
fn guest_without_balloon_has_no_virtio_device() {
    let setup = Setup::linux("256M")
        .expect("guest files")
        .argument("--balloon", "off");
    let mut machine = setup.start().expect("start");
    machine.wait_for_shell().expect("boot");

    let devices = machine
        .console
        .run("ls /sys/bus/virtio/devices")
        .expect("devices");
    let answer = machine.qmp().expect("QMP").execute("query-balloon");

    assert_eq!(devices, "");
    let error = answer
        .expect_err("query-balloon without a balloon")
        .to_string();
    assert!(error.contains("DeviceNotActive"), "{error}");
}

#[test]
fn inflating_gives_memory_to_the_host_and_deflating_gives_it_back() {
    let (mut machine, mut qmp) = boot("deflate-on-oom=off");
    machine.fill_guest_memory(FILL_MIB).expect("fill");
    let total_before = machine.guest_meminfo_kib("MemTotal").expect("MemTotal");
    let free_before = machine.guest_meminfo_kib("MemFree").expect("MemFree");
    let resident_before = resident_kib(machine.pid()).expect("RSS");

    qmp.balloon(INFLATED).expect("balloon");
    qmp.wait_for_actual(INFLATED, BALLOON).expect("inflate");

    let total = machine.guest_meminfo_kib("MemTotal").expect("MemTotal");
    let free = machine.guest_meminfo_kib("MemFree").expect("MemFree");
    let resident = resident_kib(machine.pid()).expect("RSS");
    // Without deflate-on-oom the driver takes ballooned pages out of the guest's total.
    assert_eq!(total_before - total, (MEM - INFLATED) / 1024);
    assert!(
        free + MOVED_KIB <= free_before,
        "MemFree: {free_before} to {free} kB"
    );
    assert!(
        resident + MOVED_KIB <= resident_before,
        "RSS: {resident_before} to {resident} kB"
    );

    qmp.balloon(MEM).expect("balloon");
    qmp.wait_for_actual(MEM, BALLOON).expect("deflate");
    machine.fill_guest_memory(FILL_MIB).expect("fill again");

    let total_after = machine.guest_meminfo_kib("MemTotal").expect("MemTotal");
    let resident_after = resident_kib(machine.pid()).expect("RSS");
    assert_eq!(total_after, total_before);
    assert!(
        resident_after >= resident + MOVED_KIB,
        "RSS: {resident} to {resident_after} kB"
    );
}

#[test]
fn balloon_ends_at_the_last_target_and_so_do_its_events() {
    let (_machine, mut qmp) = boot("deflate-on-oom=on");

    qmp.execute("stop").expect("stop");
    qmp.balloon(INFLATED).expect("target");
    std::thread::sleep(Duration::from_secs(1));
    let stopped = qmp.balloon_actual().expect("query-balloon");
    qmp.execute("cont").expect("cont");
    let reached = qmp.wait_for_actual(INFLATED, BALLOON);

    assert_eq!(stopped, MEM);
    reached.expect("inflate after cont");
    // Events come once a second at most: one that holds the last value may still be on its way.
    let first = qmp
        .wait_event("BALLOON_CHANGE", BALLOON)
        .expect("first event");
    let mut values = vec![first["data"]["actual"].as_u64().expect("actual")];
    while values.last() != Some(&INFLATED) {
        let event = qmp
            .wait_event("BALLOON_CHANGE", BALLOON)
            .expect("event with the last value");
        values.push(event["data"]["actual"].as_u64().expect("actual"));
    }
    assert!(
        values.is_sorted_by(|earlier, later| earlier > later),
        "{values:?}"
    );

    qmp.balloon(INFLATED - 32 * MIB).expect("first target");
    qmp.balloon(INFLATED + 64 * MIB).expect("second target");
    let reached = qmp.wait_for_actual(INFLATED + 64 * MIB, BALLOON);
    std::thread::sleep(Duration::from_secs(2));

    reached.expect("second target");
    assert_eq!(
        qmp.balloon_actual().expect("query-balloon"),
        INFLATED + 64 * MIB
    );
}
