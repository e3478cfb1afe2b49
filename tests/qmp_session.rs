//! Sessions on the real socket, as a person with socat or several programs hold them.

mod common;

use std::time::Duration;

use aerostat_tiny_guest::Script;
use common::machine::Machine;
use common::setup::Setup;
use common::typist::Typist;

const LIMIT: Duration = Duration::from_secs(30);

fn start(script: Script) -> Machine {
    Setup::tiny(script).expect("guest").start().expect("start")
}

/// The lines of README.md that are to be pasted.
fn session_of_the_readme() -> String {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("```json\n").expect("the session begins");
    let (session, _) = rest.split_once("```").expect("the session ends");
    session.to_owned()
}

#[test]
fn session_of_the_readme_works_when_pasted() {
    let mut machine = start(Script::new());
    let (mut typist, greeting) = Typist::sit_down(&machine).expect("sit down");
    assert!(
        greeting.starts_with("{\"QMP\": {\"version\": {\"qemu\": "),
        "{greeting}"
    );

    typist.type_in(&session_of_the_readme()).expect("type");

    let expected = [
        "{\"return\": {}}\r\n",
        "{\"return\": {}}\r\n",
        "{\"return\": {\"actual\": 67108864}}\r\n",
        "STOP",
        "{\"return\": {}}\r\n",
        "RESUME",
        "{\"return\": {}}\r\n",
        "SHUTDOWN",
        "{\"return\": {}}\r\n",
    ];
    for part in expected {
        let line = typist.line().expect("line");
        assert!(line.contains(part), "{part:?} is not in {line:?}");
    }
    assert_eq!(typist.line().expect("line"), "");
    machine.wait_success().expect("status 0");
}

#[test]
fn each_client_negotiates_for_itself() {
    let machine = start(Script::new());
    let (mut first, _) = Typist::sit_down(&machine).expect("sit down");
    let (mut second, _) = Typist::sit_down(&machine).expect("sit down");
    first
        .type_in("{\"execute\": \"qmp_capabilities\"}")
        .expect("type");
    assert_eq!(first.line().expect("line"), "{\"return\": {}}\r\n");
    second
        .type_in("{\"execute\": \"query-status\"}")
        .expect("type");
    assert_eq!(
        second.message().expect("message")["error"]["class"],
        "CommandNotFound"
    );
    first
        .type_in("{\"execute\": \"query-status\"}")
        .expect("type");
    assert_eq!(
        first.message().expect("message")["return"]["status"],
        "running"
    );
}

#[test]
fn events_go_to_every_negotiated_client() {
    let machine = start(Script::new());
    let mut first = machine.qmp().expect("connect");
    let mut second = machine.qmp().expect("connect");
    first.execute("stop").expect("stop");
    for client in [&mut first, &mut second] {
        let event = client.wait_event("STOP", LIMIT).expect("event");
        assert!(event["timestamp"]["seconds"].is_u64());
    }
}

#[test]
fn client_that_sends_rubbish_disturbs_nobody() {
    let machine = start(Script::new());
    let (mut rude, _) = Typist::sit_down(&machine).expect("sit down");
    rude.type_in("GET / HTTP/1.1\r\n\r\n\u{1}\u{2}{]]]\"")
        .expect("type");
    let mut polite = machine.qmp().expect("connect");
    assert_eq!(polite.status().expect("status"), "running");
    assert_eq!(
        rude.message().expect("message")["error"]["class"],
        "GenericError"
    );
}

#[test]
fn machine_says_what_it_is_and_what_it_can_do() {
    let machine = start(Script::new());
    let mut qmp = machine.qmp().expect("connect");
    let version = qmp.execute("query-version").expect("version");
    assert!(
        version["package"]
            .as_str()
            .is_some_and(|text| text.contains("aerostat"))
    );
    let kvm = qmp.execute("query-kvm").expect("kvm");
    assert_eq!(
        (&kvm["enabled"], &kvm["present"]),
        (&true.into(), &true.into())
    );
    assert_eq!(
        qmp.execute("query-name").expect("name"),
        serde_json::json!({})
    );
    let commands = qmp.execute("query-commands").expect("commands");
    let listed = |name: &str| {
        commands
            .as_array()
            .is_some_and(|all| all.iter().any(|command| command["name"] == name))
    };
    for name in [
        "balloon",
        "query-balloon",
        "query-status",
        "stop",
        "cont",
        "quit",
    ] {
        assert!(listed(name), "{name} is not listed");
    }
}
