//! Clients that were written for QEMU, as they come: each negotiates, asks, resizes the guest, hears
//! of it, and ends the machine.
//!
//! QEMU's Python clients come from `cargo xtask test`; see docs/testing.md.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aerostat_tiny_guest::{BalloonDriver, Script, script_elf};
use common::machine::Machine;
use common::scaled;
use common::setup::{Setup, binary_under_test, clients_python};
use common::tiny::{DEVICE, PAGE};
use qapi::{Qmp, Stream};
use qapi_qmp as qmp;

/// Guest memory for the driver's rings.
const RINGS: u64 = 0x80_0000;
/// The first page that the guest gives away: behind the rings and the buffer.
const FIRST_PFN: u32 = 0x1000;
/// The guest's memory.
const MEMORY: u64 = 64 << 20;
/// What the clients ask it to be left with.
const TARGET: u64 = 48 << 20;
/// The same in README.md.
const README_MEMORY: u64 = 2 << 30;
const README_TARGET: u64 = 1 << 30;
/// As many pages as the device takes from one buffer.
const MAX_BUFFER_PAGES: u32 = 1 << 16;
const LIMIT: Duration = Duration::from_secs(60);

/// A guest of `memory` bytes that is left with `target` once it is asked to.
fn start(memory: u64, target: u64) -> (tempfile::TempDir, Machine) {
    let directory = tempfile::tempdir().expect("directory");
    let kernel = directory.path().join("kernel");
    std::fs::write(&kernel, script_elf()).expect("kernel");
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let all = u32::try_from((memory - target) / PAGE).expect("a count of pages");
    let script = driver.init(Script::new());
    let mut script = script.wait32(driver.num_pages(), u32::MAX, all);
    let mut given = 0;
    while given < all {
        let count = (all - given).min(MAX_BUFFER_PAGES);
        script = driver.inflate(script, FIRST_PFN + given, count, 1, given + count);
        given += count;
    }
    let mem = format!("{}M", memory >> 20);
    let machine = Setup::new(&binary_under_test().expect("binary"), &kernel, &mem)
        .file(
            "--initrd",
            "script",
            script.puts("inflated\n").into_initrd(),
        )
        .start()
        .expect("start");
    // Clients that do not wait for the socket find it.
    drop(machine.qmp().expect("connect"));
    (directory, machine)
}

/// A program that is ended, at the latest, when this goes out of scope.
struct Program(Child);

impl Program {
    fn spawn(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().expect("start"))
    }

    fn type_in(&mut self, line: &str) {
        let input = self.0.stdin.as_mut().expect("it has an input");
        writeln!(input, "{line}").expect("write");
    }

    fn wait_success(&mut self) {
        let deadline = Instant::now() + scaled(LIMIT);
        loop {
            if let Some(status) = self.0.try_wait().expect("wait") {
                assert!(status.success(), "{status}");
                return;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a script of `resources/qmp-clients` that does all by itself.
fn run_python(script: &str) {
    let (_directory, mut machine) = start(MEMORY, TARGET);
    let python = clients_python().expect("Python");
    let resources = Path::new(env!("CARGO_MANIFEST_DIR")).join("resources/qmp-clients");
    let mut command = Command::new(python);
    command.arg(resources.join(script)).arg(machine.socket());
    command.args([MEMORY.to_string(), TARGET.to_string()]);
    Program::spawn(&mut command).wait_success();
    machine.wait_success().expect("status 0");
}

#[test]
fn asynchronous_client_of_qemu_steers_the_balloon() {
    run_python("asynchronous.py");
}

#[test]
fn legacy_client_of_qemu_steers_the_balloon() {
    run_python("legacy.py");
}

#[test]
fn qmp_shell_steers_the_balloon() {
    let (directory, mut machine) = start(MEMORY, TARGET);
    let python = clients_python().expect("Python");
    let mut command = Command::new(python);
    command.args(["-u", "-m", "qemu.qmp.qmp_shell"]);
    // It keeps a history there.
    command.arg(machine.socket()).env("HOME", directory.path());
    let errors = directory.path().join("stderr");
    command.stderr(std::fs::File::create(&errors).expect("create"));
    let mut shell = Program::spawn(&mut command);

    shell.type_in("query-balloon");
    shell.type_in(&format!("balloon value={TARGET}"));
    machine
        .console
        .wait_for("inflated", LIMIT)
        .expect("console");
    // What has come meanwhile is taken in with the next answer, and shown for an empty line.
    shell.type_in("query-balloon");
    shell.type_in("");
    shell.type_in("quit");
    drop(shell.0.stdin.take());

    let mut shown = String::new();
    let output = shell.0.stdout.as_mut().expect("it has an output");
    output.read_to_string(&mut shown).expect("read");
    for part in [
        "Connected to QEMU 10.",
        "{\"return\": {\"actual\": 67108864}}",
        "{\"return\": {\"actual\": 50331648}}",
        "'event': 'BALLOON_CHANGE'",
    ] {
        let said = || std::fs::read_to_string(&errors).expect("read");
        assert!(shown.contains(part), "{part} is not in {shown}\n{}", said());
    }
    // The shell may take it amiss that the machine hangs up first: its status says nothing.
    machine.wait_success().expect("status 0");
}

#[test]
fn qapi_crate_steers_the_balloon() {
    let (_directory, mut machine) = start(MEMORY, TARGET);
    let stream = UnixStream::connect(machine.socket()).expect("connect");
    stream.set_read_timeout(Some(scaled(LIMIT))).expect("limit");
    let mut client = Qmp::new(Stream::new(BufReader::new(&stream), &stream));

    let greeting = client.handshake().expect("negotiate");
    assert_eq!(greeting.version.qemu.major, 10);
    let status = client.execute(&qmp::query_status {}).expect("query-status");
    assert!(status.running);
    let balloon = client
        .execute(&qmp::query_balloon {})
        .expect("query-balloon");
    assert_eq!(u64::try_from(balloon.actual).expect("a size"), MEMORY);

    let value = i64::try_from(TARGET).expect("a size");
    client.execute(&qmp::balloon { value }).expect("balloon");
    let deadline = Instant::now() + scaled(LIMIT);
    let is_change = |event: qmp::Event| match event {
        qmp::Event::BALLOON_CHANGE { data, .. } => data.actual == value,
        _ => false,
    };
    while !client.events().any(is_change) {
        assert!(Instant::now() < deadline, "no BALLOON_CHANGE to the target");
        client.nop().expect("query-version");
    }
    let balloon = client
        .execute(&qmp::query_balloon {})
        .expect("query-balloon");
    assert_eq!(balloon.actual, value);

    client.execute(&qmp::quit {}).expect("quit");
    machine.wait_success().expect("status 0");
}

/// The words of the command by which README.md connects, and the lines that it has the user type.
fn socat_session_of_the_readme() -> (Vec<&'static str>, Vec<&'static str>) {
    let readme = include_str!("../README.md");
    let command = readme
        .lines()
        .find_map(|line| line.strip_prefix("$ socat "));
    let words = command
        .expect("socat is there")
        .split_whitespace()
        .collect();
    let (_, rest) = readme.split_once("```json\n").expect("the session begins");
    let (session, _) = rest.split_once("```").expect("the session ends");
    (words, session.lines().collect())
}

#[test]
fn socat_session_of_the_readme_steers_the_balloon() {
    let (_directory, mut machine) = start(README_MEMORY, README_TARGET);
    let (words, lines) = socat_session_of_the_readme();
    let socket = format!("UNIX-CONNECT:{}", machine.socket().display());
    let mut command = Command::new("socat");
    command.args(words.iter().map(|&word| match word {
        "UNIX-CONNECT:/tmp/vm.sock" => socket.as_str(),
        other => other,
    }));
    let mut socat = Program::spawn(&mut command);
    let output = socat.0.stdout.take().expect("it has an output");
    let mut output = BufReader::new(output)
        .lines()
        .map(|line| line.expect("read"));
    let mut next_with = |part: &str| {
        let found = output.by_ref().find(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("socat ended before {part}"))
    };

    next_with("{\"QMP\": ");
    for line in lines {
        socat.type_in(line);
        next_with("\"return\": ");
        if line.contains("\"balloon\"") {
            next_with(&format!("{{\"actual\": {README_TARGET}}}"));
        }
    }

    socat.wait_success();
    machine.wait_success().expect("status 0");
}
