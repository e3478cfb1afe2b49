//! Machines on the live KVM, with the scripted guest: building, running, pausing, ending.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail a test")]

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use aerostat_devices::balloon::BalloonOptions;
use aerostat_tiny_guest::{Script, script_elf};
use aerostat_vmm::{GuestEvent, Machine, MachineConfig, MachineIo, RunState, build};
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
    let files = TempDir::new().unwrap();
    let config = MachineConfig {
        kernel: write(files.path(), "kernel", &script_elf()),
        initrd: Some(write(files.path(), "script", &script.into_initrd())),
        cmdline: String::new(),
        memory: "64M".parse().unwrap(),
        balloon: Some(BalloonOptions::default()),
    };
    let (sender, output) = channel();
    let serial = Some(Box::new(Output(sender)) as _);
    let machine = build(
        &config,
        MachineIo {
            serial,
            balloon: Box::new(|_| {}),
        },
    )
    .unwrap();
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
    let GuestEvent::VcpuFailed { index: 0, failure } = event else {
        panic!("{event:?}")
    };
    let text = failure.to_string();
    assert!(
        text.contains("triple-faulted") && text.contains("rip"),
        "{text}"
    );
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
fn ended_guest_does_not_start_again() {
    let mut guest = guest(Script::new().power_off());
    guest.machine.resume().unwrap();
    let event = guest.event();
    guest.machine.end(&event);
    assert_eq!(guest.machine.state(), RunState::Shutdown);
    assert!(guest.machine.resume().is_err());
}

#[test]
fn input_reaches_the_guest() {
    let mut guest = guest(Script::new().puts("ready\n").echo_serial().power_off());
    guest.machine.resume().unwrap();
    assert_eq!(guest.line(), "ready");
    assert_eq!(guest.machine.serial().unwrap().receive(b"k"), 1);
    assert_eq!(guest.output.recv_timeout(LIMIT).unwrap(), b'k');
}
