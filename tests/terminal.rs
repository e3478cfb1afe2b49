//! The console on a terminal: raw while the machine runs, and as before after every end of it.

mod common;
mod process;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Instant;

use aerostat_tiny_guest::Script;
use process::{Files, LIMIT, Running, ready};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OutputModes, Termios, tcgetattr};

/// A terminal: the side that a person sits at, and the side that a program has.
struct Terminal {
    person: File,
    program: OwnedFd,
}

impl Terminal {
    fn new() -> Self {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("terminal");
        grantpt(&person).expect("grant");
        unlockpt(&person).expect("unlock");
        let name = ptsname(&person, Vec::new()).expect("name");
        let name = name.into_string().expect("name");
        let program = File::options()
            .read(true)
            .write(true)
            .open(name)
            .expect("open");
        Self {
            person: person.into(),
            program: program.into(),
        }
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.program).expect("modes")
    }

    fn is_raw(&self) -> bool {
        let modes = self.modes().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    fn run(&self, files: &Files) -> Running {
        self.run_with(files, &[])
    }

    fn run_with(&self, files: &Files, options: &[&str]) -> Running {
        let end = || Stdio::from(self.program.try_clone().expect("clone"));
        Running(
            files
                .command()
                .args(options)
                .stdin(end())
                .stdout(end())
                .stderr(end())
                .spawn()
                .expect("start"),
        )
    }

    fn read_until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        let deadline = Instant::now() + LIMIT;
        while !String::from_utf8_lossy(&seen).contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).expect("time");
            let mut readable = [PollFd::new(&self.person, PollFlags::IN)];
            let ready = poll(&mut readable, Some(&left)).expect("poll");
            assert_ne!(
                ready,
                0,
                "no {text:?} in {:?}",
                String::from_utf8_lossy(&seen)
            );
            let mut bytes = [0; 256];
            let count = self.person.read(&mut bytes).expect("read");
            seen.extend(&bytes[..count]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    }
}

/// A guest that says `ready` on its console and does nothing more.
/// Whether the terminal is as before after a machine that `end` ended.
fn terminal_is_restored_after(end: impl FnOnce(&mut Terminal, &Running, &Files)) -> bool {
    let files = ready();
    let mut terminal = Terminal::new();
    let before = terminal.modes();
    let mut machine = terminal.run(&files);
    terminal.read_until("ready");
    assert!(terminal.is_raw());

    end(&mut terminal, &machine, &files);

    machine.wait();
    let after = terminal.modes();
    (after.local_modes, after.input_modes, after.output_modes)
        == (before.local_modes, before.input_modes, before.output_modes)
}

#[test]
fn terminal_is_raw_but_for_its_output() {
    let files = ready();
    let mut terminal = Terminal::new();
    let _machine = terminal.run(&files);
    terminal.read_until("ready\r\n");
    assert!(terminal.is_raw());
    assert!(terminal.modes().output_modes.contains(OutputModes::OPOST));
}

#[test]
fn terminal_is_restored_after_every_way_out() {
    assert!(terminal_is_restored_after(
        |_, machine, _| machine.signal(Signal::TERM)
    ));
    assert!(terminal_is_restored_after(
        |_, machine, _| machine.signal(Signal::INT)
    ));
    assert!(terminal_is_restored_after(
        |_, machine, _| machine.signal(Signal::HUP)
    ));
    assert!(terminal_is_restored_after(|terminal, _, _| {
        terminal.person.write_all(b"\x01x").expect("type");
    }));
    assert!(terminal_is_restored_after(|_, _, files| {
        files.qmp().execute("quit").expect("quit");
    }));
}

/// How a machine ends by itself, or by an option, with the exit status.
#[test]
fn terminal_is_restored_after_every_end_of_the_machine() {
    // Where there is neither memory nor device, KVM cannot follow.
    let nowhere = 0xd100_0000;
    let ready = || Script::new().puts("ready\n");
    for (script, options, status) in [
        (ready().power_off(), &[][..], 0),
        (ready().reset(), &["--no-reboot"], 0),
        (ready().triple_fault(), &["--no-reboot"], 1),
        (ready().panic(), &[], 1),
        (ready().execute(nowhere), &[], 1),
        (ready().out8(0xf4, 3), &["--debug-exit"], 7),
        (ready(), &["--timeout", "300ms"], 124),
        (ready().puts("done"), &["--expect", "done"], 0),
        (ready().power_off(), &["--expect", "never"], 1),
    ] {
        let files = Files::new(script);
        let mut terminal = Terminal::new();
        let before = terminal.modes().local_modes;
        let mut machine = terminal.run_with(&files, options);
        // Time can be up before the guest has said anything.
        if status != 124 {
            terminal.read_until("ready");
        }
        assert_eq!(machine.wait(), Some(status), "{options:?}");
        assert_eq!(terminal.modes().local_modes, before, "{options:?}");
    }
}

#[test]
fn control_c_on_the_terminal_reaches_the_guest() {
    let files = Files::new(Script::new().puts("ready\n").echo_serial().puts("end\n"));
    let mut terminal = Terminal::new();
    let _machine = terminal.run(&files);
    terminal.read_until("ready");
    terminal.person.write_all(b"\x03").expect("type");
    assert!(terminal.read_until("end").contains('\x03'));
}
