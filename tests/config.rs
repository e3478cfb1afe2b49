//! Machines described by a configuration file, and `aerostat check`.

mod common;
mod place;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Output, Stdio};
use std::time::Duration;

use aerostat_tiny_guest::{Script, goodbye_elf, script_elf};
use common::setup::Setup;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use place::{Place, assert_ran, assert_says, refusal, stderr, stdout};

const LIMIT: Duration = Duration::from_secs(30);

/// A machine, with the kernel beside its file.
const MACHINE: &str = "kernel = 'kernel'\nmem = '64M'\n";

/// A directory with the file `machine.toml` and a kernel in `vm/`, away from where `aerostat` runs.
fn place_with(file: &str) -> Place {
    let place = Place::new();
    place.write("vm/kernel", &goodbye_elf());
    place.write("vm/machine.toml", file.as_bytes());
    place
}

fn run(place: &Place, more: &[&str]) -> Output {
    let config = ["--config", "vm/machine.toml"];
    place.run(&config.iter().chain(more).collect::<Vec<_>>())
}

fn check(place: &Place, more: &[&str]) -> Output {
    let config = ["check", "--config", "vm/machine.toml"];
    place.run(&config.iter().chain(more).collect::<Vec<_>>())
}

#[test]
fn machine_described_by_a_file_alone_runs() {
    assert_ran(&run(&place_with(MACHINE), &[]));
}

#[test]
fn files_that_a_file_names_are_beside_it() {
    let place = place_with(&format!(
        "{MACHINE} initrd = 'script'\n serial = 'file:console'\n log-file = 'log'\n verbose = 1\n"
    ));
    place.write("vm/kernel", &script_elf());
    place.write(
        "vm/script",
        &Script::new().puts("heard").power_off().into_initrd(),
    );
    let output = run(&place, &[]);
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), "")
    );
    let console = fs::read_to_string(place.path("vm/console")).expect("console");
    assert_eq!(console, "heard");
    assert!(place.path("vm/log").exists());
}

#[test]
fn socket_that_a_file_names_is_beside_it() {
    let place = place_with(&format!("{MACHINE} qmp = 'vm.sock'"));
    let server = UnixListener::bind(place.path("vm/vm.sock")).expect("bind");
    assert_says(&refusal(&run(&place, &[])), &["vm/vm.sock", "in use"]);
    drop(server);
    // A process that is being started elsewhere has the descriptor for a moment.
    let is_stale = || UnixStream::connect(place.path("vm/vm.sock")).is_err();
    assert!(common::wait_until(LIMIT, is_stale));
    assert_ran(&run(&place, &[]));
}

#[test]
fn command_line_overrides_the_file() {
    let place = place_with("kernel = 'nowhere'\nmem = '8000T'\nserial = 'file:no/where'\n");
    let more = ["--kernel", "kernel", "--mem", "64M", "--serial", "stdio"];
    assert_ran(&run(&place, &more));
}

#[test]
fn switch_of_the_file_holds_until_the_command_line_takes_it_back() {
    let file = b"paused = true\n".to_vec();
    let setup = || {
        let guest = Setup::tiny(Script::new().puts("ready\n")).expect("guest");
        guest.file("--config", "machine.toml", file.clone())
    };
    let waiting = setup().start().expect("start");
    let status = waiting.qmp().expect("connect").status().expect("status");
    assert_eq!(status, "prelaunch");
    let mut running = setup().flag("--paused=off").start().expect("start");
    running.console.wait_for("ready", LIMIT).expect("guest");
}

#[test]
fn file_may_come_through_a_pipe_with_paths_from_the_working_directory() {
    let place = Place::new();
    let mut child = place
        .command()
        .args(["--config", "/dev/stdin", "--serial", "file:console"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("start");
    let mut input = child.stdin.take().expect("input");
    input.write_all(MACHINE.as_bytes()).expect("write");
    drop(input);
    assert!(child.wait().expect("wait").success());
    assert_eq!(fs::read(place.path("console")).expect("console"), b"!");
}

#[test]
fn mistakes_in_a_file_are_named_with_their_line() {
    for (file, parts) in [
        (
            "memm = 1",
            ["unknown key \"memm\"", "did you mean \"mem\"", "line 1"],
        ),
        (
            "\nmem = '32M'",
            ["mem: \"32M\"", "the minimum is 64M", "line 2"],
        ),
        (
            "[balloon]\ndeflate = true",
            ["balloon.deflate", "deflate-on-oom", "line 2"],
        ),
        (
            "kernel = true",
            ["kernel: true or false", "write a text", "line 1"],
        ),
        (
            "mem = \n",
            ["string values must be quoted", "line 1", "column 7"],
        ),
        (
            "cpus = 1\ncpus = 2",
            ["duplicate key", "line 2", "column 1"],
        ),
    ] {
        let line = refusal(&run(&place_with(file), &[]));
        assert!(line.starts_with("aerostat: vm/machine.toml: "), "{line}");
        assert_says(&line, &parts);
    }
}

#[test]
fn mistake_in_a_file_is_refused_even_when_overridden() {
    let place = place_with("mem = '32M'\n");
    let line = refusal(&run(&place, &["--kernel", "kernel", "--mem", "64M"]));
    assert_says(&line, &["mem: \"32M\""]);
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let place = Place::new();
    place.write("latin1", b"# fine\ncmdline = '\xe9'\n");
    place.write("large", &[b'\n'; (1 << 20) + 1]);
    for (file, reason) in [
        ("nowhere", "No such file"),
        (".", "Is a directory"),
        ("latin1", "UTF-8 (line 2)"),
        ("large", "1 MiB"),
        ("/dev/zero", "1 MiB"),
        ("kernel", "UTF-8"),
    ] {
        let line = refusal(&place.run(&["--config", file]));
        assert!(line.starts_with(&format!("aerostat: {file}: ")), "{line}");
        assert_says(&line, &[reason]);
    }
}

#[test]
fn file_of_the_largest_size_is_read() {
    let mut file = MACHINE.to_owned();
    file += &"#".repeat((1 << 20) - file.len());
    assert_ran(&run(&place_with(&file), &[]));
}

#[test]
fn what_neither_file_nor_command_line_gives_is_named() {
    let line = refusal(&run(&place_with("cpus = 1"), &["--mem", "64M"]));
    assert_says(&line, &["--kernel PATH", "--config"]);
}

#[test]
fn check_prints_the_configuration_and_starts_nothing() {
    let place = place_with(&format!("{MACHINE} qmp = 'q'\n serial = 'file:console'\n"));
    let output = check(&place, &["--timeout", "2m", "--paused"]);
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), "")
    );
    let kernel = format!("kernel = \"{}\"", place.path("vm/kernel").display());
    let lines = [
        kernel.as_str(),
        "mem = \"64M\"",
        "timeout = \"2m\"",
        "paused = true",
        "on-panic = \"exit\"",
    ];
    assert_says(&stdout(&output), &lines);
    assert!(!place.path("vm/q").exists() && !place.path("vm/console").exists());
}

#[test]
fn what_check_prints_is_a_file_that_makes_the_same_machine_from_anywhere() {
    let place = place_with(&format!("{MACHINE} serial = 'file:console \"1\"'\n"));
    let printed = check(&place, &["--verbose=0"]).stdout;
    let elsewhere = Place::new();
    elsewhere.write("vm/machine.toml", &printed);
    let output = run(&elsewhere, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let console = fs::read(place.path("vm/console \"1\"")).expect("console");
    assert_eq!(console, b"!");
    assert_eq!(check(&elsewhere, &[]).stdout, printed);
}

#[test]
fn check_refuses_what_a_start_would_refuse() {
    let place = place_with(MACHINE);
    for (more, parts) in [
        (["--mem", "32M"], ["--mem", "minimum is 64M"]),
        (["--kernel", "nowhere"], ["kernel nowhere", "No such file"]),
        (["--kernel", "."], ["kernel", "is a directory"]),
        (
            ["--initrd", "/dev/null"],
            ["/dev/null", "not a regular file"],
        ),
        (["--qmp", "no/where,wait=on"], ["no/where", "directory"]),
        (["--qmp", "q,group=no one"], ["\"no one\"", "no group"]),
        (["--log-file", "no/where"], ["no/where", "directory"]),
        (["--serial", "file:no/where"], ["no/where", "directory"]),
    ] {
        assert_says(&refusal(&check(&place, &more)), &parts);
    }
}

/// Memory that it may not lock is refused, and why.
#[test]
fn check_refuses_more_locked_memory_than_is_allowed() {
    let place = place_with(MACHINE);
    let mut command = place.command();
    command.args(["check", "--config", "vm/machine.toml"]);
    command.args(["--mem", "64M,lock=on"]);
    let limit = || {
        let allowed = Rlimit {
            current: Some(8 << 20),
            maximum: Some(8 << 20),
        };
        setrlimit(Resource::Memlock, allowed)?;
        // Without it, root has no limit; others may not give up what they do not have.
        let _ = remove_capability_from_bounding_set(CapabilitySet::IPC_LOCK);
        Ok(())
    };
    // SAFETY: two system calls, between fork and exec.
    unsafe { command.pre_exec(limit) };
    let output = command.output().unwrap();
    let parts = [
        "64 MiB of guest memory cannot be locked",
        "may lock 8192 KiB",
        "`ulimit -l`",
    ];
    assert_says(&refusal(&output), &parts);
}

#[test]
fn check_refuses_to_print_a_path_that_is_not_utf_8_but_a_machine_runs_from_it() {
    let place = Place::new();
    let kernel = OsStr::from_bytes(b"k\xff");
    fs::write(place.directory().join(kernel), goodbye_elf()).expect("write");
    let arguments = [OsStr::new("--mem=64M"), OsStr::new("--kernel"), kernel];
    assert_ran(&place.run(&arguments));
    let check = [OsStr::new("check")].into_iter().chain(arguments);
    let line = refusal(&place.run(&check.collect::<Vec<_>>()));
    assert_says(&line, &["--kernel", "UTF-8"]);
}

#[test]
fn check_says_when_nobody_can_read_what_it_prints() {
    let place = place_with(MACHINE);
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let output = place
        .command()
        .args(["check", "--config", "vm/machine.toml"])
        .stdout(full)
        .output()
        .expect("run");
    assert_says(&refusal(&output), &["Cannot print", "No space left"]);
}
