//! Machines on the live KVM, with the scripted guest: building, running, pausing, resetting,
//! ending.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail a test")]

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use aerostat_devices::RamOptions;
use aerostat_devices::balloon::BalloonOptions;
use aerostat_tiny_guest::{OTHERS_COUNTER, Script, script_elf};
use aerostat_vmm::{
    BootMethod, BuildError, GuestEvent, Machine, MachineConfig, MachineIo, Observers, RunState,
    build,
};
use tempfile::TempDir;

/// Longer than anything here takes, even where the guest is emulated and the host is busy.
const LIMIT: Duration = Duration::from_secs(60);

struct Output(Sender<u8>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            self.0.send(byte).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Guest {
    machine: Machine,
    output: Receiver<u8>,
    _files: TempDir,
}

fn write(directory: &Path, name: &str, content: &[u8]) -> std::path::PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

fn guest(script: Script) -> Guest {
    guest_with_cpus(script, 1)
}

fn guest_with_cpus(script: Script, cpus: u8) -> Guest {
    let files = TempDir::new().unwrap();
    let config = MachineConfig {
        kernel: write(files.path(), "kernel", &script_elf()),
        boot: BootMethod::Direct,
        kernel_cache: None,
        initrd: Some(write(files.path(), "script", &script.into_initrd())),
        cmdline: String::new(),
        cpus,
        memory: "64M".parse().unwrap(),
        ram: RamOptions::default(),
        balloon: Some(BalloonOptions::default()),
        debug_exit: true,
    };
    let (sender, output) = channel();
    let serial = Some(Box::new(Output(sender)) as _);
    let observers = Observers {
        ram: Box::new(|_| ControlFlow::Continue(())),
        boot_timer: None,
    };
    let io = || {
        Ok::<_, BuildError>(MachineIo {
            serial,
            balloon: Box::new(|_| {}),
            crash_loaded: Box::new(|| {}),
        })
    };
    let machine = build(&config, observers, io).unwrap();
    Guest {
        machine,
        output,
        _files: files,
    }
}

impl Guest {
    fn line(&self) -> String {
        let mut line = String::new();
        while !line.ends_with('\n') {
            line.push(self.output.recv_timeout(LIMIT).unwrap().into());
        }
        line.trim_end().to_owned()
    }

    fn event(&self) -> GuestEvent {
        let start = Instant::now();
        loop {
            if let Some(event) = self.machine.events().take() {
                return event;
            }
            assert!(start.elapsed() < LIMIT, "the guest does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn guest_runs_and_powers_off() {
    let mut guest = guest(Script::new().puts("hello\n").power_off());
    assert_eq!(guest.machine.state(), RunState::Prelaunch);
    assert!(guest.machine.resume().unwrap());
    assert_eq!(guest.line(), "hello");
    assert!(matches!(guest.event(), GuestEvent::PowerOff));
}

#[test]
fn string_instructions_reach_a_port_byte_by_byte() {
    const LINE_STATUS: u16 = 0x3fd;
    const TEXT: u64 = 0x20_0000;
    const STATUS: u64 = TEXT + 0x1000;
    let script = Script::new()
        .store(TEXT, u64::from_le_bytes(*b"stringy\n"), 8)
        .outs(0x3f8, TEXT, 8)
        .ins(LINE_STATUS, STATUS, 8)
        .print("status", STATUS, 8);
    let mut guest = guest(script);
    guest.machine.resume().unwrap();
    assert_eq!(guest.line(), "stringy");
    // The transmitter is empty, eight times.
    assert_eq!(guest.line(), "status 6060606060606060");
}

#[test]
fn reset_is_reported_and_what_follows_it_is_not() {
    let mut guest = guest(Script::new().reset().triple_fault());
    guest.machine.resume().unwrap();
    assert!(matches!(guest.event(), GuestEvent::Reset));
}

#[test]
fn triple_fault_is_reported_with_registers() {
    let mut guest = guest(Script::new().triple_fault());
    guest.machine.resume().unwrap();
    let event = guest.event();
    let GuestEvent::TripleFault {
        index: 0,
        registers,
    } = event
    else {
        panic!("{event:?}")
    };
    assert!(registers.to_string().contains("rip"), "{registers}");
}

#[test]
fn nothing_runs_while_paused() {
    // Prints `x` for ever.
    let mut guest = guest(Script::new().puts("x").jump(0));
    guest.machine.resume().unwrap();
    guest.output.recv_timeout(LIMIT).unwrap();
    assert!(guest.machine.pause().unwrap());
    while guest.output.try_recv().is_ok() {}
    assert!(
        guest
            .output
            .recv_timeout(Duration::from_millis(100))
            .is_err()
    );
    assert!(guest.machine.resume().unwrap());
    guest.output.recv_timeout(LIMIT).unwrap();
}

#[test]
fn pause_and_resume_are_idempotent() {
    let mut guest = guest(Script::new().puts("x").jump(0));
    assert!(!guest.machine.pause().unwrap());
    assert_eq!(guest.machine.state(), RunState::Prelaunch);
    let changes = [
        guest.machine.resume().unwrap(),
        guest.machine.resume().unwrap(),
        guest.machine.pause().unwrap(),
        guest.machine.pause().unwrap(),
    ];
    assert_eq!(changes, [true, false, true, false]);
}

#[test]
fn pausing_a_thousand_times_never_misses() {
    let mut guest = guest(Script::new().jump(0));
    for _ in 0..1000 {
        guest.machine.resume().unwrap();
        guest.machine.pause().unwrap();
    }
}

#[test]
fn dropping_a_running_machine_ends_its_threads() {
    let mut guest = guest(Script::new().jump(0));
    guest.machine.resume().unwrap();
    drop(guest);
}

#[test]
fn ended_guest_starts_again_after_a_reset_only() {
    let mut guest = guest(Script::new().puts("hello\n").power_off());
    guest.machine.resume().unwrap();
    let event = guest.event();
    assert!(guest.machine.halt(&event).unwrap());
    assert_eq!(guest.machine.state(), RunState::Shutdown);
    assert!(guest.machine.resume().is_err());

    guest.machine.reset(|| {}).unwrap();

    assert_eq!(guest.machine.state(), RunState::Prelaunch);
    assert!(guest.machine.resume().unwrap());
    assert_eq!([guest.line(), guest.line()], ["hello", "hello"]);
    assert!(matches!(guest.event(), GuestEvent::PowerOff));
}

#[test]
fn panic_is_reported_and_the_guest_can_go_on_after_it() {
    let mut guest = guest(Script::new().panic().puts("still here\n"));
    guest.machine.resume().unwrap();
    let event = guest.event();
    assert!(matches!(event, GuestEvent::Panicked));
    assert!(guest.machine.halt(&event).unwrap());
    assert_eq!(guest.machine.state(), RunState::GuestPanicked);
    assert!(guest.machine.resume().unwrap());
    assert_eq!(guest.line(), "still here");
}

#[test]
fn exit_port_ends_the_guest_with_an_odd_status() {
    let mut guest = guest(Script::new().out8(0xf4, 5));
    guest.machine.resume().unwrap();
    assert!(matches!(guest.event(), GuestEvent::Exit(11)));
}

#[test]
fn guest_finds_its_kernel_again_in_memory_of_zeroes_after_a_reset() {
    let scratch = 0x200_0000;
    let script = Script::new()
        .print("found", scratch, 8)
        .store(scratch, u64::MAX, 8)
        .puts("ready\n");
    let mut guest = guest(script);
    guest.machine.resume().unwrap();
    assert_eq!(guest.line(), "found 0000000000000000");
    assert_eq!(guest.line(), "ready");

    guest.machine.reset(|| {}).unwrap();

    assert_eq!(guest.machine.state(), RunState::Running);
    assert_eq!(guest.line(), "found 0000000000000000");
    assert_eq!(guest.line(), "ready");
}

#[test]
fn reset_leaves_a_stopped_machine_stopped() {
    let mut guest = guest(Script::new().puts("ready\n").jump(6));
    guest.machine.resume().unwrap();
    assert_eq!(guest.line(), "ready");
    guest.machine.pause().unwrap();
    guest.machine.reset(|| {}).unwrap();
    assert_eq!(guest.machine.state(), RunState::Prelaunch);
    assert!(
        guest
            .output
            .recv_timeout(Duration::from_millis(100))
            .is_err()
    );
    guest.machine.resume().unwrap();
    assert_eq!(guest.line(), "ready");
}

#[test]
fn reset_keeps_the_vcpu_threads() {
    let mut guest = guest_with_cpus(Script::new().jump(0), 3);
    let before = guest.machine.vcpu_thread_ids();
    guest.machine.resume().unwrap();
    guest.machine.reset(|| {}).unwrap();
    assert_eq!(guest.machine.vcpu_thread_ids(), before);
    assert_eq!(before.len(), 3);
}

#[test]
fn other_cpus_run_stop_and_are_woken_anew_after_a_reset() {
    let script = Script::new()
        .start_others()
        .wait32(OTHERS_COUNTER, 0x1000, 0x1000)
        .puts("counting\n");
    let again = script.here();
    let mut guest = guest_with_cpus(script.jump(again), 4);
    guest.machine.resume().unwrap();
    for _ in 0..3 {
        assert_eq!(guest.line(), "counting");
        guest.machine.pause().unwrap();
        guest.machine.resume().unwrap();
        guest.machine.reset(|| {}).unwrap();
    }
}

/// As Linux does where it finds neither ACPI's nor EFI's way to restart.
#[test]
fn entering_the_bios_in_real_mode_resets() {
    // ljmp 0xffff:0
    let script = Script::new().start_others_with([0xea, 0, 0, 0xff, 0xff, 0, 0, 0]);
    let mut guest = guest_with_cpus(script, 2);
    guest.machine.resume().unwrap();
    assert!(matches!(guest.event(), GuestEvent::Reset));
}

#[test]
fn input_reaches_the_guest() {
    let mut guest = guest(Script::new().puts("ready\n").echo_serial().power_off());
    guest.machine.resume().unwrap();
    assert_eq!(guest.line(), "ready");
    assert_eq!(guest.machine.serial().unwrap().receive(b"k"), 1);
    assert_eq!(guest.output.recv_timeout(LIMIT).unwrap(), b'k');
}
