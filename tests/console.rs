//! The console on every kind of standard stream: terminals, pipes, files, nothing at all.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aerostat_tiny_guest::{Script, script_elf};
use common::qmp::Client;
use common::scaled;
use common::setup::binary_under_test;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OutputModes, Termios, tcgetattr};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);

/// The files of a machine with the scripted guest.
struct Files(TempDir);

impl Files {
    fn new(script: Script) -> Self {
        let directory = TempDir::new().expect("temporary directory");
        let write = |name: &str, content: Vec<u8>| {
            std::fs::write(directory.path().join(name), content).expect("write");
        };
        write("kernel", script_elf());
        write("script", script.into_initrd());
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary_under_test().expect("binary"));
        command
            .args([
                "--kernel", "kernel", "--initrd", "script", "--mem", "64M", "--qmp", "q",
            ])
            .current_dir(self.path());
        command
    }

    fn qmp(&self) -> Client {
        Client::connect(&self.path().join("q")).expect("connect")
    }
}

/// A process that is ended at the latest when this goes out of scope.
struct Running(Child);

impl Running {
    fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + scaled(LIMIT);
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().expect("wait") {
                return status.code();
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the process does not end");
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("pid");
        kill_process(pid, signal).expect("signal");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

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
        while !String::from_utf8_lossy(&seen).contains(text) {
            let mut bytes = [0; 256];
            let count = self.person.read(&mut bytes).expect("read");
            seen.extend(&bytes[..count]);
        }
        String::from_utf8_lossy(&seen).into_owned()
    }
}

/// A guest that says `ready` on its console and does nothing more.
fn ready() -> Files {
    Files::new(Script::new().puts("ready\n"))
}

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
        terminal.read_until("ready");
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

/// What a guest that echoes three bytes and powers off prints with this standard input.
fn echo_of(input: impl Into<Stdio>) -> String {
    let script = Script::new()
        .echo_serial()
        .echo_serial()
        .echo_serial()
        .power_off();
    let files = Files::new(script);
    let output = files.command().stdin(input).output().expect("run");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn input_from_a_file_reaches_the_guest() {
    let files = TempDir::new().expect("temporary directory");
    let path = files.path().join("input");
    std::fs::write(&path, "abc").expect("write");
    assert_eq!(echo_of(File::open(path).expect("open")), "abc");
}

#[test]
fn input_from_a_pipe_reaches_the_guest() {
    let (reader, mut writer) = std::io::pipe().expect("pipe");
    writer.write_all(b"abc").expect("write");
    assert_eq!(echo_of(reader), "abc");
}

#[test]
fn machine_runs_with_no_input_at_all() {
    let files = Files::new(Script::new().puts("ready\n").power_off());
    let run = |command: &mut Command| command.output().expect("run");
    let null = run(files.command().stdin(Stdio::null()));
    let closed = run(Command::new("sh")
        .args(["-c", "exec \"$@\" <&-", "sh"])
        .arg(files.command().get_program())
        .args(files.command().get_args())
        .current_dir(files.path()));
    for output in [null, closed] {
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(0), &b"ready\n"[..])
        );
    }
}

/// Far more output than a pipe and the buffer behind it hold, which nobody reads.
#[test]
fn blocked_output_does_not_stall_the_guest() {
    let counter = 0x200_0000;
    let script = Script::new().store32(counter, 3500);
    let again = script.here();
    let script = script
        .puts(&"x".repeat(99))
        .puts("\n")
        .repeat(counter, again)
        .power_off();
    let files = Files::new(script);
    let (_unread, writer) = std::io::pipe().expect("pipe");
    let mut machine = Running(
        files
            .command()
            .stdin(Stdio::null())
            .stdout(writer)
            .spawn()
            .expect("start"),
    );
    assert_eq!(machine.wait(), Some(0));
}

#[test]
fn closed_output_does_not_end_the_machine() {
    let files = Files::new(Script::new().puts("unheard\n").echo_serial().power_off());
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let mut machine = Running(
        files
            .command()
            .stdin(Stdio::piped())
            .stdout(writer)
            .spawn()
            .expect("start"),
    );
    assert_eq!(files.qmp().status().expect("status"), "running");
    machine
        .0
        .stdin
        .take()
        .expect("pipe")
        .write_all(b"k")
        .expect("type");
    assert_eq!(machine.wait(), Some(0));
}

/// Starts the machine of `files` with its console at `target`.
fn start_with_console_at(files: &Files, target: &str) -> Running {
    let mut command = files.command();
    command.args(["--serial", target]).stdin(Stdio::null());
    Running(command.spawn().expect("start"))
}

fn wait_for_content(path: &Path, content: &str) {
    let deadline = Instant::now() + scaled(LIMIT);
    while std::fs::read(path).unwrap_or_default() != content.as_bytes() {
        assert!(Instant::now() < deadline, "{} lacks it", path.display());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn second_machine_with_the_same_console_file_is_refused_and_harms_nothing() {
    let files = ready();
    let log = files.path().join("log");
    std::fs::write(&log, "of the last machine").expect("write");
    let _first = start_with_console_at(&files, "file:log");
    wait_for_content(&log, "ready\n");

    let second = ready()
        .command()
        .args(["--serial", &format!("file:{}", log.display())])
        .output()
        .expect("run");

    let stderr = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("log is in use"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(std::fs::read_to_string(&log).expect("log"), "ready\n");
}

#[test]
fn console_may_be_a_device_that_others_have_too() {
    let files = ready();
    let _first = start_with_console_at(&files, "file:/dev/null");
    files.qmp();
    let other = Files::new(Script::new().puts("unheard\n").power_off());
    let mut second = start_with_console_at(&other, "file:/dev/null");
    assert_eq!(second.wait(), Some(0));
}

fn fifo_in(files: &Files) -> PathBuf {
    let path = files.path().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("fifo");
    path
}

#[test]
fn machine_runs_with_a_fifo_that_nobody_reads() {
    let files = Files::new(Script::new().puts("unheard\n").power_off());
    fifo_in(&files);
    let mut machine = start_with_console_at(&files, "file:fifo");
    assert_eq!(machine.wait(), Some(0));
}

#[test]
fn reader_of_a_fifo_gets_what_was_printed_before_it_came() {
    let files = ready();
    let path = fifo_in(&files);
    let machine = start_with_console_at(&files, "file:fifo");
    // Whoever is answered knows that the machine, and with it the FIFO, is open.
    files.qmp();
    let mut reader = File::open(path).expect("open");
    let mut text = [0; 6];
    reader.read_exact(&mut text).expect("read");
    drop(machine);
    assert_eq!(&text, b"ready\n");
    assert_eq!(reader.read(&mut text).expect("end"), 0);
}

#[test]
fn console_file_that_is_full_is_named() {
    let files = Files::new(Script::new().puts("unheard\n").power_off());
    let output = files
        .command()
        .args(["--serial", "file:/dev/full"])
        .output()
        .expect("run");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("/dev/full is lost"), "{stderr}");
}
