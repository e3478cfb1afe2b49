//! Several sockets, and the guest's start that waits for clients on some.

use super::*;

#[test]
fn clients_of_all_sockets_get_the_events() {
    let mut fixture = Fixture::with_sockets(&[("a", false), ("b", false)]);
    let mut clients = ["a", "a", "b"].map(|name| fixture.negotiated_on(name));

    fixture.events.send(Event::Stop);

    for client in &mut clients {
        let line = fixture.receive(client);
        assert!(line.contains("\"event\": \"STOP\""), "{line}");
    }
}

#[test]
fn clients_of_all_sockets_count_for_the_limit() {
    let mut fixture = Fixture::with_sockets(&[("a", false), ("b", false)]);
    let names = ["a", "b"].into_iter().cycle().take(MAX_CLIENTS);
    let _clients: Vec<_> = names.map(|name| fixture.connect_to(name)).collect();

    for name in ["a", "b"] {
        let mut refused = UnixStream::connect(fixture.dir.path().join(name)).unwrap();
        assert!(
            fixture
                .receive(&mut refused)
                .contains("Too many clients: 64")
        );
        assert!(is_at_eof(&mut refused));
    }
}

#[test]
fn server_without_sockets_serves_nobody_and_sleeps() {
    let mut fixture = Fixture::with_sockets(&[]);
    fixture.events.send(Event::Stop);
    fixture.settle();
    fixture.server().finish(Duration::ZERO);
}

#[test]
fn all_files_are_gone_with_the_server() {
    let fixture = Fixture::with_sockets(&[("a", false), ("b", true)]);
    let Fixture { manager, dir, .. } = fixture;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    drop(manager);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn all_files_are_gone_when_the_clients_have_heard_the_last() {
    let mut fixture = Fixture::with_sockets(&[("a", false), ("b", true)]);
    fixture.server().finish(Duration::ZERO);
    assert_eq!(std::fs::read_dir(fixture.dir.path()).unwrap().count(), 0);
}

#[test]
fn guest_starts_when_a_client_has_negotiated_on_each_socket_that_waits() {
    let mut fixture = Fixture::with_sockets(&[("a", true), ("b", false), ("c", true)]);
    let mut silent = fixture.connect_to("c");
    let _other = fixture.negotiated_on("b");
    drop(fixture.negotiated_on("a"));
    fixture.settle();
    assert!(fixture.server().awaits_clients());
    assert_eq!(fixture.server().backend().status, RunState::Prelaunch);

    let reply = fixture.ask(&mut silent, "{'execute': 'qmp_capabilities'}");

    assert_eq!(reply, DONE);
    assert!(!fixture.server().awaits_clients());
    assert_eq!(fixture.server().backend().status, RunState::Running);
}

#[test]
fn negotiation_that_fails_does_not_start_the_guest() {
    let mut fixture = Fixture::with_sockets(&[("a", true)]);
    let mut client = fixture.connect_to("a");
    for request in [
        "{'execute': 'cont'}",
        "{'execute': 'qmp_capabilities', 'arguments': {'enable': ['x']}}",
        "{]",
    ] {
        let reply = fixture.ask(&mut client, request);
        assert!(reply.starts_with("{\"error\""), "{reply}");
    }
    assert_eq!(fixture.server().backend().status, RunState::Prelaunch);
    assert!(fixture.server().awaits_clients());
}

#[test]
fn guest_that_somebody_has_started_is_not_started_again() {
    let mut fixture = Fixture::with_sockets(&[("a", true), ("b", false)]);
    let mut impatient = fixture.negotiated_on("b");
    let replies = fixture.ask(
        &mut impatient,
        "{'execute': 'query-status'}{'execute': 'cont'}{'execute': 'stop'}",
    );
    assert!(replies.contains("prelaunch"), "{replies}");
    assert!(!fixture.server().awaits_clients());
    // As after a reset of a machine that does not run.
    fixture.server().backend_mut().status = RunState::Prelaunch;

    let _late = fixture.negotiated_on("a");

    assert_eq!(fixture.server().backend().status, RunState::Prelaunch);
}

#[test]
fn guest_does_not_start_when_the_client_it_waited_for_quits() {
    let mut fixture = Fixture::with_sockets(&[("a", true), ("b", true)]);
    let _first = fixture.negotiated_on("a");
    let mut client = fixture.connect_to("b");
    let request = "{'execute': 'quit'}{'execute': 'qmp_capabilities'}{'execute': 'quit'}";
    fixture.ask(&mut client, request);
    assert!(fixture.server().backend().quit);
}
