//! A stock kernel that the VMM unpacks and moves: where it is, boot after boot, and that what changes
//! the kernel's text while it runs works on it.
//!
//! Each test has a guest of its own.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::machine::Machine;
use common::setup::Setup;

/// How long a boot may take.
const BOOT_LIMIT: Duration = Duration::from_secs(20);
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

/// A guest that says where its kernel is, and boots again, for ever. `words` are more of the kernel's
/// command line.
fn placed(setup: Setup, words: &str) -> Machine {
    let cmdline = format!("console=ttyS0 panic=-1 quiet rdinit=/place-init {words}");
    setup.cmdline(&cmdline).start().expect("start")
}

/// What it says after its next boot.
fn place(machine: &mut Machine) -> Place {
    let console = &mut machine.console;
    console.wait_for("place: ", BOOT_LIMIT).expect("boot");
    let line = console.wait_for("\n", BOOT_LIMIT).expect("line");
    let addresses = line.split_whitespace().map(|word| {
        u64::from_str_radix(word, 16).unwrap_or_else(|_| panic!("{line:?} are no addresses"))
    });
    let addresses: Vec<u64> = addresses.collect();
    let [text, physical, direct_map] = addresses[..] else {
        panic!("{line:?} are not three addresses");
    };
    Place {
        text,
        physical,
        direct_map: direct_map & !((1 << 30) - 1),
    }
}

fn distinct(places: &[Place], part: fn(&Place) -> u64) -> usize {
    places.iter().map(part).collect::<BTreeSet<_>>().len()
}

#[test]
fn kernel_is_elsewhere_after_each_boot() {
    let mut machine = placed(Setup::linux("256M").expect("guest files"), "");

    let places: Vec<Place> = (0..BOOTS).map(|_| place(&mut machine)).collect();

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
    let mut machine = placed(Setup::linux("6G").expect("guest files"), "");

    // Half of the places are there: so many boots miss them once in a million times.
    let mut places = (0..BOOTS).map(|_| place(&mut machine));

    assert!(places.any(|place| place.physical >= 4 << 30));
}

#[test]
fn kernel_is_where_it_was_linked_to_be_with_nokaslr() {
    let mut machine = placed(Setup::linux("256M").expect("guest files"), "nokaslr");

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
    let mut machine = placed(setup.argument("--boot", "guest-decompress"), "");

    let found = place(&mut machine);

    assert_ne!((found.text, found.physical), (LINKED, LINKED_PHYSICAL));
}

fn run(machine: &mut Machine, command: &str) -> String {
    machine.console.run(command).expect(command)
}

#[test]
fn moved_kernel_loads_modules_is_traced_and_probed_and_does_without_a_cpu() {
    let setup = Setup::linux("512M").expect("guest files");
    let mut machine = setup.argument("--cpus", "2").start().expect("start");
    machine.wait_for_shell().expect("boot");
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
