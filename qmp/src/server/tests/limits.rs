//! What a client that is greedy, slow or broken can take from the server and from the others.

use super::memory::CLIENT_BYTES;
use super::*;

/// What all clients may hold together beyond their own parts, in these tests.
const SHARED: usize = 4 << 20;
/// What the tokens before a long string take at most.
const SLACK: usize = 1000;

/// A server whose clients may hold [`SHARED`] together beyond their own parts.
fn small() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.server().clients.shared_limit = SHARED;
    fixture
}

impl Fixture {
    /// Sends all that the server takes.
    fn send(&mut self, client: &mut UnixStream, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            match client.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.settle(),
                Err(_) => break,
            }
        }
        self.settle();
        sent
    }

    /// What the server holds for its clients.
    fn held_bytes(&mut self) -> usize {
        let clients = self.server().clients.values();
        clients.map(|client| client.held_bytes()).sum()
    }
}

/// The beginning of a request with `len` bytes.
fn unfinished(len: usize) -> Vec<u8> {
    let mut text = b"{'execute': '".to_vec();
    text.resize(len, b'x');
    text
}

#[test]
fn unfinished_requests_are_bounded_over_all_clients() {
    let mut fixture = small();
    let mut clients: Vec<_> = (0..4).map(|_| fixture.negotiated()).collect();
    for client in &mut clients {
        fixture.send(client, &unfinished(CLIENT_BYTES + SHARED / 4 - SLACK));
    }
    assert_eq!(fixture.server().clients.len(), 4);

    let mut greedy = fixture.negotiated();
    fixture.send(&mut greedy, &unfinished(CLIENT_BYTES + (1 << 20)));

    let mut told = String::new();
    // The rest of what it sent is not read.
    let _ = greedy.read_to_string(&mut told);
    assert!(
        told.starts_with("{\"error\": {\"class\": \"GenericError\""),
        "{told}"
    );
    assert!(
        told.contains("Too much data") && told.contains("4 MiB"),
        "{told}"
    );
    assert_eq!(fixture.server().clients.len(), 4);
    let reply = fixture.ask(&mut clients[0], "'}");
    assert!(reply.contains("CommandNotFound"), "{}", reply.len());
}

#[test]
fn requests_of_many_small_tokens_count_with_what_the_tokens_take() {
    let mut fixture = small();
    let mut greedy = fixture.negotiated();
    let text = [b"[".as_slice(), &b"1,".repeat(1 << 18)].concat();
    fixture.send(&mut greedy, &text);
    assert!(fixture.receive(&mut greedy).contains("Too much data"));
    assert!(fixture.held_bytes() < CLIENT_BYTES);
}

#[test]
fn client_within_its_own_part_is_served_while_the_shared_part_is_used_up() {
    let mut fixture = small();
    let mut greedy = fixture.negotiated();
    fixture.send(&mut greedy, &unfinished(CLIENT_BYTES + SHARED - SLACK));
    let mut modest = fixture.negotiated();
    fixture.send(&mut modest, &unfinished(CLIENT_BYTES - SLACK));
    let reply = fixture.ask(&mut modest, "'}");
    assert!(reply.contains("CommandNotFound"), "{}", reply.len());
    assert_eq!(fixture.server().clients.len(), 2);
}

#[test]
fn memory_of_a_request_is_there_again_when_its_client_leaves() {
    let mut fixture = small();
    for _ in 0..4 {
        let mut client = fixture.negotiated();
        fixture.send(&mut client, &unfinished(CLIENT_BYTES + SHARED - SLACK));
        assert_eq!(fixture.server().clients.len(), 1);
        drop(client);
        fixture.settle();
        assert_eq!(fixture.held_bytes(), 0);
    }
}

#[test]
fn reply_for_which_no_memory_is_left_is_replaced_by_an_error() {
    let mut fixture = small();
    let mut client = fixture.negotiated();
    // In a reply each of these characters takes six bytes.
    let id = "\u{7f}".repeat(CLIENT_BYTES);
    let request = format!("{{'execute': 'query-name', 'id': '{id}'}} {{'execute': 'cont'}}");
    fixture.send(&mut client, request.as_bytes());

    let told = fixture.receive(&mut client);
    assert!(
        told.starts_with("{\"error\"") && told.contains("Too much data"),
        "{told}"
    );
    assert!(is_at_eof(&mut client));
    assert_eq!(fixture.server().clients.len(), 0);
    // What came after the request is not done.
    assert_eq!(fixture.server().backend().status, RunState::Prelaunch);
}

#[test]
fn long_reply_arrives_whole_when_there_is_memory() {
    let mut fixture = Fixture::new();
    let mut client = fixture.negotiated();
    let id = "\u{7f}".repeat(CLIENT_BYTES);
    fixture.send(
        &mut client,
        format!("{{'execute': 'query-name', 'id': '{id}'}}").as_bytes(),
    );
    let reply = fixture.receive(&mut client);
    assert_eq!(reply.matches("\\u007F").count(), CLIENT_BYTES);
    assert_eq!(fixture.held_bytes(), 0);
}

#[test]
fn events_of_clients_that_do_not_read_are_bounded_over_all_clients() {
    let mut fixture = small();
    let deaf: Vec<_> = (0..8).map(|_| fixture.negotiated()).collect();
    let mut reader = fixture.negotiated();
    let mut most = 0;
    for round in 0..120 {
        for _ in 0..1000 {
            fixture.events.send(Event::Stop);
        }
        fixture.settle();
        most = most.max(fixture.held_bytes());
        assert_eq!(
            fixture.receive(&mut reader).lines().count(),
            1000,
            "{round}"
        );
    }
    assert!(most > 8 * CLIENT_BYTES, "{most}");
    assert!(most <= 9 * CLIENT_BYTES + SHARED, "{most}");
    assert!(fixture.server().clients.len() < 9);
    drop(deaf);
}

#[test]
fn client_with_long_commands_leaves_the_others_their_turns() {
    let mut fixture = Fixture::new();
    fixture.server().backend_mut().stop_takes = 2 * TURN_TIME;
    let mut greedy = fixture.negotiated();
    let mut polite = fixture.negotiated();
    greedy
        .write_all("{'execute': 'stop'}".repeat(100).as_bytes())
        .unwrap();
    for _ in 0..3 {
        polite.write_all(b"{'execute': 'query-status'}").unwrap();
        fixture.manager.run_with_timeout(100).unwrap();
        fixture.manager.run_with_timeout(100).unwrap();
        let mut reply = [0; 256];
        let count = polite.read(&mut reply).unwrap();
        assert!(reply[..count].starts_with(b"{\"return\": "));
    }
    let mut early = vec![0; 1 << 16];
    let count = greedy.read(&mut early).unwrap();
    let early = early[..count].iter().filter(|byte| **byte == b'\n').count();
    assert!((1..10).contains(&early), "{early}");
    assert_eq!(fixture.receive(&mut greedy).lines().count(), 100 - early);
}

#[test]
fn commands_of_a_client_that_never_reads_are_done_up_to_the_pause() {
    let mut fixture = Fixture::new();
    let mut lazy = fixture.negotiated();
    let queries = "{'execute': 'query-commands'}".repeat(100);
    lazy.write_all(queries.as_bytes()).unwrap();
    lazy.write_all(b"{'execute': 'cont'}").unwrap();
    fixture.settle();
    assert_eq!(fixture.server().backend().status, RunState::Running);
}
