//! Commands, events and the status against servers that say what a test lays down.

mod common;

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use common::fake::{Fake, event, refuse, reply, unknown};
use common::{ctl, run};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use serde_json::{Value, json};

#[test]
fn result_of_a_command_is_pretty_json_with_all_digits() {
    let server =
        Fake::new(|request| vec![reply(request, json!({"numbers": [u64::MAX, i64::MIN]}))]);
    let ended = run(&server.socket(), &["query-numbers"]);
    assert_eq!(
        ended.stdout,
        "{\n  \"numbers\": [\n    18446744073709551615,\n    -9223372036854775808\n  ]\n}\n"
    );
    assert_eq!((ended.stderr.as_str(), ended.status), ("", Some(0)));
}

#[test]
fn arguments_arrive_as_they_were_meant() {
    let server = Fake::new(|request| vec![reply(request, json!({}))]);
    let socket = server.socket();
    for arguments in [
        &[
            "command",
            r#"{"value": 18446744073709551615, "a": {"b": "x"}}"#,
        ][..],
        &["command", "value=18446744073709551615", "a.b=x"],
        &[
            "--timeout",
            "9s",
            "command",
            "{'value': 18446744073709551615, 'a': {'b': 'x'}}",
        ],
    ] {
        assert_eq!(run(&socket, arguments).status, Some(0), "{arguments:?}");
    }
    let expected = json!({"value": u64::MAX, "a": {"b": "x"}});
    let seen = server.arguments_of("command");
    assert_eq!(seen, vec![expected; 3]);
}

#[test]
fn error_of_the_machine_has_class_and_text_and_status_1() {
    let server = Fake::new(|request| vec![refuse(request, "DeviceNotActive", "No balloon")]);
    let ended = run(&server.socket(), &["balloon", "value=1"]);
    assert_eq!(ended.stderr, "aerostat-ctl: DeviceNotActive: No balloon\n");
    assert_eq!((ended.stdout.as_str(), ended.status), ("", Some(1)));
}

#[test]
fn unusable_requests_are_told_in_one_line_with_status_2() {
    let server = Fake::new(|request| vec![reply(request, json!({}))]);
    let socket = server.socket();
    let directory = server.directory();
    let none = directory.join("none");
    for (socket, arguments, said) in [
        (socket.as_path(), &["c", "{\"a\": }"][..], "line 1 column 7"),
        (&socket, &["c", "256M"], "write KEY=VALUE"),
        (&socket, &["resize", "1Q"], "not a size"),
        (&none, &["status"], "There is no socket"),
        (&directory, &["status"], "is not a socket"),
        (Path::new("/dev/null"), &["shell"], "is not a socket"),
    ] {
        let ended = run(socket, arguments);
        assert!(ended.stderr.contains(said), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert_eq!(ended.status, Some(2), "{ended:?}");
    }
    assert!(server.arguments_of("c").is_empty());
}

#[test]
fn reply_that_does_not_come_ends_with_status_124() {
    let server = Fake::new(|_| Vec::new());
    let ended = run(&server.socket(), &["slow", "--timeout", "3s"]);
    assert_eq!(ended.stderr, "aerostat-ctl: No reply came in time\n");
    assert_eq!(ended.status, Some(124));
}

#[test]
fn silent_server_is_explained_and_given_up() {
    let directory = tempfile::TempDir::new().expect("temporary directory");
    let socket = directory.path().join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    let begun = Instant::now();
    let ended = run(&socket, &["--timeout", "3500ms", "status"]);
    assert!(begun.elapsed().as_millis() >= 3500);
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert!(
        lines[0].starts_with("aerostat-ctl: Waiting for "),
        "{ended:?}"
    );
    assert!(
        lines[1].contains("did not serve this client within 3s 500ms"),
        "{ended:?}"
    );
    assert!(lines[1].ends_with("QEMU serves one at a time"), "{ended:?}");
    assert_eq!(ended.status, Some(124));
}

#[test]
fn server_without_a_place_is_explained_and_given_up() {
    let directory = tempfile::TempDir::new().expect("temporary directory");
    let socket = directory.path().join("s");
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None);
    let listener = listener.expect("socket");
    let address = SocketAddrUnix::new(&socket).expect("address");
    rustix::net::bind(&listener, &address).expect("bind");
    // One client may wait for its connection; there it is.
    rustix::net::listen(&listener, 0).expect("listen");
    let _first = std::os::unix::net::UnixStream::connect(&socket).expect("connect");
    let ended = run(&socket, &["--timeout", "3500ms", "status"]);
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!((lines.len(), ended.status), (2, Some(124)), "{ended:?}");
    assert!(lines[0].contains("another client may be connected"));
}

#[test]
fn server_that_refuses_to_greet_is_quoted() {
    let directory = tempfile::TempDir::new().expect("temporary directory");
    let socket = directory.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("accept");
        let refusal = r#"{"error": {"class": "GenericError", "desc": "Too many clients"}}"#;
        // A client that has gone shows in what it says.
        let _ = writeln!(client, "{refusal}");
    });
    let ended = run(&socket, &["status"]);
    assert_eq!(
        ended.stderr,
        "aerostat-ctl: GenericError: Too many clients\n"
    );
    assert_eq!(ended.status, Some(1));
}

#[test]
fn error_without_id_is_the_answer() {
    let server = Fake::new(|_| vec![json!({"error": {"class": "GenericError", "desc": "deep"}})]);
    let ended = run(&server.socket(), &["query-name"]);
    assert_eq!(ended.stderr, "aerostat-ctl: GenericError: deep\n");
    assert_eq!(ended.status, Some(1));
}

/// A server that sends three events when it is asked for its balloon.
fn eventful() -> Fake {
    Fake::new(|request| match request["execute"].as_str() {
        Some("x-query-balloon") => vec![
            event("STOP", &json!({})),
            event("BALLOON_CHANGE", &json!({"actual": u64::MAX})),
            event("RESUME", &json!({})),
            unknown(request),
        ],
        _ => vec![unknown(request)],
    })
}

#[test]
fn events_are_lines_of_json_up_to_the_count() {
    let ended = run(&eventful().socket(), &["events", "--count", "3"]);
    let events: Vec<Value> = ended
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let names: Vec<&Value> = events.iter().map(|event| &event["event"]).collect();
    assert_eq!(names, ["STOP", "BALLOON_CHANGE", "RESUME"]);
    assert_eq!(events[1]["data"]["actual"], u64::MAX);
    assert_eq!(ended.status, Some(0));
}

#[test]
fn events_can_be_chosen_by_their_names() {
    let arguments = ["events", "resume", "X_NONE", "--count", "1"];
    let ended = run(&eventful().socket(), &arguments);
    assert_eq!(ended.stdout.lines().count(), 1);
    assert!(ended.stdout.contains("RESUME"), "{ended:?}");
}

#[test]
fn events_end_with_the_time_or_the_reader() {
    let server = eventful();
    let ended = run(&server.socket(), &["events", "--timeout", "5s"]);
    assert_eq!((ended.stdout.lines().count(), ended.status), (3, Some(124)));

    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let mut child = ctl(&server.socket(), &["events", "--timeout", "30s"])
        .stdout(writer)
        .spawn()
        .expect("start");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

#[test]
fn status_leaves_out_what_the_server_lacks() {
    let server = Fake::new(|request| match request["execute"].as_str() {
        Some("query-status") => vec![reply(request, json!({"status": "paused"}))],
        _ => vec![unknown(request)],
    });
    let ended = run(&server.socket(), &["status"]);
    assert_eq!(
        ended.stdout,
        "version   QEMU 7.2.1 (fake)\nstate     paused\n"
    );
    assert_eq!((ended.stderr.as_str(), ended.status), ("", Some(0)));
}

#[test]
fn status_as_json_has_bytes() {
    let server = Fake::new(|request| match request["execute"].as_str() {
        Some("query-name") => vec![reply(request, json!({"name": "vm1"}))],
        Some("x-query-balloon") => {
            let balloon = json!({"target": 1, "actual": 2, "state": "inflating"});
            vec![reply(request, balloon)]
        }
        Some("query-memory-size-summary") => {
            vec![reply(
                request,
                json!({"base-memory": 4096, "plugged-memory": 4096}),
            )]
        }
        _ => vec![unknown(request)],
    });
    let ended = run(&server.socket(), &["status", "--json"]);
    let status: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    assert_eq!(status["name"], "vm1");
    assert_eq!(status["memory"], 8192);
    assert_eq!(status["balloon"]["state"], "inflating");
}
