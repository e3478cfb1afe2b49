//! What those need who test kernels: a time-out, an expected text, several outputs, and messages
//! that show what the guest printed last.

mod common;

use std::time::Duration;

use aerostat_tiny_guest::Script;
use common::machine::Machine;
use common::setup::Setup;

const LIMIT: Duration = Duration::from_secs(30);

fn tiny(script: Script) -> Setup {
    Setup::tiny(script).expect("guest")
}

/// The exit status of the machine, and what it said on standard error.
fn end_of(setup: Setup) -> (Option<i32>, String) {
    let mut machine = setup.start().expect("start");
    let status = machine.wait_exit().expect("end");
    (status.code(), machine.stderr())
}

fn is_listening(machine: &Machine) -> bool {
    machine.socket().exists()
}

#[test]
fn machine_that_does_not_end_in_time_ends_with_124_and_its_last_lines() {
    let script = Script::new().puts("first\r\nsecond\r\n\x1b[31mthird");
    let (status, stderr) = end_of(tiny(script).argument("--timeout", "5s"));
    assert_eq!(status, Some(124));
    assert!(stderr.contains("did not end within 5s"), "{stderr}");
    assert!(
        stderr.contains("  | first\n  | second\n  | third"),
        "{stderr}"
    );
}

#[test]
fn machine_that_waits_for_cont_is_ended_in_time_too() {
    let setup = tiny(Script::new()).flag("--paused");
    let (status, stderr) = end_of(setup.argument("--timeout", "200ms"));
    assert_eq!(status, Some(124));
    assert!(stderr.contains("it printed nothing"), "{stderr}");
}

#[test]
fn time_out_is_announced_as_a_signal_would_be() {
    let setup = tiny(Script::new()).argument("--timeout", "10s");
    let mut machine = setup.start().expect("start");
    let mut qmp = machine.qmp().expect("connect");
    let event = qmp.wait_event("SHUTDOWN", LIMIT).expect("event");
    assert_eq!(event["data"]["reason"], "host-signal");
    machine.wait_exit().expect("end");
    assert!(!is_listening(&machine));
}

#[test]
fn expected_text_ends_the_machine_with_0() {
    let script = Script::new().puts("tests: 12 pas").puts("sed\r\nbye");
    let setup = tiny(script).argument("--expect", "12 passed\nbye");
    assert_eq!(end_of(setup), (Some(0), String::new()));
}

#[test]
fn expected_text_counts_though_the_guest_ends_at_once() {
    for end in [Script::power_off, Script::panic] {
        let script = end(Script::new().puts("passed"));
        let (status, _) = end_of(tiny(script).argument("--expect", "passed"));
        assert_eq!(status, Some(0));
    }
}

#[test]
fn machine_that_ends_before_the_expected_text_ends_with_1() {
    let script = Script::new().puts("tests: 1 failed\n").power_off();
    let (status, stderr) = end_of(tiny(script).argument("--expect", "passed"));
    assert_eq!(status, Some(1));
    assert!(stderr.contains("\"passed\""), "{stderr}");
    assert!(stderr.contains("  | tests: 1 failed"), "{stderr}");
}

#[test]
fn machine_that_shows_nothing_expected_in_time_ends_with_124() {
    let setup = tiny(Script::new()).argument("--expect", "passed");
    let (status, _) = end_of(setup.argument("--timeout", "300ms"));
    assert_eq!(status, Some(124));
}

#[test]
fn panic_shows_the_last_lines() {
    let script = Script::new().puts("Kernel panic - not syncing\r\n").panic();
    let (status, stderr) = end_of(tiny(script));
    assert_eq!(status, Some(1));
    let message = "aerostat: The guest panicked; it printed last:\n  | Kernel panic - not syncing";
    assert!(stderr.contains(message), "{stderr}");
}

#[test]
fn console_goes_to_standard_output_and_files_at_once() {
    let directory = tempfile::TempDir::new().expect("temporary directory");
    let file = |name: &str| directory.path().join(name);
    let argument = |name: &str| format!("file:{}", file(name).display());
    let mut machine = tiny(Script::new().puts("hello").power_off())
        .argument("--serial", argument("one"))
        .argument("--serial", "stdio")
        .argument("--serial", argument("two"))
        .start()
        .expect("start");
    machine.wait_success().expect("status 0");
    let texts = ["one", "two"].map(|name| std::fs::read_to_string(file(name)).expect("file"));
    assert_eq!(texts, ["hello", "hello"]);
    assert_eq!(machine.console.log(), "hello");
}

#[test]
fn machines_started_at_once_on_the_same_paths_leave_one_that_runs() {
    let directory = tempfile::TempDir::new().expect("temporary directory");
    let socket = directory.path().join("socket");
    let console = directory.path().join("console");
    for _ in 0..10 {
        let start = || {
            tiny(Script::new().puts("ready\n"))
                .argument("--serial", format!("file:{}", console.display()))
                .start_on(&socket)
                .expect("start")
        };
        let mut machines = [start(), start()];
        let mut qmp = common::qmp::Client::connect(&socket).expect("connect");
        qmp.wait_for_status("running", LIMIT).expect("running");
        let ended = |machine: &mut Machine| machine.exit_status().expect("status").is_some();
        assert!(common::wait_until(LIMIT, || machines.iter_mut().any(ended)));
        let text = || std::fs::read_to_string(&console).expect("console");
        assert!(common::wait_until(LIMIT, || text().len() >= "ready\n".len()));
        qmp.execute("quit").expect("quit");
        let mut statuses = machines
            .each_mut()
            .map(|machine| machine.wait_exit().expect("end").code());
        statuses.sort();
        assert_eq!(statuses, [Some(0), Some(2)]);
        assert_eq!(text(), "ready\n");
        assert!(!socket.exists());
    }
}
