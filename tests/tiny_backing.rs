//! Every backing of guest memory under the real binary: what the bare-metal guest gives back is
//! gone from the host, and what it takes again is there.

mod common;

use std::time::Duration;

use aerostat_tiny_guest::{BalloonDriver, Script};
use common::host::{memfd_kib, memory_field_kib, resident_kib};
use common::huge_pages::{self, HugePages};
use common::machine::Machine;
use common::setup::Setup;
use common::tiny::{DEVICE, PAGE, RINGS};
use common::wait_until;
use rustix::process::Signal;

const QUEUE_NOTIFY: u64 = 0x50;
/// Guest memory to give away: 16 MiB from 16 MiB.
const PAGES: u64 = 0x100_0000;
const FIRST_PFN: u32 = 0x1000;
const COUNT: u32 = 4096;
const MEMORY: u64 = 64 << 20;
/// Huge pages of 2 MiB in it.
const HUGE_PAGES: u64 = MEMORY >> 21;
const MIB_KIB: u64 = 1024;
const LIMIT: Duration = Duration::from_secs(30);
/// VIRTIO_BALLOON_F_MUST_TELL_HOST.
const MUST_TELL_HOST: u32 = 1;
/// VIRTIO_BALLOON_F_STATS_VQ and VIRTIO_BALLOON_F_REPORTING, and the queue for the latter.
const STATS_AND_REPORTING: u32 = 1 << 1 | 1 << 5;
const REPORTING_QUEUE: usize = 3;
/// VIRTQ_DESC_F_WRITE: reports are as if the device were to write there.
const WRITE: u16 = 2;
/// Page numbers that Linux sends at a time.
const LINUX_BUFFER: u32 = 256;

fn wait_for(machine: &mut Machine, text: &str) -> String {
    machine.console.wait_for(text, LIMIT).expect("console")
}

fn start(script: Script, mem: &str) -> Machine {
    let setup = Setup::tiny_in(script, mem).expect("guest");
    setup.start().expect("start")
}

/// Fills the memory to give away, gives it as Linux does, takes it back and fills it again.
fn inflate_and_deflate(features: u32) -> Script {
    let mut driver = BalloonDriver::new(DEVICE, RINGS).with_features(features);
    let fill = |script: Script| script.fill(PAGES, COUNT.into(), PAGE, u64::MAX);
    let script = fill(driver.init(Script::new())).puts("filled\n");
    let mut script = script.wait32(driver.num_pages(), u32::MAX, COUNT);
    for given in (0..COUNT).step_by(LINUX_BUFFER as usize) {
        let last = FIRST_PFN + COUNT - 1 - given;
        script = driver.inflate(script, last, LINUX_BUFFER, -1, given + LINUX_BUFFER);
    }
    let script = script
        .puts("inflated\n")
        .wait32(driver.num_pages(), u32::MAX, 0);
    let script = driver.deflate(script, FIRST_PFN, 2048, 2048);
    let script = driver.deflate(script, FIRST_PFN + 2048, 2048, 0);
    fill(script.collect("contents", PAGES, COUNT.into(), PAGE)).puts("touched\n")
}

/// Runs that guest and looks at the machine's memory with `kib`: it loses 16 MiB, and gets `back`
/// MiB of them again at least.
fn memory_goes_and_comes(mem: &str, features: u32, back: u64, kib: impl Fn(u32) -> u64) {
    let mut machine = start(inflate_and_deflate(features), mem);
    let mut qmp = machine.qmp().expect("connect");
    wait_for(&mut machine, "filled");
    let full = kib(machine.pid());
    qmp.balloon(MEMORY - u64::from(COUNT) * PAGE)
        .expect("balloon");
    wait_for(&mut machine, "inflated");
    // Where the guest is slow, the last half of a huge page may wait for its time.
    let released = || full.saturating_sub(kib(machine.pid()));
    let is_released = wait_until(LIMIT, || released() > 15 * MIB_KIB);
    assert!(is_released, "{mem}: {} KiB of 16 MiB", released());
    let left = kib(machine.pid());

    qmp.balloon(MEMORY).expect("balloon");
    wait_for(&mut machine, "contents ");
    assert_eq!(wait_for(&mut machine, "\n"), "0000000000000000");
    wait_for(&mut machine, "touched");
    let taken = kib(machine.pid()).saturating_sub(left);
    assert!(taken >= back * MIB_KIB, "{mem}: {taken} KiB of 16 MiB");
}

fn field(name: &'static str) -> impl Fn(u32) -> u64 {
    move |pid| memory_field_kib(pid, name).expect("smaps_rollup")
}

fn resident(pid: u32) -> u64 {
    resident_kib(pid).expect("smaps_rollup")
}

#[test]
fn anonymous_memory_goes_and_comes() {
    memory_goes_and_comes("64M,backing=anon", 0, 15, resident);
    memory_goes_and_comes("64M,thp=off,prealloc=on", 0, 15, resident);
    memory_goes_and_comes("64M,thp=on", 0, 15, resident);
}

#[test]
fn memory_of_a_memfd_goes_and_comes() {
    let kib = |pid| memfd_kib(pid).expect("files");
    memory_goes_and_comes("64M,backing=memfd", 0, 15, kib);
    memory_goes_and_comes("64M,backing=memfd,prealloc=on", 0, 15, kib);
    memory_goes_and_comes("64M,backing=memfd,thp=on", MUST_TELL_HOST, 15, kib);
    memory_goes_and_comes("64M,backing=memfd", 0, 15, resident);
}

#[test]
fn transparent_huge_pages_go_and_come_as_a_whole() {
    // What the host has split comes back in small pages first.
    memory_goes_and_comes("64M,thp=on", MUST_TELL_HOST, 2, field("AnonHugePages"));
    memory_goes_and_comes("64M,thp=on", MUST_TELL_HOST, 15, resident);
}

#[test]
fn huge_pages_of_the_pool_go_and_come() {
    let _pages = HugePages::take(HUGE_PAGES);
    let mem = "64M,backing=hugetlbfs";
    let mapped = |pid| field("Shared_Hugetlb")(pid) + field("Private_Hugetlb")(pid);
    memory_goes_and_comes(mem, MUST_TELL_HOST, 15, mapped);
    memory_goes_and_comes(mem, MUST_TELL_HOST, 15, |pid| {
        memfd_kib(pid).expect("files")
    });
}

/// Fills memory, reports it as free in blocks of 4 MiB, looks at it and fills it again; the last three
/// each when something is typed.
fn report() -> Script {
    let mut driver = BalloonDriver::new(DEVICE, RINGS)
        .with_features(STATS_AND_REPORTING)
        .with_queues(4);
    let fill = |script: Script| script.fill(PAGES, COUNT.into(), PAGE, u64::MAX);
    let script = fill(driver.init(Script::new())).puts("filled\n");
    let mut script = script.echo_serial();
    for block in 0..4 {
        let start = PAGES + (block << 22);
        script = driver.submit(script, REPORTING_QUEUE, start, 4 << 20, WRITE);
    }
    let script = script.puts("reported\n").echo_serial();
    fill(script.collect("contents", PAGES, COUNT.into(), PAGE)).puts("touched\n")
}

/// Runs that guest and looks at the machine's memory with `kib`.
fn reported_memory_goes_and_comes(mem: &str, kib: impl Fn(u32) -> u64) {
    let setup = Setup::tiny_in(report(), mem).expect("guest");
    let setup = setup.argument("--balloon", "free-page-reporting=on");
    let mut machine = setup.start().expect("start");
    wait_for(&mut machine, "filled");
    let full = kib(machine.pid());
    machine.console.send("k").expect("type");
    wait_for(&mut machine, "reported");
    let left = kib(machine.pid());
    assert!(left + 15 * MIB_KIB <= full, "{mem}: {left} of {full} KiB");

    machine.console.send("k").expect("type");
    wait_for(&mut machine, "contents ");
    assert_eq!(wait_for(&mut machine, "\n"), "0000000000000000", "{mem}");
    wait_for(&mut machine, "touched");
    let back = kib(machine.pid());
    assert!(back >= left + 15 * MIB_KIB, "{mem}: {left} to {back} KiB");
}

#[test]
fn reported_memory_of_any_backing_goes_and_comes() {
    for mem in ["64M", "64M,thp=on", "64M,thp=off,lock=on,prealloc=on"] {
        reported_memory_goes_and_comes(mem, resident);
    }
    let files = |pid| memfd_kib(pid).expect("files");
    for mem in ["64M,backing=memfd", "64M,backing=memfd,thp=on"] {
        reported_memory_goes_and_comes(mem, files);
    }
    let _pages = HugePages::take(HUGE_PAGES);
    reported_memory_goes_and_comes("64M,backing=hugetlbfs", files);
}

#[test]
fn pool_gets_huge_pages_and_keeps_them_for_a_guest_that_takes_them_back() {
    let _pages = HugePages::take(HUGE_PAGES);
    let before = huge_pages::available();
    let mut machine = start(inflate_and_deflate(MUST_TELL_HOST), "64M,backing=hugetlbfs");
    let mut qmp = machine.qmp().expect("connect");
    wait_for(&mut machine, "filled");
    assert_eq!(huge_pages::available(), before - HUGE_PAGES);
    qmp.balloon(MEMORY - u64::from(COUNT) * PAGE)
        .expect("balloon");
    wait_for(&mut machine, "inflated");
    assert_eq!(huge_pages::available(), before - HUGE_PAGES + 8);
    qmp.balloon(MEMORY).expect("balloon");
    wait_for(&mut machine, "touched");
    assert_eq!(huge_pages::available(), before - HUGE_PAGES);
}

#[test]
fn rest_of_a_huge_page_goes_when_the_guest_sends_no_more() {
    let mut driver = BalloonDriver::new(DEVICE, RINGS).with_features(MUST_TELL_HOST);
    let script = driver.init(Script::new());
    let script = script.fill(PAGES, COUNT.into(), PAGE, u64::MAX);
    let script = driver.inflate(script, FIRST_PFN, LINUX_BUFFER, 1, LINUX_BUFFER);
    let mut machine = start(script.puts("inflated\n"), "64M,thp=on");
    let mut qmp = machine.qmp().expect("connect");
    wait_for(&mut machine, "inflated");
    let mut released = || {
        let state = qmp.execute("x-query-balloon").expect("x-query-balloon");
        state["released"].as_u64().expect("a number")
    };
    let all = u64::from(LINUX_BUFFER) * PAGE;
    assert!(wait_until(LIMIT, || released() == all));
}

#[test]
fn guest_after_a_reset_finds_zeroes_in_any_memory() {
    let _pages = HugePages::take(HUGE_PAGES);
    for mem in [
        "64M,backing=memfd",
        "64M,backing=hugetlbfs",
        "64M,backing=hugetlbfs,prealloc=on",
        "64M,thp=on,prealloc=on",
        "64M,lock=on",
    ] {
        let script = Script::new()
            .collect("contents", PAGES, COUNT.into(), PAGE)
            .fill(PAGES, COUNT.into(), PAGE, 7)
            .puts("filled\n");
        let mut machine = start(script, mem);
        let mut qmp = machine.qmp().expect("connect");
        for _ in 0..2 {
            wait_for(&mut machine, "contents ");
            assert_eq!(wait_for(&mut machine, "\n"), "0000000000000000", "{mem}");
            wait_for(&mut machine, "filled");
            qmp.execute("system_reset").expect("reset");
        }
    }
}

#[test]
fn memory_that_is_taken_in_advance_is_there_before_and_after_a_reset() {
    let script = Script::new().puts("up\n");
    let mut machine = start(script, "64M,prealloc=on,lock=on");
    let mut qmp = machine.qmp().expect("connect");
    for _ in 0..2 {
        wait_for(&mut machine, "up");
        let resident = resident(machine.pid());
        let locked = field("Locked")(machine.pid());
        assert!(resident >= 64 * MIB_KIB, "{resident} KiB in RAM");
        assert!(locked >= 64 * MIB_KIB, "{locked} KiB locked");
        qmp.execute("system_reset").expect("reset");
    }
}

#[test]
fn signal_ends_a_machine_whose_memory_is_being_taken() {
    let mut machine = start(Script::new().puts("up\n"), "3G,thp=off,prealloc=on");
    let has_begun = || machine.resident_kib().is_ok_and(|kib| kib > 64 * MIB_KIB);
    while !has_begun() {
        std::thread::sleep(Duration::from_millis(1));
    }
    machine.signal(Signal::TERM).expect("signal");
    machine.wait_success().expect("end");
    assert_eq!(machine.console.log(), "");
}

#[test]
fn machine_that_is_ended_while_its_memory_is_taken_has_not_shown_what_it_should() {
    let setup = Setup::tiny_in(Script::new().puts("up\n"), "3G,thp=off,prealloc=on");
    let setup = setup.expect("guest").argument("--expect", "up");
    let mut machine = setup.start().expect("start");
    while machine.resident_kib().is_ok_and(|kib| kib <= 64 * MIB_KIB) {
        std::thread::sleep(Duration::from_millis(1));
    }
    machine.signal(Signal::TERM).expect("signal");
    let status = machine.wait_exit().expect("end");
    assert_eq!(status.code(), Some(1));
    assert!(
        machine.stderr().contains("up"),
        "what it is that was not shown"
    );
}

#[test]
fn time_of_a_machine_ends_while_its_memory_is_taken() {
    let setup = Setup::tiny_in(Script::new().puts("up\n"), "3G,thp=off,prealloc=on");
    let setup = setup.expect("guest").argument("--timeout", "20ms");
    let mut machine = setup.start().expect("start");
    let status = machine.wait_exit().expect("end");
    assert_eq!(status.code(), Some(124), "{}", machine.stderr());
    assert!(machine.stderr().contains("did not end within 20ms"));
    assert_eq!(machine.console.log(), "");
}

/// What a machine in a pool says at its end, when a guest that has `given` memory and waits for a
/// key goes on where others have taken it.
fn go_on_without_a_pool(script: Script) -> String {
    let mut machine = start(script, "64M,backing=hugetlbfs");
    wait_for(&mut machine, "given");
    huge_pages::leave(0);
    machine.console.send("k").expect("type");
    let status = machine.wait_exit().expect("end");
    let said = machine.stderr();
    assert_eq!(status.code(), Some(1), "{said}");
    said
}

#[test]
fn machine_says_so_when_the_pool_is_used_up_and_its_guest_touches_what_it_gave() {
    let _pages = HugePages::take(HUGE_PAGES);
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let script = driver.init(Script::new());
    let script = driver.inflate(script, FIRST_PFN, 512, 1, 512);
    let script = script.puts("given\n").echo_serial();
    let script = script.fill(PAGES, 1, PAGE, 1).puts("touched\n");
    let said = go_on_without_a_pool(script);
    assert!(said.contains("pool of huge pages is used up"), "{said}");
    assert!(said.contains("of the guest at 0x1000000"), "{said}");
}

#[test]
fn machine_says_so_when_the_pool_is_used_up_and_its_queues_were_there() {
    let _pages = HugePages::take(HUGE_PAGES);
    // The second queue begins with a huge page.
    let border = RINGS + (2 << 20);
    let mut driver = BalloonDriver::new(DEVICE, border - 0x3000);
    let script = driver.init(Script::new());
    // Once it has returned a buffer of the second queue, the device looks there only when notified.
    let script = driver.deflate(script, FIRST_PFN, 1, 0);
    let first = u32::try_from(border / PAGE).expect("a page number");
    let script = driver.inflate(script, first, 512, 1, 512);
    let script = script.puts("given\n").echo_serial();
    let script = script.store32(driver.register(QUEUE_NOTIFY), 1);
    let said = go_on_without_a_pool(script);
    assert!(
        said.contains("that a device needs: its pool of huge pages"),
        "{said}"
    );
}

#[test]
fn guest_that_takes_back_what_the_pool_has_given_to_others_is_warned_of() {
    let _pages = HugePages::take(HUGE_PAGES);
    let mut machine = start(inflate_and_deflate(MUST_TELL_HOST), "64M,backing=hugetlbfs");
    let mut qmp = machine.qmp().expect("connect");
    wait_for(&mut machine, "filled");
    qmp.balloon(MEMORY - u64::from(COUNT) * PAGE)
        .expect("balloon");
    wait_for(&mut machine, "inflated");
    huge_pages::leave(0);
    qmp.balloon(MEMORY).expect("balloon");
    let status = machine.wait_exit().expect("end");
    let said = machine.stderr();
    assert_eq!(status.code(), Some(1), "{said}");
    for part in ["may fail when it touches", "used up; others have taken"] {
        assert!(said.contains(part), "{said}");
    }
}
