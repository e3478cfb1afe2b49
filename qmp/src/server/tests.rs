//! The server on real sockets. The event loop runs in the test's own thread, so that "idle" can
//! be told from "not yet".

mod limits;
mod sockets;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use event_manager::{EventManager, SubscriberId, SubscriberOps};

use super::*;
use crate::events::{self, Event, EventSender, GuestDriven};
use crate::testing::Machine;
use crate::{RunState, ShutdownCause, throttle};

struct Fixture {
    manager: EventManager<Server<Machine>>,
    id: SubscriberId,
    events: EventSender,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self::with_sockets(&[("qmp", false)])
    }

    /// A server on sockets with these names, for some of which the guest waits.
    fn with_sockets(sockets: &[(&str, bool)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bind = |&(name, wait): &(&str, bool)| {
            let options = SocketOptions {
                wait,
                ..SocketOptions::new(dir.path().join(name))
            };
            Listener::bind(&options).unwrap()
        };
        let listeners = sockets.iter().map(bind).collect();
        let (events, receiver) = events::channel().unwrap();
        let mut manager = EventManager::new().unwrap();
        let server = Server::new(listeners, receiver, Machine::default()).unwrap();
        let id = manager.add_subscriber(server);
        Self {
            manager,
            id,
            events,
            dir,
        }
    }

    /// Runs the event loop until nothing is ready. Fails if that does not come about.
    fn settle(&mut self) {
        let mut wakes = 0;
        while self.manager.run_with_timeout(0).unwrap() > 0 {
            wakes += 1;
            assert!(wakes < 10_000, "the event loop spins");
        }
    }

    /// A client that has read its greeting.
    fn connect(&mut self) -> UnixStream {
        self.connect_to("qmp")
    }

    /// A client of the socket with this name that has read its greeting.
    fn connect_to(&mut self, name: &str) -> UnixStream {
        let mut client = UnixStream::connect(self.dir.path().join(name)).unwrap();
        client.set_nonblocking(true).unwrap();
        assert!(self.receive(&mut client).starts_with("{\"QMP\": "));
        client
    }

    fn negotiated(&mut self) -> UnixStream {
        self.negotiated_on("qmp")
    }

    fn negotiated_on(&mut self, name: &str) -> UnixStream {
        let mut client = self.connect_to(name);
        assert_eq!(
            self.ask(&mut client, "{'execute': 'qmp_capabilities'}"),
            DONE
        );
        client
    }

    /// What there is to read once the server is idle.
    fn receive(&mut self, client: &mut UnixStream) -> String {
        let mut all = Vec::new();
        loop {
            self.settle();
            let before = all.len();
            match client.read_to_end(&mut all) {
                Ok(_) => break,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            if all.len() == before {
                break;
            }
        }
        String::from_utf8(all).unwrap()
    }

    fn ask(&mut self, client: &mut UnixStream, request: &str) -> String {
        client.write_all(request.as_bytes()).unwrap();
        self.receive(client)
    }

    fn server(&mut self) -> &mut Server<Machine> {
        self.manager.subscriber_mut(self.id).unwrap()
    }
}

fn is_at_eof(client: &mut UnixStream) -> bool {
    client.read(&mut [0]).unwrap() == 0
}

const DONE: &str = "{\"return\": {}}\r\n";

#[test]
fn each_client_negotiates_for_itself() {
    let mut fixture = Fixture::new();
    let mut first = fixture.negotiated();
    let mut second = fixture.connect();

    assert_eq!(fixture.ask(&mut first, "{'execute': 'stop'}"), DONE);
    assert!(
        fixture
            .ask(&mut second, "{'execute': 'stop'}")
            .contains("Expecting capabilities")
    );
}

#[test]
fn events_reach_negotiated_clients_only() {
    let mut fixture = Fixture::new();
    let mut listening = fixture.negotiated();
    let mut silent = fixture.connect();

    fixture.events.send(Event::Resume);

    assert!(
        fixture
            .receive(&mut listening)
            .contains("\"event\": \"RESUME\"")
    );
    assert_eq!(fixture.receive(&mut silent), "");
}

#[test]
fn client_past_the_limit_gets_an_error_and_is_closed() {
    let mut fixture = Fixture::new();
    let mut clients: Vec<_> = (0..MAX_CLIENTS).map(|_| fixture.connect()).collect();

    let mut refused = UnixStream::connect(fixture.dir.path().join("qmp")).unwrap();
    let line = fixture.receive(&mut refused);
    assert!(line.starts_with("{\"error\": {\"class\": \"GenericError\", \"desc\": \"Too many"));
    assert!(is_at_eof(&mut refused));

    clients.pop();
    fixture.settle();
    fixture.connect();
}

#[test]
fn client_that_does_not_read_is_paused_and_loses_nothing() {
    let mut fixture = Fixture::new();
    let mut lazy = fixture.negotiated();
    let mut other = fixture.negotiated();
    let request = "{'execute': 'query-commands'}";
    let mut sent = 0;
    loop {
        match lazy.write(request.as_bytes()) {
            Ok(count) if count == request.len() => sent += 1,
            Ok(count) => panic!("wrote {count} bytes of a request"),
            Err(_) => {
                fixture.settle();
                if lazy.write(b" ").is_err() {
                    break;
                }
            }
        }
    }

    assert_eq!(fixture.ask(&mut other, "{'execute': 'stop'}"), DONE);
    let fullest = fixture
        .server()
        .clients
        .values()
        .filter(|client| client.is_full())
        .count();
    assert_eq!(fullest, 1);
    assert_eq!(fixture.receive(&mut lazy).lines().count(), sent);
}

#[test]
fn half_close_is_answered_in_full_before_the_end() {
    let mut fixture = Fixture::new();
    let mut client = fixture.negotiated();
    client
        .write_all("{'execute': 'query-commands'}".repeat(2000).as_bytes())
        .unwrap();
    client.shutdown(Shutdown::Write).unwrap();

    assert_eq!(fixture.receive(&mut client).lines().count(), 2000);
    assert!(is_at_eof(&mut client));
    assert_eq!(fixture.server().clients.len(), 0);
}

#[test]
fn command_of_a_client_that_has_left_is_executed() {
    let mut fixture = Fixture::new();
    let mut client = UnixStream::connect(fixture.dir.path().join("qmp")).unwrap();
    client
        .write_all(b"{'execute': 'qmp_capabilities'}{'execute': 'cont'}")
        .unwrap();
    drop(client);

    fixture.settle();

    assert_eq!(fixture.server().backend().status, RunState::Running);
    assert_eq!(fixture.server().clients.len(), 0);
}

#[test]
fn nothing_is_served_after_quit_and_all_clients_see_the_end() {
    let mut fixture = Fixture::new();
    let mut quitter = fixture.negotiated();
    let mut other = fixture.negotiated();

    let replies = fixture.ask(&mut quitter, "{'execute': 'quit'}{'execute': 'cont'}");
    assert_eq!(replies, DONE);
    assert_eq!(fixture.ask(&mut other, "{'execute': 'cont'}"), "");
    fixture
        .events
        .send(Event::Shutdown(ShutdownCause::HostQmpQuit));
    fixture.server().finish(Duration::from_secs(1));

    assert_eq!(fixture.server().backend().status, RunState::Prelaunch);
    for client in [&mut quitter, &mut other] {
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("SHUTDOWN"), "{rest}");
    }
}

/// Plays a part of a test in less than an interval of the throttle.
fn within_an_interval<T>(part: impl Fn() -> T) -> T {
    loop {
        let begun = Instant::now();
        let outcome = part();
        if begun.elapsed() < throttle::INTERVAL {
            return outcome;
        }
    }
}

#[test]
fn balloon_change_held_back_is_sent_at_the_end() {
    let (mut fixture, mut client, received) = within_an_interval(|| {
        let mut fixture = Fixture::new();
        let mut client = fixture.negotiated();
        for actual_bytes in [1, 2, 3] {
            fixture.events.send(Event::BalloonChange { actual_bytes });
            fixture.settle();
        }
        let received = fixture.receive(&mut client);
        (fixture, client, received)
    });
    assert!(received.ends_with("{\"actual\": 1}}\r\n"));

    fixture.server().finish(Duration::from_secs(1));

    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.lines().count(), 1);
    assert!(rest.ends_with("{\"actual\": 3}}\r\n"), "{rest}");
}

#[test]
fn guest_that_wakes_the_server_without_end_is_heard_so_often_and_then_the_server_sleeps() {
    const FLOOD: Duration = Duration::from_millis(100);
    let mut fixture = Fixture::new();
    let begun = Instant::now();
    let (mut calls, mut wakes) = (0, 0);
    while begun.elapsed() < FLOOD {
        fixture.events.wake();
        calls += 1;
        wakes += fixture.manager.run_with_timeout(0).unwrap();
    }
    // By the guest, or by the timer that lets it be heard again.
    let most = 2 * (begun.elapsed().as_millis() / HUSH_TIME.as_millis() + 1);
    let wakes = u128::try_from(wakes).unwrap();
    assert!(0 < wakes && wakes <= most, "{wakes} wake-ups of {calls}");
    // The last of it, and the end of its time.
    let rest = (0..10).find(|_| fixture.manager.run_with_timeout(500).unwrap() == 0);
    assert!(rest.is_some_and(|rest| rest <= 3), "{rest:?}");
}

#[test]
fn flood_of_resets_reaches_clients_up_to_the_limit_and_the_last_at_the_end() {
    let (mut fixture, mut client, received) = within_an_interval(|| {
        let mut fixture = Fixture::new();
        let mut client = fixture.negotiated();
        for _ in 0..200 {
            fixture.events.send(Event::Reset(ShutdownCause::GuestReset));
            fixture.settle();
        }
        let received = fixture.receive(&mut client);
        (fixture, client, received)
    });
    let limit = throttle::limit(GuestDriven::Reset);
    assert_eq!(u32::try_from(received.lines().count()), Ok(limit));

    fixture.server().finish(Duration::from_secs(1));

    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.matches("\"guest-reset\"").count(), 1, "{rest}");
}

#[test]
fn client_that_leaves_after_quit_does_not_spin_the_loop() {
    let mut fixture = Fixture::new();
    let mut quitter = fixture.negotiated();
    fixture.ask(&mut quitter, "{'execute': 'quit'}");
    drop(quitter);
    fixture.settle();
    assert_eq!(fixture.server().clients.len(), 0);
}

#[test]
fn finish_waits_no_longer_than_its_limit() {
    let mut fixture = Fixture::new();
    let mut lazy = fixture.negotiated();
    lazy.write_all("{'execute': 'query-commands'}".repeat(2000).as_bytes())
        .unwrap();
    fixture.settle();

    let start = Instant::now();
    fixture.server().finish(Duration::from_millis(50));

    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(fixture.server().clients.len(), 0);
}

#[test]
fn bytes_one_at_a_time_make_a_command() {
    let mut fixture = Fixture::new();
    let mut client = fixture.negotiated();
    for byte in b"{'execute': 'stop'" {
        client.write_all(&[*byte]).unwrap();
        fixture.settle();
    }
    assert_eq!(fixture.ask(&mut client, "}"), DONE);
}
