//! One client of the server: its socket, its session, and what is on the way in and out.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use event_manager::EventSet;
use rustix::io::{Errno, read};
use rustix::net::{SendFlags, send};

use crate::message::{Reply, write_greeting};
use crate::session::Session;

/// While more than this much output is unsent, no more input of the client is processed.
pub const OUTPUT_PAUSE_BYTES: usize = 1 << 20;
/// A client that has this many bytes of events waiting is cut off: it does not read. The guest
/// alone cannot bring that about in less than half an hour (see [`throttle`](crate::throttle)).
pub const MAX_EVENT_BACKLOG_BYTES: usize = 16 << 20;
/// How much is sent in one turn, so that one client with much to read does not hold up the rest.
const SEND_TURN_BYTES: usize = 1 << 20;
/// An output buffer above this size is given back once it is empty.
const KEPT_OUTPUT_BYTES: usize = 64 << 10;

/// Bytes on the way to a client.
#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
    /// How many of `bytes` are sent.
    sent: usize,
    /// How many bytes of events came in since the output was last empty.
    event_bytes: usize,
    /// The socket takes no more until it says so.
    blocked: bool,
    /// Nobody is left to read.
    dead: bool,
}

impl Output {
    fn unsent(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.dead {
            write(&mut self.bytes);
        }
    }

    fn discard(&mut self) {
        let dead = self.dead;
        *self = Self {
            dead,
            ..Self::default()
        };
    }

    fn flush(&mut self, socket: &OwnedFd) {
        let turn_end = self.bytes.len().min(self.sent + SEND_TURN_BYTES);
        while self.sent < turn_end && !self.blocked {
            match send(
                socket,
                &self.bytes[self.sent..turn_end],
                SendFlags::NOSIGNAL,
            ) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => self.blocked = true,
                Err(Errno::INTR) => {}
                // The peer is gone. What it has sent before is still read and done.
                Err(_) => {
                    self.dead = true;
                    self.discard();
                    return;
                }
            }
        }
        if self.unsent() == 0 {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_OUTPUT_BYTES);
            self.sent = 0;
            self.event_bytes = 0;
        } else if self.sent > self.bytes.len() / 2 {
            // Moves less than was sent since the last time, so the cost stays linear.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }
}

/// What a read from a client gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// This many bytes.
    Bytes(usize),
    /// Nothing for now.
    None,
}

/// A connected client.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    /// The state of the protocol.
    pub session: Session,
    /// Read, but not processed since the output is full.
    pub unprocessed: Vec<u8>,
    output: Output,
    /// Whether events are for this client: from the reply that ends the negotiation on.
    listens: bool,
    /// The client sends no more.
    input_ended: bool,
    /// What the event loop watches for.
    pub interest: EventSet,
}

impl Client {
    /// A new client, its greeting on the way.
    pub fn new(socket: OwnedFd) -> Self {
        let mut output = Output::default();
        output.append(write_greeting);
        Self {
            socket,
            session: Session::default(),
            unprocessed: Vec::new(),
            output,
            listens: false,
            input_ended: false,
            interest: EventSet::IN,
        }
    }

    /// Appends a reply to the output.
    pub fn send_reply(&mut self, reply: &Reply) {
        self.output.append(|out| reply.write(out));
        self.listens = self.session.is_negotiated();
    }

    /// Appends the line of an event to the output, if the client listens.
    pub fn send_event(&mut self, line: &[u8]) {
        if !self.listens || self.input_ended {
            return;
        }
        self.output.event_bytes += line.len();
        self.output.append(|out| out.extend_from_slice(line));
        if self.output.event_bytes > MAX_EVENT_BACKLOG_BYTES {
            log::warn!(
                "QMP client {} does not read its events: cut off",
                self.as_raw_fd()
            );
            self.cut_off();
        }
    }

    /// Notes that the socket may take output again.
    pub fn unblock(&mut self) {
        self.output.blocked = false;
    }

    /// Sends what the socket takes now.
    pub fn flush(&mut self) {
        self.output.flush(&self.socket);
    }

    /// Reads what is there, as much as fits in `buffer`.
    pub fn read(&mut self, buffer: &mut [u8]) -> Input {
        match read(&self.socket, buffer) {
            Ok(0) => self.input_ended = true,
            Ok(count) => return Input::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.cut_off(),
        }
        Input::None
    }

    /// Throws away what the client has sent. Closing a socket with input left in it would show
    /// the client an error in place of the end of the file.
    pub fn drain_input(&mut self, buffer: &mut [u8]) {
        const MAX_READS: usize = 64;
        for _ in 0..MAX_READS {
            if self.input_ended || self.read(buffer) == Input::None {
                break;
            }
        }
    }

    /// Ends the connection without regard for what is on the way.
    pub fn cut_off(&mut self) {
        self.input_ended = true;
        self.unprocessed = Vec::new();
        self.output.dead = true;
        self.output.discard();
    }

    /// Whether so much output is unsent that input has to wait.
    pub fn is_full(&self) -> bool {
        self.output.unsent() > OUTPUT_PAUSE_BYTES
    }

    /// Whether output is unsent.
    pub fn has_output(&self) -> bool {
        self.output.unsent() > 0
    }

    /// Whether more input may be read.
    pub fn wants_input(&self) -> bool {
        !self.input_ended && self.unprocessed.is_empty() && !self.is_full()
    }

    /// Whether nothing remains to be done for the client.
    pub fn is_finished(&self) -> bool {
        self.input_ended && self.unprocessed.is_empty() && !self.has_output()
    }

    /// What the event loop is to watch for. `serving` is false once `quit` has been executed.
    pub fn wanted_interest(&self, serving: bool) -> EventSet {
        let mut interest = EventSet::empty();
        if serving && self.wants_input() {
            interest |= EventSet::IN;
        }
        // Input that waits for room goes on when the socket takes output.
        if self.has_output() || (serving && !self.unprocessed.is_empty()) {
            interest |= EventSet::OUT;
        }
        interest
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut client = Client::new(ours.into());
        client.listens = true;
        (client, theirs)
    }

    #[test]
    fn client_that_does_not_read_events_is_cut_off() {
        let (mut client, _theirs) = pair();
        let line = vec![b' '; 1 << 20];
        for _ in 0..16 {
            client.flush();
            client.send_event(&line);
        }
        assert!(client.is_full() && !client.is_finished());
        client.send_event(&line);
        assert!(client.is_finished());
    }

    #[test]
    fn output_to_a_slow_reader_arrives_whole() {
        let (mut client, mut theirs) = pair();
        let line: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
        client.send_event(&line);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        while client.has_output() {
            client.unblock();
            client.flush();
        }
        drop(client);
        assert!(reader.join().unwrap().ends_with(&line));
    }

    #[test]
    fn output_to_a_closed_peer_is_discarded_but_input_goes_on() {
        let (mut client, theirs) = pair();
        drop(theirs);
        client.flush();
        assert!(!client.has_output() && client.wants_input());
        client.read(&mut [0; 16]);
        assert!(client.is_finished());
    }
}
