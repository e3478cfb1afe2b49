//! `aerostat-ctl` against the real `aerostat`, with the bare-metal guest.

mod common;

use std::io::Read;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use aerostat_tiny_guest::{BalloonDriver, Script};
use common::machine::Machine;
use common::setup::{Setup, ctl_under_test};
use common::tiny::{DEVICE, RINGS};
use serde_json::Value;

/// Guest memory to give away: 16 MiB from 16 MiB.
const FIRST_PFN: u32 = 0x1000;
const COUNT: u32 = 4096;
const LIMIT: Duration = Duration::from_secs(30);

/// A machine whose socket takes clients.
fn start(script: Script) -> Machine {
    let machine = Setup::tiny(script).expect("guest").start().expect("start");
    drop(machine.qmp().expect("connect"));
    machine
}

fn ctl(machine: &Machine, arguments: &[&str]) -> Command {
    let mut command = Command::new(ctl_under_test().expect("aerostat-ctl"));
    command
        .arg(machine.socket())
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn run(machine: &Machine, arguments: &[&str]) -> (Output, String) {
    let output = ctl(machine, arguments).output().expect("run");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, stdout)
}

#[test]
fn resize_waits_until_the_guest_has_given_its_memory() {
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let script = driver
        .init(Script::new())
        .wait32(driver.num_pages(), u32::MAX, COUNT);
    let script = driver.inflate(script, FIRST_PFN, COUNT / 2, 1, COUNT / 2);
    let script = driver.inflate(script, FIRST_PFN + COUNT / 2, COUNT / 2, 1, COUNT);
    let machine = start(script);

    let arguments = ["resize", "48M", "--wait", "--stall", "5m"];
    let (output, stdout) = run(&machine, &arguments);

    assert_eq!(stdout, "The guest has 48 MiB.\n", "{output:?}");
    assert_eq!(output.status.code(), Some(0));
    let (_, status) = run(&machine, &["status"]);
    assert!(status.contains("guest has 48 MiB\n"), "{status}");
}

#[test]
fn guest_without_a_driver_stalls() {
    let machine = start(Script::new().puts("ready\n"));
    let arguments = ["resize", "48M", "--wait", "--stall", "300ms"];
    let (output, stdout) = run(&machine, &arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said = "Stalled: the guest has 64 MiB, not 48 MiB";
    assert!(stderr.contains(said), "{stderr}");
    assert_eq!((stdout.as_str(), output.status.code()), ("", Some(3)));
}

#[test]
fn status_shows_the_machine() {
    let machine = start(Script::new().puts("ready\n"));
    let (_, table) = run(&machine, &["status"]);
    for row in [
        "version   aerostat ",
        "state     running\n",
        "guest has 64 MiB\n",
    ] {
        assert!(table.contains(row), "{row:?} is missing in {table}");
    }
    let (_, json) = run(&machine, &["status", "--json"]);
    let status: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(status["balloon"]["actual"], 64 << 20);
    assert_eq!(status["cpus"].as_array().map(Vec::len), Some(1));
}

#[test]
fn events_come_until_there_are_enough() {
    let machine = start(Script::new().puts("ready\n"));
    let mut events = ctl(&machine, &["events", "STOP", "--count", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    // Whether it listens already does not show: it hears one of them.
    while events.try_wait().expect("wait").is_none() {
        run(&machine, &["stop"]);
        run(&machine, &["cont"]);
    }
    let mut line = String::new();
    let mut stdout = events.stdout.take().expect("pipe");
    stdout.read_to_string(&mut line).expect("read");
    let event: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(event["event"], "STOP");
}

#[test]
fn script_of_the_shell_ends_the_machine() {
    let mut machine = start(Script::new().puts("ready\n"));
    machine.console.wait_for("ready", LIMIT).expect("console");
    let directory = tempfile::TempDir::new().expect("temporary directory");
    let path = directory.path().join("script");
    std::fs::write(&path, "query-status\nballoon value=50331648\nquit\n").expect("write");
    let input = std::fs::File::open(path).expect("open");

    let output = ctl(&machine, &["shell"]).stdin(input).output();

    let output = output.expect("run");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("\"status\": \"running\""), "{stdout}");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    machine.wait_success().expect("end");
}
