//! An unmodified distribution kernel boots, sees what it was given, and ends as it was told.
//!
//! Each test boots a guest of its own. The guest is the stock Debian cloud kernel with the init of
//! `resources/linux/guest-init`.

mod common;

use std::time::Duration;

use common::machine::Machine;
use common::setup::Setup;

/// Command line without `--cmdline`.
const DEFAULT_CMDLINE: &str = "console=ttyS0 panic=-1";
/// Time for what the guest does at once.
const SHORT: Duration = Duration::from_secs(10);

/// What the kernel keeps for itself before it counts, however much memory there is: text, data and
/// early tables, some 35 MiB of this kernel.
const KERNEL_KIB: u64 = 48 << 10;
/// What it keeps besides where memory reaches past 4 GiB: bounce buffers (swiotlb) of 64 MiB for
/// devices that cannot.
const BOUNCE_KIB: u64 = 64 << 10;

/// A guest with this much memory at its shell.
fn booted(mem: &str) -> Machine {
    let setup = Setup::linux(mem).expect("guest files");
    let mut machine = setup.start().expect("start");
    machine.wait_for_shell().expect("boot");
    machine
}

/// Asserts that a guest with `mem` sees all of it but `kept_kib` and what `struct page` takes: 64
/// bytes for each page of 4 KiB, which is 1.6 %.
fn assert_guest_sees(mem: &str, mem_kib: u64, kept_kib: u64) {
    let mut machine = booted(mem);

    let total = machine.guest_meminfo_kib("MemTotal").expect("MemTotal");

    let least = mem_kib - mem_kib * 16 / 1000 - kept_kib;
    assert!(
        (least..mem_kib).contains(&total),
        "MemTotal {total} kB of {mem_kib} kB"
    );
}

#[test]
fn guest_with_128_mib_sees_128_mib() {
    assert_guest_sees("128M", 128 << 10, KERNEL_KIB);
}

#[test]
fn guest_with_2_gib_sees_2_gib() {
    assert_guest_sees("2G", 2 << 20, KERNEL_KIB);
}

#[test]
fn guest_with_memory_on_both_sides_of_the_hole_sees_all_of_it() {
    assert_guest_sees("3584M", 3584 << 10, KERNEL_KIB + BOUNCE_KIB);
}

#[test]
fn guest_with_8_gib_sees_8_gib() {
    assert_guest_sees("8G", 8 << 20, KERNEL_KIB + BOUNCE_KIB);
}

#[test]
fn bzimage_boots_with_initrd_and_default_command_line() {
    let setup = Setup::linux_by_default("256M").expect("guest files");
    let mut machine = setup.start().expect("start");
    machine.wait_for_shell().expect("boot");

    let cmdline = machine
        .console
        .run("cat /proc/cmdline")
        .expect("command line");
    let modules = machine
        .console
        .run("cat /lib/modules/order")
        .expect("file of the initrd");

    assert_eq!(cmdline, DEFAULT_CMDLINE);
    assert!(modules.contains("virtio_balloon.ko"), "{modules}");
}

#[test]
fn elf_kernel_boots_through_pvh_with_command_line_of_its_own() {
    let cmdline = "console=ttyS0 panic=-1 aerostat.test=\"two words\"";
    let setup = Setup::linux_elf("256M")
        .expect("guest files")
        .cmdline(cmdline);
    let mut machine = setup.start().expect("start");
    machine.wait_for_shell().expect("boot");

    let arrived = machine
        .console
        .run("cat /proc/cmdline")
        .expect("command line");
    let loader = machine
        .console
        .run("od -An -tx1 -j 528 -N 1 /sys/kernel/boot_params/data");

    assert_eq!(arrived, cmdline);
    // `type_of_loader` is at 0x210 of the boot parameters. Linux's PVH entry makes these up itself
    // and takes number 0xb there for any hypervisor but Xen; a boot loader writes its own.
    assert_eq!(loader.expect("boot parameters").trim(), "b0");
}

#[test]
fn typed_input_reaches_the_guests_shell_and_its_output_comes_back_whole() {
    let mut machine = booted("256M");
    let numbers: Vec<String> = (1..=2000).map(|number: u32| number.to_string()).collect();

    let output = machine
        .console
        .run_for("seq 1 2000", SHORT * 3)
        .expect("seq");

    assert_eq!(output, numbers.join("\n"));
}

#[test]
fn guest_power_off_ends_the_process_with_0() {
    let mut machine = booted("256M");
    let mut qmp = machine.qmp().expect("QMP");

    machine.console.send("poweroff -f\n").expect("type");

    let shutdown = qmp.wait_event("SHUTDOWN", SHORT).expect("SHUTDOWN event");
    machine.wait_success().expect("exit status 0");
    assert_eq!(shutdown["data"]["guest"], true);
    assert_eq!(shutdown["data"]["reason"], "guest-shutdown");
}

#[test]
fn stopped_guest_makes_no_progress_and_carries_on_after_cont() {
    let mut machine = booted("256M");
    let mut qmp = machine.qmp().expect("QMP");
    let ticker = "i=0; while :; do i=$((i+1)); echo tick $i; usleep 50000; done\n";
    machine.console.send(ticker).expect("type");
    machine
        .console
        .wait_for("tick 3\r\n", SHORT)
        .expect("ticks before");

    qmp.execute("stop").expect("stop");
    let stopped = qmp.status().expect("status");
    // What the guest had already sent arrives.
    let mut log_stopped = machine.console.log();
    let is_silent = || {
        std::thread::sleep(SHORT / 10);
        let before = std::mem::replace(&mut log_stopped, machine.console.log());
        before == log_stopped
    };
    assert!(common::wait_until(SHORT, is_silent));
    std::thread::sleep(SHORT / 5);
    let log_later = machine.console.log();
    qmp.execute("cont").expect("cont");
    let running = qmp.status().expect("status");
    let ticks = log_stopped.matches("\ntick ").count();
    let after = machine
        .console
        .wait_for(&format!("\ntick {}\r\n", ticks + 3), SHORT);

    assert_eq!((stopped.as_str(), running.as_str()), ("paused", "running"));
    assert_eq!(log_stopped, log_later);
    after.expect("ticks after cont");
    qmp.wait_event("STOP", SHORT).expect("STOP event");
    qmp.wait_event("RESUME", SHORT).expect("RESUME event");
}
