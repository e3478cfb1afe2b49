//! What a stock Linux says of its memory, and what it gives back without being asked.

mod common;

use std::time::Duration;

use common::machine::Machine;
use common::qmp::Client;
use common::setup::Setup;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const MEM: u64 = 512 * MIB;
/// Time for an answer of the guest, polling interval included.
const ANSWER: Duration = Duration::from_secs(10);
/// What the guest fills and frees.
const FILL_MIB: u64 = 200;
/// What of that must come back to the host, in KiB.
const BACK_KIB: u64 = 150 << 10;
/// Time for Linux to report what it has freed: it waits two seconds before it does.
const REPORT: Duration = Duration::from_secs(30);
/// Time in which Linux would report something.
const UNREPORTED: Duration = Duration::from_secs(6);
/// Statistics of Linux 6.1, by name: tags 0 to 9.
const SAID: [&str; 10] = [
    "stat-swap-in",
    "stat-swap-out",
    "stat-major-faults",
    "stat-minor-faults",
    "stat-free-memory",
    "stat-total-memory",
    "stat-available-memory",
    "stat-disk-caches",
    "stat-htlb-pgalloc",
    "stat-htlb-pgfail",
];

fn boot(balloon: &str) -> (Machine, Client) {
    let setup = Setup::linux("512M")
        .expect("guest files")
        .argument("--balloon", balloon);
    let mut machine = setup.start().expect("start");
    machine.wait_for_shell().expect("boot");
    let qmp = machine.qmp().expect("QMP");
    (machine, qmp)
}

fn statistics(qmp: &mut Client) -> Value {
    let arguments = json!({"path": "/machine/peripheral/balloon0", "property": "guest-stats"});
    qmp.execute_with("qom-get", &arguments)
        .expect("guest-stats")
}

fn poll_every(qmp: &mut Client, seconds: u32) {
    let arguments = json!({
        "path": "/machine/peripheral/balloon0",
        "property": "guest-stats-polling-interval",
        "value": seconds
    });
    qmp.execute_with("qom-set", &arguments).expect("interval");
}

fn last_update(qmp: &mut Client) -> u64 {
    let statistics = statistics(qmp);
    statistics["last-update"].as_u64().expect("last-update")
}

/// Waits for statistics that are newer than `time`.
fn wait_for_update(qmp: &mut Client, time: u64) {
    let newer = common::wait_until(ANSWER, || last_update(qmp) > time);
    assert!(newer, "the guest says nothing");
}

#[test]
fn statistics_are_those_of_the_guest_and_are_gone_after_a_reset() {
    let (_machine, mut qmp) = boot("on");
    let before = last_update(&mut qmp);
    // The driver's first buffer comes without polling.
    assert!(before > 0);
    poll_every(&mut qmp, 1);
    wait_for_update(&mut qmp, before);
    poll_every(&mut qmp, 0);
    let arguments = json!({"timeout-ms": ANSWER.as_millis()});
    let answer = qmp.execute_with("x-query-guest-stats", &arguments);
    let said = answer.expect("answer")["stats"].clone();
    poll_every(&mut qmp, 100);
    qmp.execute("stop").expect("stop");
    qmp.execute("system_reset").expect("reset");
    let after = statistics(&mut qmp);

    let value = |name: &str| said[name].as_u64().expect("number");
    for name in SAID {
        assert_ne!(value(name), u64::MAX, "{name}");
    }
    let total = value("stat-total-memory");
    assert!((400 * MIB..MEM).contains(&total), "{total}");
    assert!(value("stat-free-memory") < total);
    assert!(value("stat-available-memory") < total);
    assert_eq!(after["last-update"], 0);
    let values = after["stats"].as_object().expect("stats");
    assert!(values.values().all(|value| *value == u64::MAX));
}

#[test]
fn polling_goes_on_and_stands_still_while_the_machine_does() {
    let (_machine, mut qmp) = boot("on");
    poll_every(&mut qmp, 1);
    let mut last = last_update(&mut qmp);
    for _ in 0..2 {
        wait_for_update(&mut qmp, last);
        last = last_update(&mut qmp);
    }
    qmp.execute("stop").expect("stop");
    let stopped = last_update(&mut qmp);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(last_update(&mut qmp), stopped);
    qmp.execute("cont").expect("cont");
    wait_for_update(&mut qmp, stopped);
    poll_every(&mut qmp, 0);
}

/// Sets one of the properties that say what becomes of reports.
fn set(qmp: &mut Client, property: &str, value: impl Into<Value>) {
    let arguments = json!({
        "path": "/machine/peripheral/balloon0", "property": property, "value": value.into()
    });
    qmp.execute_with("qom-set", &arguments).expect("qom-set");
}

/// A guest that clears its pages when it frees them must say so before it may report them.
#[test]
fn guest_that_clears_free_pages_gives_them_back_while_reporting_is_on() {
    let mut machine = Setup::linux("512M")
        .expect("guest files")
        .cmdline("console=ttyS0 panic=-1 quiet page_poison=1 init_on_free=1")
        .start()
        .expect("start");
    machine.wait_for_shell().expect("boot");
    let mut qmp = machine.qmp().expect("QMP");
    let state = |qmp: &mut Client| qmp.execute("x-query-balloon").expect("x-query-balloon");
    let features = state(&mut qmp)["features"].clone();
    set(&mut qmp, "x-free-page-reporting", false);
    let before = state(&mut qmp)["reported"].clone();

    // Each fills memory and frees it at once.
    machine.fill_guest_memory(FILL_MIB).expect("fill");
    std::thread::sleep(UNREPORTED);
    let off = state(&mut qmp)["reported"].clone();
    set(&mut qmp, "x-free-page-reporting-max-rate", 128 * MIB);
    set(&mut qmp, "x-free-page-reporting", true);
    let full_kib = machine.fill_guest_memory(FILL_MIB).expect("fill");
    let given = common::wait_until(REPORT, || {
        let now_kib = machine.resident_kib().expect("RSS");
        full_kib.saturating_sub(now_kib) > BACK_KIB
    });

    let features = features.as_array().expect("names");
    for feature in ["page-poison", "free-page-reporting"] {
        assert!(features.contains(&json!(feature)), "{features:?}");
    }
    assert_eq!(before, off);
    let now_kib = machine.resident_kib().expect("RSS");
    assert!(given, "of {full_kib} KiB {now_kib} are still there");
    let reported = state(&mut qmp)["reported"].clone();
    assert!(reported.as_u64() > Some(BACK_KIB << 10), "{reported}");
}
