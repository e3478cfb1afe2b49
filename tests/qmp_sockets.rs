//! Several QMP sockets of one machine: who may connect, who hears what, who is waited for, and what
//! is left of them.

mod common;
mod place;
mod process;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use aerostat_tiny_guest::Script;
use common::qmp::Client;
use place::{Place, assert_says, refusal};
use process::{Files, LIMIT, Running, ready};
use rustix::process::Signal;
use serde_json::json;

/// A machine in `files`, with the socket `q` and what `arguments` add.
fn start(files: &Files, arguments: &[&str]) -> Running {
    let mut command = files.command();
    command.args(arguments).args(["--log-file", "log", "-v"]);
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null());
    Running(silent.spawn().expect("start"))
}

fn connect(files: &Files, socket: &str) -> Client {
    Client::connect(&files.path().join(socket)).expect("connect")
}

fn log_of(files: &Files) -> String {
    fs::read_to_string(files.path().join("log")).expect("log")
}

/// The names of the sockets and lock files that are there.
fn socket_files(files: &Files) -> Vec<String> {
    let entries = fs::read_dir(files.path()).expect("list");
    let entries = entries.map(|entry| entry.expect("entry"));
    let is_socket = |entry: &fs::DirEntry| {
        let is_lock = entry.file_name().to_string_lossy().ends_with("-lock");
        is_lock || entry.file_type().expect("type").is_socket()
    };
    let sockets = entries.filter(is_socket);
    let mut names: Vec<_> = sockets
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn clients_of_both_sockets_get_the_events_of_what_one_does() {
    let files = ready();
    let _machine = start(&files, &["--qmp", "second"]);
    let mut first = connect(&files, "q");
    let mut second = connect(&files, "second");
    first.execute("stop").expect("stop");
    first.wait_event("STOP", LIMIT).expect("event");
    second.wait_event("STOP", LIMIT).expect("event");
    second.execute("cont").expect("cont");
    first.wait_event("RESUME", LIMIT).expect("event");
}

#[test]
fn socket_has_the_mode_and_the_group_that_were_asked_for() {
    let files = ready();
    let gid = rustix::process::getgid().as_raw();
    let second = format!("second,mode=0660,group={gid}");
    let _machine = start(&files, &["--qmp", &second]);
    connect(&files, "second");
    let file = |name: &str| fs::metadata(files.path().join(name)).expect("metadata");
    assert_eq!(file("q").mode() & 0o7777, 0o600);
    assert_eq!(file("second").mode() & 0o7777, 0o660);
    assert_eq!(file("second").gid(), gid);
}

#[test]
fn guest_waits_until_a_client_has_negotiated_on_each_socket_that_waits() {
    let files = ready();
    let sockets = ["--qmp", "a,wait=on", "--qmp", "unix:b,server=on"];
    let _machine = start(&files, &sockets);
    let mut other = connect(&files, "q");
    assert_eq!(other.status().expect("status"), "prelaunch");
    drop(connect(&files, "a"));
    let greeted = UnixStream::connect(files.path().join("b")).expect("connect");
    assert_eq!(other.status().expect("status"), "prelaunch");
    assert_eq!(other.take_event_names(), [""; 0]);

    let mut last = connect(&files, "b");

    last.wait_event("RESUME", LIMIT).expect("event");
    other.wait_event("RESUME", LIMIT).expect("event");
    assert_eq!(other.status().expect("status"), "running");
    assert_says(
        &log_of(&files),
        &[
            "waits for a QMP client on each of [\"a\", \"b\"]",
            "The guest starts",
        ],
    );
    drop(greeted);
}

#[test]
fn guest_that_waits_starts_at_cont() {
    let files = ready();
    let _machine = start(&files, &["--qmp", "a,wait=on"]);
    let mut client = connect(&files, "q");
    client.execute("cont").expect("cont");
    assert_eq!(client.status().expect("status"), "running");
    client.execute("stop").expect("stop");
    connect(&files, "a");
    assert_eq!(client.status().expect("status"), "paused");
}

#[test]
fn machine_that_waits_ends_at_sigterm() {
    let files = ready();
    let mut machine = start(&files, &["--qmp", "a,wait=on", "--on-term", "powerdown"]);
    let mut client = connect(&files, "q");
    machine.signal(Signal::TERM);
    client.wait_event("SHUTDOWN", LIMIT).expect("event");
    assert_eq!(machine.wait(), Some(0));
}

#[test]
fn spellings_of_qemu_that_do_not_wait_start_the_guest_at_once() {
    for socket in ["unix:n,server=on,wait=off", "unix:n,server,nowait"] {
        let files = ready();
        let _machine = start(&files, &["--qmp", socket]);
        let mut client = connect(&files, "n");
        client.wait_for_status("running", LIMIT).expect("status");
    }
}

#[test]
fn paused_guest_waits_for_cont_and_for_nobody_else() {
    let files = ready();
    let _machine = start(&files, &["--qmp", "unix:a,server", "--paused"]);
    let mut client = connect(&files, "a");
    assert_eq!(client.status().expect("status"), "prelaunch");
    assert!(!log_of(&files).contains("waits for"));
}

#[test]
fn monitor_without_a_client_is_said_to_be_disconnected() {
    let files = ready();
    let _machine = start(&files, &["--qmp", "second"]);
    let mut client = connect(&files, "q");
    let mut filenames = || {
        let devices = client.execute("query-chardev").expect("devices");
        let name = |at: usize| {
            devices[at]["filename"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        [name(0), name(1)]
    };
    let is_disconnected = |name: &String| name.starts_with("disconnected:unix:");
    assert_eq!(filenames().each_ref().map(is_disconnected), [false, true]);
    let second = connect(&files, "second");
    assert_eq!(filenames().each_ref().map(is_disconnected), [false, false]);
    drop(second);
    let is_gone = || filenames().each_ref().map(is_disconnected) == [false, true];
    assert!(common::wait_until(LIMIT, is_gone));
}

#[test]
fn client_65_of_all_sockets_is_told_and_sent_away() {
    let files = ready();
    let _machine = start(&files, &["--qmp", "second"]);
    let first = connect(&files, "second");
    let join = |name: &&str| {
        let stream = UnixStream::connect(files.path().join(name)).expect("connect");
        stream.set_read_timeout(Some(LIMIT)).expect("time-out");
        let mut line = String::new();
        let mut lines = BufReader::new(stream);
        lines.read_line(&mut line).expect("line");
        (line, lines)
    };
    let mut names = ["q", "second"].repeat(32);
    names.pop();
    let joined: Vec<_> = names.iter().map(join).collect();
    assert!(joined.iter().all(|(line, _)| line.starts_with("{\"QMP\"")));

    let (line, mut lines) = join(&"second");

    assert_says(&line, &["GenericError", "Too many clients: 64"]);
    assert_eq!(lines.read_line(&mut String::new()).expect("end"), 0);
    drop((first, joined));
    // A process that is being started elsewhere has the descriptors for a moment.
    let has_place = || common::qmp::Client::connect_now(&files.path().join("q")).is_ok();
    assert!(common::wait_until(LIMIT, has_place));
}

#[test]
fn files_of_all_sockets_are_there_while_the_machine_is() {
    let ends: [fn(&Files, &Running); 2] = [
        |files, _| drop(connect(files, "second").execute("quit")),
        |_, machine| machine.signal(Signal::TERM),
    ];
    for end in ends {
        let files = ready();
        let mut machine = start(&files, &["--qmp", "unix:second,server,nowait"]);
        connect(&files, "second");
        assert_eq!(socket_files(&files), ["q", "second"]);
        end(&files, &machine);
        assert_eq!(machine.wait(), Some(0));
        assert_eq!(socket_files(&files), [""; 0]);
    }
}

#[test]
fn sockets_of_a_machine_that_was_killed_are_replaced() {
    let files = ready();
    let mut machine = start(&files, &["--qmp", "second"]);
    connect(&files, "second");
    machine.signal(Signal::KILL);
    machine.wait();
    assert_eq!(socket_files(&files), ["q", "second"]);
    let _machine = start(&files, &["--qmp", "second"]);
    connect(&files, "q").execute("stop").expect("stop");
    connect(&files, "second").execute("cont").expect("cont");
}

#[test]
fn socket_that_cannot_be_had_takes_those_before_it_along() {
    let place = Place::new();
    place.write("file", b"");
    for (second, parts) in [
        ("file", ["file", "not a socket"]),
        ("no/where", ["no/where", "Cannot create"]),
        (
            "b,group=no such group",
            ["no such group", "There is no group"],
        ),
    ] {
        let line = refusal(&place.run(&[
            "--kernel", "kernel", "--mem", "64M", "--qmp", "a", "--qmp", second,
        ]));
        assert_says(&line, &parts);
        assert!(!place.path("a").exists());
    }
}

#[test]
fn clients_are_logged_with_their_process_as_they_come_and_go() {
    let files = ready();
    let mut machine = start(&files, &["--qmp", "second"]);
    drop(connect(&files, "second"));
    connect(&files, "q").execute("quit").expect("quit");
    machine.wait();
    let peer = format!(
        "pid {}, uid {}, gid {}",
        std::process::id(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw()
    );
    assert_says(
        &log_of(&files),
        &[
            &format!("QMP client 1 is connected to \"second\": {peer}"),
            &format!("QMP client 2 is connected to \"q\": {peer}"),
            "QMP client 1 is disconnected",
            "QMP client 2 is disconnected",
        ],
    );
}

#[test]
fn machine_tells_its_name() {
    let files = Files::new(Script::new());
    let _machine = start(&files, &["--name", "web 1"]);
    let name = connect(&files, "q").execute("query-name").expect("name");
    assert_eq!(name, json!({ "name": "web 1" }));
}

#[test]
fn machine_that_waits_for_a_client_is_ended_by_its_time_out() {
    let files = ready();
    let mut machine = start(&files, &["--qmp", "a,wait=on", "--timeout", "100ms"]);
    assert_eq!(machine.wait(), Some(124));
}
