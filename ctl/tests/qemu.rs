//! The program against QEMU itself.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::terminal::{Running, Terminal};
use common::{LIMIT, ctl, run, run_with_input};
use serde_json::Value;
use tempfile::TempDir;

/// A machine of QEMU that does not run, with 256 MiB and a balloon.
struct Qemu {
    process: Running,
    directory: TempDir,
}

impl Qemu {
    fn start() -> Self {
        let directory = TempDir::new().expect("temporary directory");
        let arguments = "-M microvm -accel tcg -m 256M -nodefaults -display none -S \
                         -device virtio-balloon-device,id=balloon0 -qmp unix:s,server=on,wait=off";
        let process = Command::new("qemu-system-x86_64")
            .args(arguments.split_whitespace())
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .spawn()
            .expect("these tests need qemu-system-x86_64: cargo xtask test installs it");
        let process = Running(process);
        let qemu = Self { process, directory };
        let deadline = Instant::now() + LIMIT;
        while UnixStream::connect(qemu.socket()).is_err() {
            assert!(Instant::now() < deadline, "QEMU opens no socket");
            thread::sleep(Duration::from_millis(20));
        }
        qemu
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// A shell at its first prompt.
    fn shell(&self, terminal: &mut Terminal) -> Running {
        let mut command = ctl(&self.socket(), &["shell"]);
        command
            .env("XDG_STATE_HOME", self.directory.path())
            .env("TERM", "xterm");
        let running = terminal.start(command);
        terminal.wait_for("qmp> ");
        running
    }
}

#[test]
fn commands_and_their_errors_are_those_of_qemu() {
    let qemu = Qemu::start();
    let ended = run(&qemu.socket(), &["query-balloon"]);
    assert_eq!(ended.stdout, "{\n  \"actual\": 268435456\n}\n");
    let ended = run(&qemu.socket(), &["no-such-command"]);
    let said = "CommandNotFound: The command no-such-command has not been found\n";
    assert_eq!(ended.stderr, format!("aerostat-ctl: {said}"));
    assert_eq!(ended.status, Some(1));
}

#[test]
fn status_shows_what_qemu_knows() {
    let qemu = Qemu::start();
    let table = run(&qemu.socket(), &["status"]).stdout;
    for row in [
        "version   QEMU ",
        "state     prelaunch\n",
        "memory    256 MiB\n",
        "guest has 256 MiB\n",
    ] {
        assert!(table.contains(row), "{row:?} is missing in {table}");
    }
    let text = run(&qemu.socket(), &["status", "--json"]).stdout;
    let status: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["memory"], 256 << 20);
    assert_eq!(status["balloon"]["actual"], 256 << 20);
}

#[test]
fn guest_that_does_not_run_stalls() {
    let qemu = Qemu::start();
    let arguments = ["resize", "100M", "--wait", "--stall", "500ms"];
    let ended = run(&qemu.socket(), &arguments);
    let said = "Stalled: the guest has 256 MiB, not 100 MiB, and the machine does not run\n";
    assert!(ended.stderr.ends_with(said), "{ended:?}");
    assert_eq!(ended.status, Some(3));
    let ended = run(&qemu.socket(), &["resize", "256M", "--wait"]);
    assert_eq!(ended.stdout, "The guest has 256 MiB.\n");
}

#[test]
fn second_client_hears_why_it_waits() {
    let qemu = Qemu::start();
    let first = UnixStream::connect(qemu.socket()).expect("connect");
    let mut greeting = String::new();
    let read = BufReader::new(&first).read_line(&mut greeting);
    assert!(read.is_ok_and(|count| count > 0));

    let ended = run(&qemu.socket(), &["status", "--timeout", "3500ms"]);

    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert!(lines[0].ends_with("QEMU serves one at a time"), "{ended:?}");
    assert!(
        lines[1].contains("did not serve this client within 3s 500ms"),
        "{ended:?}"
    );
    assert_eq!(ended.status, Some(124));
}

#[test]
fn script_shows_events_and_quits_the_machine() {
    let mut qemu = Qemu::start();
    let script = "help blockdev-add\ncont\nstop\nquit\n";
    let ended = run_with_input(&qemu.socket(), &["shell"], script.as_bytes());
    for part in ["driver=…", "\"RESUME\"", "\"STOP\"", "\"host-qmp-quit\""] {
        assert!(
            ended.stdout.contains(part),
            "{part} is missing in {ended:?}"
        );
    }
    assert_eq!((ended.stderr.as_str(), ended.status), ("", Some(0)));
    assert_eq!(qemu.process.wait(), Some(0));
}

#[test]
fn shell_ends_with_the_machine_that_it_quits() {
    let mut qemu = Qemu::start();
    let mut terminal = Terminal::new();
    let mut shell = qemu.shell(&mut terminal);
    terminal.type_in("query-memory-si\t\r");
    terminal.wait_for("\"base-memory\": 268435456");
    terminal.type_in("quit\r");
    assert_eq!(shell.wait(), Some(0));
    assert_eq!(qemu.process.wait(), Some(0));
}

#[test]
fn shell_says_that_the_machine_has_gone() {
    let mut qemu = Qemu::start();
    let mut terminal = Terminal::new();
    let mut shell = qemu.shell(&mut terminal);
    qemu.process.0.kill().expect("kill");
    terminal.wait_for("The server closed the connection: press Enter to leave");
    terminal.type_in("\r");
    assert_eq!(shell.wait(), Some(2));
}
