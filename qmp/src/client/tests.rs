//! The client against servers that say what a test lays down.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}"#;

fn soon() -> Deadline {
    Some(Instant::now() + Duration::from_secs(20))
}

fn at_once() -> Deadline {
    Some(Instant::now() + Duration::from_millis(20))
}

/// A server that reads a line for each of its steps, then writes the step's text; what it read is
/// the thread's value.
struct Server {
    directory: TempDir,
    thread: JoinHandle<Vec<String>>,
}

impl Server {
    /// A server with this greeting, and these steps after it.
    fn new(greeting: &'static str, steps: &'static [&'static str]) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            stream.write_all(greeting.as_bytes()).unwrap();
            let answer = |step: &&str| {
                let line = lines.next().unwrap().unwrap();
                stream.write_all(step.as_bytes()).unwrap();
                line
            };
            steps.iter().map(answer).collect()
        });
        Self { directory, thread }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    fn client(&self) -> Client {
        Client::connect(&self.socket(), soon()).unwrap()
    }
}

#[test]
fn command_gets_its_reply_and_events_wait() {
    let server = Server::new(
        GREETING,
        &[
            r#"{"return": {}, "id": 1}"#,
            "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"STOP\"}\r\n\
             {\"return\": {\"a\": 1}, \"id\": 2}\r\n",
        ],
    );
    let mut client = server.client();
    assert_eq!(client.greeting().version["qemu"]["major"], 7);

    let value = client.execute("stop", Some(Arguments::new()), soon());

    assert_eq!(value.unwrap(), json!({"a": 1}));
    assert_eq!(client.next_event(soon()).unwrap().unwrap().name, "STOP");
    let requests = server.thread.join().unwrap();
    assert_eq!(
        requests[1],
        r#"{"execute": "stop", "id": 2, "arguments": {}}"#
    );
}

#[test]
fn replies_are_told_by_their_ids_in_any_order() {
    let server = Server::new(
        GREETING,
        &[
            r#"{"return": {}, "id": 1}"#,
            "",
            r#"{"return": "second", "id": 3} {"return": "first", "id": 2}"#,
        ],
    );
    let mut client = server.client();
    let first = client.send("x-slow", None, soon()).unwrap();
    assert_eq!(client.execute("fast", None, soon()).unwrap(), "second");
    assert!(client.receive(soon()).unwrap());
    assert_eq!(client.take_reply(&first).unwrap().result.unwrap(), "first");
}

#[test]
fn late_reply_is_passed_over() {
    let server = Server::new(
        GREETING,
        &[
            r#"{"return": {}, "id": 1}"#,
            "",
            r#"{"return": "late", "id": 2}{"return": "now", "id": 3}"#,
        ],
    );
    let mut client = server.client();
    let late = client.execute("slow", None, at_once());
    assert!(matches!(late, Err(ClientError::Timeout("reply"))));
    assert_eq!(client.execute("fast", None, soon()).unwrap(), "now");
    assert!(client.replies.is_empty() && client.given_up.is_empty());
}

#[test]
fn integers_keep_all_their_digits() {
    let server = Server::new(
        GREETING,
        &[
            r#"{"return": {}, "id": 1}"#,
            r#"{"return": [18446744073709551615, -9223372036854775808], "id": 2}"#,
        ],
    );
    let value = server.client().execute("numbers", None, soon()).unwrap();
    assert_eq!(value, json!([u64::MAX, i64::MIN]));
}

#[test]
fn refusal_has_class_and_text() {
    let server = Server::new(
        GREETING,
        &[
            r#"{"return": {}, "id": 1}"#,
            r#"{"id": 2, "error": {"class": "CommandNotFound", "desc": "The command x has not been found"}}"#,
        ],
    );
    let refused = server.client().execute("x", None, soon());
    let Err(ClientError::Refused(refusal)) = refused else {
        panic!("{refused:?}");
    };
    assert!(refusal.is_unknown_command());
}

#[test]
fn server_that_goes_is_noticed() {
    let server = Server::new(GREETING, &[r#"{"return": {}, "id": 1}"#, ""]);
    let mut client = server.client();
    let result = client.execute("quit", None, soon());
    assert!(matches!(result, Err(ClientError::Closed)), "{result:?}");
}

#[test]
fn silent_server_can_be_asked_again() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut pending = Pending::open(&path, soon()).unwrap();
    assert_eq!(pending.greeting(at_once()).unwrap(), None);
    let (mut stream, _) = listener.accept().unwrap();
    let (head, tail) = GREETING.split_at(9);

    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(pending.greeting(at_once()).unwrap(), None);
    stream.write_all(tail.as_bytes()).unwrap();

    let greeting = pending.greeting(soon()).unwrap().unwrap();
    assert_eq!(greeting.capabilities, ["oob"]);
}

#[test]
fn what_is_no_qmp_is_quoted() {
    for (said, quoted) in [
        (
            "SSH-2.0-OpenSSH_9.2\r\n",
            r#"sent "SSH-2.0-OpenSSH_9.2\r\n""#,
        ),
        ("220 mail\r\n", r#"sent "220""#),
        ("{\"hello\": 1}", r#"sent "{\"hello\":1}""#),
    ] {
        let server = Server::new(said, &[]);
        let error = Client::connect(&server.socket(), soon()).unwrap_err();
        assert!(error.to_string().contains(quoted), "{error}");
    }
}

#[test]
fn path_without_listener_is_told_apart() {
    let directory = TempDir::new().unwrap();
    let open = |name: &str| Pending::open(&directory.path().join(name), soon()).unwrap_err();
    assert!(matches!(open("none"), ConnectError::Missing(_)));

    std::fs::write(directory.path().join("file"), "").unwrap();
    assert!(matches!(open("file"), ConnectError::NoSocket(_)));

    drop(UnixListener::bind(directory.path().join("left")).unwrap());
    assert!(matches!(open("left"), ConnectError::NobodyListens(_)));

    assert!(matches!(open(&"n".repeat(120)), ConnectError::TooLong(_)));
}

#[test]
fn socket_of_another_user_needs_permission() {
    let server = Server::new(GREETING, &[]);
    std::fs::set_permissions(server.socket(), PermissionsExt::from_mode(0o000)).unwrap();
    let opened = Pending::open(&server.socket(), soon());
    // The administrator may connect to everything.
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root || matches!(opened, Err(ConnectError::Permission(_))));
    // Lets the server's thread end.
    drop(UnixStream::connect(server.socket()));
}

#[test]
fn full_queue_is_waited_for_until_the_deadline() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = Pending::open(&path, soon()).unwrap();
    let second = Pending::open(&path, at_once());
    assert!(matches!(second, Err(ConnectError::Full(_))), "{second:?}");
}
