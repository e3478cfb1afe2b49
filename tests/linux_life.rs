//! The life of a machine with a stock Linux: several CPUs, pauses, resets, the power button, a
//! panic, and the clock over all of them.
//!
//! Each test boots a guest of its own.

mod common;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::machine::Machine;
use common::qmp::Client;
use common::scaled;
use common::setup::Setup;

const MIB: u64 = 1 << 20;
/// Time for what the guest does at once.
const SHORT: Duration = Duration::from_secs(10);
/// Time for a reset guest to be at its shell again, or to power off in order.
const BOOT: Duration = Duration::from_secs(20);
/// What a watchdog or a scheduler of the guest says of a CPU that hung.
const COMPLAINTS: &str = "lockup|stall|hung|blocked for|clocksource.*(skew|unstable)";

/// A guest at its shell, with a QMP client.
fn booted(setup: Setup) -> (Machine, Client) {
    let mut machine = setup.start().expect("start");
    machine.wait_for_shell().expect("boot");
    let qmp = machine.qmp().expect("QMP");
    (machine, qmp)
}

fn linux(mem: &str, cpus: &str) -> Setup {
    Setup::linux(mem)
        .expect("guest files")
        .argument("--cpus", cpus)
}

fn run(machine: &mut Machine, command: &str) -> String {
    machine.console.run(command).expect(command)
}

/// Seconds that the guest has been up.
fn uptime(machine: &mut Machine) -> f64 {
    let text = run(machine, "cat /proc/uptime");
    let seconds = text.split_whitespace().next();
    seconds.and_then(|text| text.parse().ok()).expect("uptime")
}

/// What the kernel says at level "warning" or above that matches.
fn warnings(machine: &mut Machine, pattern: &str) -> String {
    let command = format!("dmesg -r | grep '^<[0-4]>' | grep -iE '{pattern}' || true");
    run(machine, &command)
}

#[test]
fn guest_with_4_cpus_brings_all_up_without_a_warning_and_can_do_without_one() {
    let (mut machine, mut qmp) = booted(linux("512M", "4"));

    let cpus = run(&mut machine, "nproc");
    let cores = run(&mut machine, "grep -c 'cpu cores.*: 4$' /proc/cpuinfo");
    // What the guest says of floating-point state is a matter of its CPU, not of their number.
    let pattern = "smpboot|cpu ?[0-9]+ |mtrr|tsc|topology|apic|madt|firmware";
    let complaints = warnings(&mut machine, pattern);
    let clock = run(
        &mut machine,
        "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
    );
    let offline = "echo 0 >/sys/devices/system/cpu/cpu3/online; nproc";
    let online = "echo 1 >/sys/devices/system/cpu/cpu3/online; nproc";
    let (three, four) = (run(&mut machine, offline), run(&mut machine, online));

    assert_eq!((cpus.as_str(), cores.as_str()), ("4", "4"));
    let complaints: Vec<_> = complaints
        .lines()
        .filter(|line| !line.contains("Comm: swapper") && !line.contains("WARNING: CPU"))
        .collect();
    assert_eq!(complaints, [""; 0]);
    assert_eq!(clock, "kvm-clock");
    assert_eq!((three.as_str(), four.as_str()), ("3", "4"));
    let listed = qmp.execute("query-cpus-fast").expect("CPUs");
    assert_eq!(listed.as_array().map(Vec::len), Some(4));
}

/// Until it has a clock source, Linux counts ticks, and loses those of its first moments: tens of
/// milliseconds on hardware, seconds where it is emulated.
fn assert_clock_is_right(machine: &mut Machine) {
    let slack = scaled(Duration::from_secs(2)).as_secs();
    let before = now();
    let guest: u64 = run(machine, "date +%s").parse().expect("seconds");
    let after = now();
    assert!(
        (before - slack..=after + 2).contains(&guest),
        "{guest} is not between {before} and {after}"
    );
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("a clock past 1970").as_secs()
}

#[test]
fn guest_that_was_stopped_for_a_minute_complains_of_nothing() {
    let (mut machine, mut qmp) = booted(linux("256M", "2"));
    let begun = Instant::now();
    let before = uptime(&mut machine);

    qmp.execute("stop").expect("stop");
    let stopped = Instant::now();
    std::thread::sleep(Duration::from_secs(60));
    let paused = stopped.elapsed().as_secs_f64();
    qmp.execute("cont").expect("cont");
    // Longer than the watchdogs' periods.
    machine.console.run_for("sleep 6", SHORT).expect("sleep");

    let passed = uptime(&mut machine) - before;
    let ran = begun.elapsed().as_secs_f64() - paused;
    // Its clock has stood still.
    assert!(
        passed < ran + 5.0,
        "{passed} s passed in the guest, which ran for {ran} s"
    );
    assert_eq!(warnings(&mut machine, COMPLAINTS), "");
}

#[test]
fn guest_under_load_is_stopped_and_run_many_times() {
    let (mut machine, mut qmp) = booted(linux("256M", "4"));
    run(
        &mut machine,
        "for i in 1 2 3 4; do (while :; do :; done) & done",
    );
    for _ in 0..100 {
        qmp.execute("stop").expect("stop");
        qmp.execute("cont").expect("cont");
    }
    run(&mut machine, "kill $(jobs -p)");
    assert_eq!(qmp.status().expect("status"), "running");
    assert_eq!(warnings(&mut machine, COMPLAINTS), "");
}

#[test]
fn guest_that_reboots_comes_up_again_and_gives_the_target_again() {
    let target = 192 * MIB;
    let (mut machine, mut qmp) = booted(linux("256M", "2"));
    qmp.balloon(target).expect("balloon");
    qmp.wait_for_actual(target, BOOT).expect("inflate");
    let inflated = machine.guest_meminfo_kib("MemTotal").expect("MemTotal");

    machine.console.send("reboot -f\n").expect("type");
    let reset = qmp.wait_event("RESET", BOOT).expect("event");
    let kept = qmp.balloon_actual().expect("actual");
    machine.wait_for_shell().expect("second boot");

    assert_eq!(reset["data"]["reason"], "guest-reset");
    assert_eq!(kept, target);
    assert_eq!(run(&mut machine, "nproc"), "2");
    wait_for_total(&mut machine, inflated);
}

/// Waits until the guest has given so much away that this is left.
fn wait_for_total(machine: &mut Machine, total_kib: u64) {
    let command = format!(
        "i=0; while [ $i -lt 60 ] && ! grep -q 'MemTotal: *{total_kib} kB' /proc/meminfo; do \
         usleep 200000; i=$((i+1)); done; [ $i -lt 60 ]"
    );
    let waited = machine.console.run_for(&command, BOOT);
    waited.expect("the driver finds the target again");
}

#[test]
fn clock_is_right_at_boot_and_after_a_reset() {
    let (mut machine, mut qmp) = booted(linux("256M", "1"));
    assert_clock_is_right(&mut machine);
    qmp.execute("system_reset").expect("reset");
    machine.wait_for_shell().expect("second boot");
    assert_clock_is_right(&mut machine);
    let names = qmp.take_event_names();
    assert_eq!(names, ["RESET host-qmp-system-reset"]);
}

#[test]
fn power_button_powers_the_guest_off_in_order() {
    let (mut machine, mut qmp) = booted(linux("256M", "2"));
    qmp.execute("system_powerdown").expect("button");
    let shutdown = qmp.wait_event("SHUTDOWN", BOOT).expect("event");
    assert_eq!(shutdown["data"]["reason"], "guest-shutdown");
    machine.wait_success().expect("status 0");
}

#[test]
fn panic_ends_the_process_with_1_and_the_last_lines() {
    let (mut machine, mut qmp) = booted(linux("256M", "1"));
    let crash = "echo c >/proc/sysrq-trigger\n";
    machine.console.send(crash).expect("type");
    let panicked = qmp.wait_event("GUEST_PANICKED", BOOT).expect("event");
    let status = machine.wait_exit().expect("end");
    let stderr = machine.stderr();
    assert_eq!(panicked["data"]["action"], "poweroff");
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("The guest panicked"), "{stderr}");
    assert!(stderr.contains("  | ["), "{stderr}");
}
