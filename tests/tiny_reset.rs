//! Resets of a machine with the bare-metal guest: by whom, what stays, what does not, and that
//! nothing is left behind.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use aerostat_tiny_guest::{BalloonDriver, OTHERS_COUNTER, Script};
use common::machine::Machine;
use common::setup::Setup;
use common::tiny::{DEVICE, PAGE, RINGS};

const LIMIT: Duration = Duration::from_secs(30);
/// Guest memory to give away: 16 MiB from 16 MiB.
const PAGES: u64 = 0x100_0000;
const FIRST_PFN: u32 = 0x1000;
const COUNT: u32 = 4096;
const MEMORY: u64 = 64 << 20;

fn start(script: Script) -> Machine {
    Setup::tiny(script).expect("guest").start().expect("start")
}

/// A guest that says `ready` and does nothing more.
fn idle() -> Script {
    Script::new().puts("ready\n")
}

/// What a guest does, and its name.
type Way = (&'static str, fn(Script) -> Script);

/// The ways in which a guest resets its machine.
fn ways() -> [Way; 3] {
    [
        ("keyboard controller", Script::reset),
        ("ACPI", |script| script.out8(0x602, 1)),
        ("triple fault", Script::triple_fault),
    ]
}

#[test]
fn guest_that_resets_starts_over() {
    for (way, reset) in ways() {
        let script = reset(Script::new().puts("ready\n").echo_serial());
        let mut machine = start(script.puts("not reset\n"));
        let mut qmp = machine.qmp().expect("connect");
        machine.console.wait_for("ready", LIMIT).expect("guest");
        machine.console.send("k").expect("type");
        let event = qmp.wait_event("RESET", LIMIT).expect(way);
        assert_eq!(event["data"]["guest"], true);
        assert_eq!(event["data"]["reason"], "guest-reset");
        machine.console.wait_for("ready", LIMIT).expect(way);
        assert_eq!(qmp.status().expect("status"), "running");
        assert!(!machine.console.log().contains("not reset"));
    }
}

#[test]
fn reset_ends_the_machine_where_it_is_not_to_reboot() {
    let script = Script::reset(idle().echo_serial());
    let setup = Setup::tiny(script).expect("guest").flag("--no-reboot");
    let mut machine = setup.start().expect("start");
    let mut qmp = machine.qmp().expect("connect");
    machine.console.send("k").expect("type");
    let event = qmp.wait_event("SHUTDOWN", LIMIT).expect("event");
    assert_eq!(event["data"]["reason"], "guest-reset");
    machine.wait_success().expect("status 0");
}

#[test]
fn reset_over_qmp_ends_the_machine_where_it_is_not_to_reboot() {
    let setup = Setup::tiny(idle()).expect("guest").flag("--no-reboot");
    let mut machine = setup.start().expect("start");
    let mut qmp = machine.qmp().expect("connect");
    qmp.execute("system_reset").expect("answer");
    let event = qmp.wait_event("SHUTDOWN", LIMIT).expect("event");
    assert_eq!(event["data"]["reason"], "host-qmp-system-reset");
    machine.wait_success().expect("status 0");
}

#[test]
fn machine_that_neither_reboots_nor_ends_stays_shut_down_after_a_reset() {
    let setup = Setup::tiny(Script::reset(idle().echo_serial())).expect("guest");
    let setup = setup.flag("--no-reboot").flag("--no-shutdown");
    let mut machine = setup.start().expect("start");
    let mut qmp = machine.qmp().expect("connect");
    machine.console.send("k").expect("type");
    qmp.wait_for_status("shutdown", LIMIT).expect("state");
    assert_eq!(qmp.take_event_names(), ["SHUTDOWN guest-reset", "STOP"]);
}

#[test]
fn paused_machine_that_may_not_reboot_goes_on_after_a_reset_by_a_client() {
    let setup = Setup::tiny(idle()).expect("guest");
    let setup = setup.flag("--no-reboot").flag("--no-shutdown");
    let mut machine = setup.start().expect("start");
    let mut qmp = machine.qmp().expect("connect");
    machine.console.wait_for("ready", LIMIT).expect("guest");
    qmp.execute("stop").expect("stop");
    qmp.execute("system_reset").expect("answer");
    assert_eq!(qmp.status().expect("status"), "paused");
    qmp.execute("cont").expect("cont");
    assert_eq!(qmp.status().expect("status"), "running");
    let events = ["STOP", "SHUTDOWN host-qmp-system-reset", "RESUME"];
    assert_eq!(qmp.take_event_names(), events);
}

#[test]
fn balloon_keeps_target_and_actual_and_the_next_driver_finds_the_target() {
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let script = driver
        .init(Script::new())
        .print("target", driver.num_pages(), 4)
        .wait32(driver.num_pages(), u32::MAX, COUNT);
    let script = driver
        .inflate(script, FIRST_PFN, COUNT / 2, 1, COUNT / 2)
        .puts("inflated\n");
    let mut machine = start(script);
    let mut qmp = machine.qmp().expect("connect");
    qmp.balloon(MEMORY - u64::from(COUNT) * PAGE)
        .expect("balloon");
    machine.console.wait_for("inflated", LIMIT).expect("guest");
    let actual = MEMORY - u64::from(COUNT) / 2 * PAGE;
    assert_eq!(qmp.balloon_actual().expect("actual"), actual);

    qmp.execute("stop").expect("stop");
    qmp.execute("system_reset").expect("reset");
    assert_eq!(qmp.balloon_actual().expect("actual"), actual);
    qmp.execute("cont").expect("cont");

    let target = format!("target {COUNT:016x}");
    machine.console.wait_for(&target, LIMIT).expect("target");
    machine.console.wait_for("inflated", LIMIT).expect("guest");
}

#[test]
fn reset_gives_the_guests_memory_back_to_the_host() {
    let script = Script::new()
        .fill(PAGES, COUNT.into(), PAGE, 1)
        .puts("filled\n");
    let mut machine = start(script);
    let mut qmp = machine.qmp().expect("connect");
    machine.console.wait_for("filled", LIMIT).expect("guest");
    let full_kib = machine.resident_kib().expect("RSS");
    qmp.execute("stop").expect("stop");
    qmp.execute("system_reset").expect("reset");
    let left_kib = machine.resident_kib().expect("RSS");
    assert!(
        left_kib + 15 * 1024 < full_kib,
        "{full_kib} KiB before, {left_kib} after"
    );
}

/// The guest gives pages away for ever; what it meets while its machine is reset is a new life.
#[test]
fn reset_during_an_inflate_leaves_a_device_that_works() {
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let script = driver.init(Script::new()).puts("ready\n");
    let script = (0..64).fold(script, |script, _| {
        driver.inflate(script, FIRST_PFN, COUNT / 2, 1, COUNT / 2)
    });
    let mut machine = start(script.puts("done\n"));
    let mut qmp = machine.qmp().expect("connect");
    for round in 0..20u64 {
        machine.console.wait_for("ready", LIMIT).expect("guest");
        std::thread::sleep(Duration::from_millis(round % 7));
        qmp.execute("system_reset").expect("reset");
    }
    machine.console.wait_for("done", LIMIT * 4).expect("guest");
    assert_eq!(qmp.status().expect("status"), "running");
}

/// Descriptors, threads and mappings of the machine's process, by what they are.
fn resources(machine: &Machine) -> [Vec<String>; 3] {
    let process = PathBuf::from(format!("/proc/{}", machine.pid()));
    let entries = |folder: &str| {
        let entries = std::fs::read_dir(process.join(folder)).expect("proc");
        entries.map(|entry| entry.expect("entry").path())
    };
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let descriptors = entries("fd")
        .filter_map(|path| std::fs::read_link(path).ok())
        .map(|target| target.display().to_string());
    let threads = entries("task").map(|path| text(&path.join("comm")));
    let maps = text(&process.join("maps"));
    // Access, offset, device, inode and path; without the addresses.
    let mappings = maps.lines().filter_map(|line| line.split_once(' '));
    let mappings = mappings.map(|(_, rest)| rest.to_owned());
    [descriptors.collect(), threads.collect(), mappings.collect()].map(|mut names: Vec<String>| {
        names.sort();
        names
    })
}

/// The resources once the CPUs' threads have let go of the machine before the last reset, which
/// each does when it gets to it.
fn settled_resources(machine: &Machine, cpus: usize) -> [Vec<String>; 3] {
    let is_cpu = |name: &&String| name.contains("kvm-vcpu");
    let mut seen = resources(machine);
    common::wait_until(LIMIT, || {
        let before = std::mem::replace(&mut seen, resources(machine));
        seen == before && seen[0].iter().filter(is_cpu).count() == cpus
    });
    seen
}

#[test]
fn hundred_resets_leave_nothing_behind() {
    const CPUS: usize = 2;
    let script = idle().start_others();
    let setup = Setup::tiny(script).expect("guest");
    let setup = setup.argument("--cpus", CPUS.to_string());
    let mut machine = setup.start().expect("start");
    let mut qmp = machine.qmp().expect("connect");
    let mut reset = |count: usize| {
        for _ in 0..count {
            machine.console.wait_for("ready", LIMIT).expect("guest");
            qmp.execute("system_reset").expect("reset");
        }
        machine.console.wait_for("ready", LIMIT).expect("guest");
        qmp.execute("stop").expect("stop");
        let resources = settled_resources(&machine, CPUS);
        let resident_kib = machine.resident_kib().expect("RSS");
        qmp.execute("cont").expect("cont");
        machine.console.send("k").expect("type");
        qmp.execute("system_reset").expect("reset");
        (resources, resident_kib)
    };
    // What is allocated once is allocated by then.
    let (before, before_kib) = reset(10);

    let (after, after_kib) = reset(100);

    assert_eq!(after, before, "descriptors, threads, mappings");
    assert!(
        after_kib < before_kib + 512,
        "{before_kib} KiB before, {after_kib} after"
    );
}

#[test]
fn client_stays_connected_and_cpu_threads_stay_the_same() {
    let setup = Setup::tiny(idle()).expect("guest").argument("--cpus", "3");
    let machine = setup.start().expect("start");
    let mut qmp = machine.qmp().expect("connect");
    let before = qmp.execute("query-cpus-fast").expect("CPUs");
    qmp.execute("system_reset").expect("reset");
    let after = qmp.execute("query-cpus-fast").expect("CPUs");
    assert_eq!(before, after);
    for (index, cpu) in after.as_array().expect("list").iter().enumerate() {
        let path = format!("/proc/{}/task/{}/comm", machine.pid(), cpu["thread-id"]);
        let name = std::fs::read_to_string(path).expect("thread");
        assert_eq!(name.trim(), format!("vcpu{index}"));
        assert_eq!(cpu["cpu-index"], index);
    }
}

#[test]
fn machine_is_stopped_and_run_a_thousand_times_under_load() {
    let counting = 0x1000;
    let script = Script::new().start_others();
    let again = script.here();
    let script = script
        .wait32(OTHERS_COUNTER, counting, 0)
        .wait32(OTHERS_COUNTER, counting, counting)
        .puts(".")
        .jump(again);
    let setup = Setup::tiny(script).expect("guest").argument("--cpus", "4");
    let mut machine = setup.start().expect("start");
    let mut qmp = machine.qmp().expect("connect");
    machine.console.wait_for(".", LIMIT).expect("guest");
    for _ in 0..1000 {
        qmp.execute("stop").expect("stop");
        qmp.execute("cont").expect("cont");
    }
    let before = machine.console.log().len();
    machine.console.wait_for(".", LIMIT).expect("guest");
    let names = qmp.take_event_names();
    assert_eq!(names.len(), 2000);
    assert!(names.chunks(2).all(|pair| pair == ["STOP", "RESUME"]));
    assert!(machine.console.log().len() >= before);
}

/// What the host knows of the thread of a CPU (proc(5), `stat`).
struct ThreadStat {
    is_asleep: bool,
    /// Time on a CPU, in ticks of the clock.
    ticks: u64,
}

fn vcpu_stats(machine: &Machine, cpus: &serde_json::Value) -> Vec<ThreadStat> {
    let stat = |cpu: &serde_json::Value| {
        let path = format!("/proc/{}/task/{}/stat", machine.pid(), cpu["thread-id"]);
        let text = std::fs::read_to_string(path).expect("stat");
        let (_, fields) = text.rsplit_once(')').expect("name");
        let fields: Vec<_> = fields.split_whitespace().collect();
        let number = |field: &&str| field.parse::<u64>().expect("number");
        ThreadStat {
            is_asleep: fields[0] == "S",
            ticks: fields[11..13].iter().map(number).sum(),
        }
    };
    cpus.as_array().expect("list").iter().map(stat).collect()
}

#[test]
fn nothing_of_any_cpu_runs_while_stopped() {
    let script = Script::new().start_others().puts("ready\n");
    let again = script.here();
    let setup = Setup::tiny(script.jump(again)).expect("guest");
    let mut machine = setup.argument("--cpus", "4").start().expect("start");
    let mut qmp = machine.qmp().expect("connect");
    machine.console.wait_for("ready", LIMIT).expect("guest");
    let cpus = qmp.execute("query-cpus-fast").expect("CPUs");
    qmp.execute("stop").expect("stop");
    // A thread that has left its guest is still on its way to where it waits.
    let asleep = || {
        vcpu_stats(&machine, &cpus)
            .iter()
            .all(|stat| stat.is_asleep)
    };
    assert!(common::wait_until(LIMIT, asleep));
    let ticks = || {
        vcpu_stats(&machine, &cpus)
            .into_iter()
            .map(|stat| stat.ticks)
    };
    let before: Vec<_> = ticks().collect();
    std::thread::sleep(Duration::from_millis(300));
    assert!(ticks().eq(before.iter().copied()));
    qmp.execute("cont").expect("cont");
    let all_run = || ticks().zip(&before).all(|(after, before)| after > *before);
    assert!(common::wait_until(LIMIT, all_run), "{before:?}");
}
