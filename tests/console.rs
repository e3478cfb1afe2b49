//! The console on pipes, files, FIFOs and nothing at all; terminals are in `terminal.rs`.

mod common;
mod process;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aerostat_tiny_guest::Script;
use common::scaled;
use process::{Files, LIMIT, Running, ready};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

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
