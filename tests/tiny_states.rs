//! The life of a machine with the bare-metal guest: every run state, how it is entered, left,
//! reset and ended, and what clients are told of it.

mod common;

use std::time::Duration;

use aerostat_tiny_guest::Script;
use common::machine::Machine;
use common::qmp::Client;
use common::setup::Setup;
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(30);
/// An address without memory or device: no instruction can be fetched there.
const NOWHERE: u64 = 0xd100_0000;

/// A machine that says `ready` and then waits for a key before it does what `script` says.
fn after_a_key(act: impl FnOnce(Script) -> Script) -> Setup {
    let script = Script::new().puts("ready\n").echo_serial();
    Setup::tiny(act(script)).expect("guest")
}

/// Starts it, waits until it is ready, connects, and types the key.
fn start_and_type(setup: Setup) -> (Machine, Client) {
    let mut machine = setup.start().expect("start");
    machine.console.wait_for("ready", LIMIT).expect("guest");
    let qmp = machine.qmp().expect("connect");
    machine.console.send("k").expect("type");
    (machine, qmp)
}

/// A machine in this run state, with a client.
fn machine_in(state: &str) -> (Machine, Client) {
    let idle = after_a_key(|script| script);
    let (machine, mut qmp) = match state {
        "prelaunch" => {
            let machine = idle.flag("--paused").start().expect("start");
            let qmp = machine.qmp().expect("connect");
            (machine, qmp)
        }
        "running" => start_and_type(idle),
        "paused" => {
            let (machine, mut qmp) = start_and_type(idle);
            qmp.execute("stop").expect("stop");
            (machine, qmp)
        }
        "shutdown" => start_and_type(after_a_key(Script::power_off).flag("--no-shutdown")),
        "guest-panicked" => {
            start_and_type(after_a_key(Script::panic).argument("--on-panic", "pause"))
        }
        "internal-error" => {
            let setup = after_a_key(|script| script.execute(NOWHERE));
            start_and_type(setup.argument("--on-error", "pause"))
        }
        other => panic!("there is no run state {other}"),
    };
    qmp.wait_for_status(state, LIMIT).expect(state);
    qmp.take_events();
    (machine, qmp)
}

const STATES: [&str; 6] = [
    "prelaunch",
    "running",
    "paused",
    "shutdown",
    "guest-panicked",
    "internal-error",
];

#[test]
fn quit_ends_the_process_with_0_in_every_state() {
    for state in STATES {
        let (mut machine, mut qmp) = machine_in(state);
        qmp.execute("quit").expect("answer");
        qmp.wait_event("SHUTDOWN", LIMIT).expect("event");
        machine.wait_success().expect(state);
        assert!(!machine.socket().exists(), "the socket is left behind");
    }
}

#[test]
fn sigterm_ends_the_process_with_0_in_every_state() {
    for state in STATES {
        let (mut machine, mut qmp) = machine_in(state);
        machine.signal(Signal::TERM).expect("signal");
        let event = qmp.wait_event("SHUTDOWN", LIMIT).expect("event");
        assert_eq!(event["data"]["reason"], "host-signal");
        machine.wait_success().expect(state);
    }
}

#[test]
fn reset_starts_the_guest_over_in_every_state() {
    for state in STATES {
        let (mut machine, mut qmp) = machine_in(state);
        qmp.execute("system_reset").expect("answer");
        let expected = if state == "running" {
            "running"
        } else {
            "prelaunch"
        };
        assert_eq!(qmp.status().expect("status"), expected, "after {state}");
        let events = qmp.take_event_names();
        assert_eq!(events, ["RESET host-qmp-system-reset"], "after {state}");
        qmp.execute("cont").expect("cont");
        machine.console.wait_for("ready", LIMIT).expect(state);
        assert_eq!(qmp.status().expect("status"), "running");
    }
}

#[test]
fn stop_changes_nothing_unless_the_machine_runs() {
    for state in STATES {
        let (_machine, mut qmp) = machine_in(state);
        qmp.execute("stop").expect("answer");
        let expected = if state == "running" { "paused" } else { state };
        assert_eq!(qmp.status().expect("status"), expected);
        let announced = qmp.take_event_names() == ["STOP"];
        assert_eq!(announced, state == "running");
    }
}

#[test]
fn cont_is_refused_where_only_a_reset_helps() {
    for state in ["shutdown", "internal-error"] {
        let (_machine, mut qmp) = machine_in(state);
        let refusal = qmp.execute("cont").expect_err(state).to_string();
        assert!(
            refusal.contains("Resetting the Virtual Machine is required"),
            "{refusal}"
        );
        assert_eq!(qmp.status().expect("status"), state);
    }
}

#[test]
fn cont_lets_a_panicked_guest_go_on() {
    let setup = after_a_key(|script| script.panic().puts("still here\n"));
    let (mut machine, mut qmp) = start_and_type(setup.argument("--on-panic", "pause"));
    qmp.wait_for_status("guest-panicked", LIMIT).expect("panic");
    let events = qmp.take_event_names();
    assert_eq!(events, ["GUEST_PANICKED pause", "STOP"]);
    qmp.execute("cont").expect("cont");
    machine
        .console
        .wait_for("still here", LIMIT)
        .expect("guest");
}

#[test]
fn power_off_is_the_last_and_only_thing_that_is_announced() {
    let (mut machine, mut qmp) = start_and_type(after_a_key(Script::power_off));
    let event = qmp.wait_event("SHUTDOWN", LIMIT).expect("event");
    assert_eq!(event["data"]["reason"], "guest-shutdown");
    assert_eq!(qmp.take_event_names(), [""; 0]);
    machine.wait_success().expect("status 0");
}

#[test]
fn machine_that_stays_after_power_off_says_so() {
    let setup = after_a_key(Script::power_off).flag("--no-shutdown");
    let (_machine, mut qmp) = start_and_type(setup);
    qmp.wait_for_status("shutdown", LIMIT).expect("power-off");
    assert_eq!(qmp.take_event_names(), ["SHUTDOWN guest-shutdown", "STOP"]);
}

#[test]
fn panic_ends_the_process_with_1() {
    let (mut machine, mut qmp) = start_and_type(after_a_key(Script::panic));
    qmp.wait_event("SHUTDOWN", LIMIT).expect("event");
    assert_eq!(machine.wait_exit().expect("end").code(), Some(1));
    let stderr = machine.stderr();
    assert!(stderr.contains("panicked"), "{stderr}");
}

#[test]
fn panic_is_announced_before_the_end_it_leads_to() {
    let (mut machine, mut qmp) = start_and_type(after_a_key(Script::panic));
    let panicked = qmp.wait_event("GUEST_PANICKED", LIMIT).expect("event");
    let shutdown = qmp.wait_event("SHUTDOWN", LIMIT).expect("event");
    assert_eq!(panicked["data"]["action"], "poweroff");
    assert_eq!(shutdown["data"]["reason"], "guest-panic");
    assert_eq!(shutdown["data"]["guest"], true);
    machine.wait_exit().expect("end");
}

#[test]
fn panic_that_is_to_reset_the_machine_does() {
    let setup = after_a_key(Script::panic).argument("--on-panic", "reset");
    let (mut machine, mut qmp) = start_and_type(setup);
    let reset = qmp.wait_event("RESET", LIMIT).expect("event");
    assert_eq!(reset["data"]["reason"], "guest-panic");
    assert_eq!(qmp.take_event_names(), ["GUEST_PANICKED run"]);
    machine.console.wait_for("ready", LIMIT).expect("guest");
}

#[test]
fn crash_kernel_that_takes_over_is_announced_and_nothing_more() {
    let setup = after_a_key(|script| script.out8(0x505, 2).puts("dumping\n"));
    let (mut machine, mut qmp) = start_and_type(setup);
    let event = qmp.wait_event("GUEST_CRASHLOADED", LIMIT).expect("event");
    assert_eq!(event["data"]["action"], "run");
    machine.console.wait_for("dumping", LIMIT).expect("guest");
    assert_eq!(qmp.status().expect("status"), "running");
}

#[test]
fn failure_of_kvm_ends_the_process_with_1_and_the_registers() {
    let setup = after_a_key(|script| script.execute(NOWHERE));
    let (mut machine, mut qmp) = start_and_type(setup);
    let event = qmp.wait_event("SHUTDOWN", LIMIT).expect("event");
    assert_eq!(event["data"]["reason"], "host-error");
    assert_eq!(machine.wait_exit().expect("end").code(), Some(1));
    let stderr = machine.stderr();
    assert!(stderr.contains("rip 00000000d1000000"), "{stderr}");
}

#[test]
fn failure_of_kvm_can_be_looked_at_when_the_machine_stays() {
    let (machine, mut qmp) = machine_in("internal-error");
    qmp.execute("query-cpus-fast").expect("CPUs");
    assert_eq!(qmp.balloon_actual().expect("balloon"), 64 << 20);
    let stderr = machine.stderr();
    assert!(stderr.contains("rip 00000000d1000000"), "{stderr}");
}

#[test]
fn debug_exit_port_makes_the_exit_status() {
    let setup = after_a_key(|script| script.out8(0xf4, 0x10)).flag("--debug-exit");
    let (mut machine, mut qmp) = start_and_type(setup);
    let event = qmp.wait_event("SHUTDOWN", LIMIT).expect("event");
    assert_eq!(event["data"]["reason"], "guest-shutdown");
    assert_eq!(machine.wait_exit().expect("end").code(), Some(0x21));
}

#[test]
fn debug_exit_port_is_not_there_unless_asked_for() {
    let setup = after_a_key(|script| script.out8(0xf4, 0x10).puts("still here\n"));
    let (mut machine, _qmp) = start_and_type(setup);
    machine
        .console
        .wait_for("still here", LIMIT)
        .expect("guest");
}

#[test]
fn boot_timer_tells_the_guests_code_and_the_phases_of_its_boot() {
    let setup = after_a_key(|script| script.out8(0xf8, 7).puts("told\n")).flag("--boot-timer");
    let (mut machine, _qmp) = start_and_type(setup);
    machine.console.wait_for("told", LIMIT).expect("guest");
    let stderr = machine.stderr();
    let phases = [
        "machine built",
        "kernel loaded",
        "guest entered",
        "first output",
        "CPU",
    ];
    assert!(stderr.contains("Boot timer: 7 at "), "{stderr}");
    assert!(
        phases.iter().all(|phase| stderr.contains(phase)),
        "{stderr}"
    );
}

#[test]
fn boot_timer_is_not_there_unless_asked_for() {
    let setup = after_a_key(|script| script.out8(0xf8, 7).puts("told\n"));
    let (mut machine, _qmp) = start_and_type(setup);
    machine.console.wait_for("told", LIMIT).expect("guest");
    assert_eq!(machine.stderr(), "");
}

#[test]
fn power_button_is_announced_each_time_and_in_every_state() {
    for state in STATES {
        let (_machine, mut qmp) = machine_in(state);
        qmp.execute("system_powerdown").expect("answer");
        qmp.execute("system_powerdown").expect("answer");
        assert_eq!(qmp.take_event_names(), ["POWERDOWN", "POWERDOWN"]);
        assert_eq!(qmp.status().expect("status"), state);
    }
}

#[test]
fn sigterm_that_is_to_press_the_button_does_so_while_the_guest_runs() {
    let setup = after_a_key(|script| script).argument("--on-term", "powerdown");
    let (mut machine, mut qmp) = start_and_type(setup);
    machine.signal(Signal::TERM).expect("signal");
    qmp.wait_event("POWERDOWN", LIMIT).expect("event");
    assert_eq!(qmp.status().expect("status"), "running");
    qmp.execute("stop").expect("stop");
    machine.signal(Signal::TERM).expect("signal");
    qmp.wait_event("SHUTDOWN", LIMIT).expect("event");
    machine.wait_success().expect("status 0");
}

#[test]
fn signals_during_start_up_end_the_process_in_order_or_before_it_began() {
    for step_us in 0..40 {
        let mut machine = after_a_key(|script| script).start().expect("start");
        std::thread::sleep(Duration::from_micros(100 * step_us));
        machine.signal(Signal::TERM).expect("signal");
        let status = machine.wait_exit().expect("end");
        // Before the process takes its signals in hand, the system ends it.
        let killed = std::os::unix::process::ExitStatusExt::signal(&status);
        assert!(status.success() || killed == Some(15), "{status}");
        assert!(!machine.socket().exists(), "the socket is left behind");
    }
}
