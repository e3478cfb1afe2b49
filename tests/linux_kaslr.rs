//! A stock kernel that the VMM unpacks and moves: where it is, boot after boot, and that what changes
//! the kernel's text while it runs works on it.
//!
//! Each test boots a guest of its own.

mod common;

use std::collections::BTreeSet;

use common::machine::Machine;
use common::setup::Setup;

/// Boots whose places are compared.
const BOOTS: usize = 20;
/// With some 490 virtual places and 90 physical ones, fewer different ones among so many boots come
/// about once in 10^7 times.
const DIFFERENT: usize = 11;

/// Where the kernel is linked to be, virtually and physically, and what these are multiples of.
const LINKED: u64 = 0xffff_ffff_8100_0000;
const LINKED_PHYSICAL: u64 = 0x100_0000;
const ALIGNMENT: u64 = 2 << 20;
/// The end of the GiB that is the kernel's.
const LAST: u64 = 0xffff_ffff_c000_0000;
/// Where all memory is mapped unless that is moved too.
const DIRECT_MAP: u64 = 0xffff_8880_0000_0000;

/// Where a kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    text: u64,
    physical: u64,
    direct_map: u64,
}

fn booted(setup: Setup) -> Machine {
    let mut machine = setup.start().expect("start");
    machine.wait_for_shell().expect("boot");
    machine
}

fn run(machine: &mut Machine, command: &str) -> String {
    machine.console.run(command).expect(command)
}

fn hexadecimal(text: &str) -> u64 {
    u64::from_str_radix(text.trim(), 16).unwrap_or_else(|_| panic!("{text:?} is no address"))
}

/// What the guest says of the place of its kernel.
fn place(machine: &mut Machine) -> Place {
    let text = "grep -m 1 ' _text$' /proc/kallsyms | cut -d' ' -f1";
    let physical = "grep -m 1 'Kernel code' /proc/iomem | cut -d- -f1";
    // Program headers: the direct map's addresses are the lowest of the kernel's.
    let direct_map =
        "od -A n -v -t x8 -w8 -N 1024 /proc/kcore | grep '^ ffff[89a-f]' | sort | head -n 1";
    Place {
        text: hexadecimal(&run(machine, text)),
        physical: hexadecimal(&run(machine, physical)),
        direct_map: hexadecimal(&run(machine, direct_map)) & !((1 << 30) - 1),
    }
}

fn distinct(places: &[Place], part: fn(&Place) -> u64) -> usize {
    places.iter().map(part).collect::<BTreeSet<_>>().len()
}

#[test]
fn kernel_is_elsewhere_after_each_boot() {
    let mut machine = booted(Setup::linux("256M").expect("guest files"));
    let mut qmp = machine.qmp().expect("QMP");
    let mut places = vec![place(&mut machine)];

    while places.len() < BOOTS {
        qmp.execute("system_reset").expect("reset");
        machine.wait_for_shell().expect("boot");
        places.push(place(&mut machine));
    }

    let is_right = |place: &Place| {
        (LINKED..LAST).contains(&place.text)
            && place.text.is_multiple_of(ALIGNMENT)
            && place.physical >= LINKED_PHYSICAL
            && place.physical.is_multiple_of(ALIGNMENT)
    };
    assert!(places.iter().all(is_right), "{places:x?}");
    assert!(
        distinct(&places, |place| place.text) >= DIFFERENT,
        "{places:x?}"
    );
    assert!(
        distinct(&places, |place| place.physical) >= DIFFERENT,
        "{places:x?}"
    );
    // Of the kernel's own choice, which it makes where it was told that it was moved.
    assert!(
        distinct(&places, |place| place.direct_map) >= DIFFERENT,
        "{places:x?}"
    );
}

#[test]
fn kernel_above_4_gib_boots() {
    // Half of the places are there: so many boots miss them once in a million times.
    let mut machine = booted(Setup::linux("6G").expect("guest files"));
    let mut qmp = machine.qmp().expect("QMP");
    let mut places = vec![place(&mut machine)];

    while places.last().is_some_and(|place| place.physical < 4 << 30) && places.len() < BOOTS {
        qmp.execute("system_reset").expect("reset");
        machine.wait_for_shell().expect("boot");
        places.push(place(&mut machine));
    }

    assert!(
        places.iter().any(|place| place.physical >= 4 << 30),
        "{places:x?}"
    );
}

#[test]
fn kernel_is_where_it_was_linked_to_be_with_nokaslr() {
    let setup = Setup::linux("256M").expect("guest files");
    let mut machine = booted(setup.argument("--cmdline", "console=ttyS0 panic=-1 nokaslr"));

    let found = place(&mut machine);

    let expected = Place {
        text: LINKED,
        physical: LINKED_PHYSICAL,
        direct_map: DIRECT_MAP,
    };
    assert_eq!(found, expected);
}

#[test]
fn kernel_that_the_guest_unpacks_is_moved_by_the_guest() {
    let setup = Setup::linux("256M").expect("guest files");
    let mut machine = booted(setup.argument("--boot", "guest-decompress"));

    let found = place(&mut machine);

    assert_ne!((found.text, found.physical), (LINKED, LINKED_PHYSICAL));
}

#[test]
fn moved_kernel_loads_modules_is_traced_and_probed_and_does_without_a_cpu() {
    let setup = Setup::linux("512M").expect("guest files");
    let mut machine = booted(setup.argument("--cpus", "2"));
    let machine = &mut machine;
    run(
        machine,
        "mount -t tracefs tracing /sys/kernel/tracing; cd /sys/kernel/tracing",
    );

    let modules = run(machine, "grep -c Live /proc/modules");
    let traced = "echo function >current_tracer; sleep 1; echo nop >current_tracer; echo $?";
    let traced = run(machine, traced);
    let probed = "echo 'p:opened do_sys_openat2' >kprobe_events; echo 1 >events/kprobes/opened/enable; \
                  cat /proc/version >/dev/null; echo 0 >events/kprobes/opened/enable; \
                  grep -c 'opened: (do_sys_openat2' trace";
    let probed = run(machine, probed);
    let processor = "/sys/devices/system/cpu/cpu1/online";
    let toggled = format!("echo 0 >{processor}; nproc; echo 1 >{processor}; nproc");
    let toggled = run(machine, &toggled);
    let warnings = run(
        machine,
        "dmesg | grep -E 'BUG|Oops|ftrace.*fail|WARNING.*ftrace' || true",
    );

    assert_ne!(modules, "0");
    assert_eq!(traced, "0");
    assert!(
        probed.parse::<u32>().is_ok_and(|count| count > 0),
        "{probed}"
    );
    assert_eq!(toggled.lines().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(warnings, "");
}
