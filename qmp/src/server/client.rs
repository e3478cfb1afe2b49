//! One client of the server: its socket, its session, and what is on the way in and out.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use event_manager::EventSet;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use rustix::net::{Shutdown, shutdown};

use super::output::Output;
use crate::backend::CommandError;
use crate::message::{Reply, write_greeting};
use crate::session::Session;

/// While more than this much output is unsent, no more input of the client is processed.
pub const OUTPUT_PAUSE_BYTES: usize = 1 << 20;
/// A client that has this many bytes of events waiting is cut off: it does not read. The guest
/// alone cannot bring that about in less than half an hour (see [`throttle`](crate::throttle)); where
/// many clients do not read, the memory that they share is used up before.
pub const MAX_EVENT_BACKLOG_BYTES: usize = 16 << 20;

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
    /// Counts the clients of the server, from 1; by it the log names this one.
    pub number: u64,
    /// The descriptor of the listening socket that it connected to.
    pub listener: RawFd,
    /// The state of the protocol.
    pub session: Session,
    /// Read, but not processed, since the output is full or it is the turn of others.
    pub unprocessed: Vec<u8>,
    output: Output,
    /// Whether events are for this client: from the reply that ends the negotiation on.
    listens: bool,
    /// The line of the last request has not ended yet.
    pub is_in_line: bool,
    /// The client sends no more, or is not listened to.
    input_ended: bool,
    /// Nothing is done any more of what the client has sent.
    is_ignored: bool,
    /// What the event loop watches for.
    pub interest: EventSet,
}

impl Client {
    /// A new client of `listener`, its greeting on the way.
    pub fn new(socket: OwnedFd, listener: RawFd, number: u64) -> Self {
        let mut output = Output::default();
        output.append(write_greeting);
        Self {
            socket,
            number,
            listener,
            session: Session::default(),
            unprocessed: Vec::new(),
            output,
            listens: false,
            is_in_line: false,
            input_ended: false,
            is_ignored: false,
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
        if !self.listens() {
            return;
        }
        self.output.append_event(line);
        if self.output.event_bytes() > MAX_EVENT_BACKLOG_BYTES {
            self.cut_off_as_deaf();
        }
    }

    /// Ends the connection of a client that does not read its events.
    pub fn cut_off_as_deaf(&mut self) {
        log::warn!(
            "QMP client {} does not read its events: cut off",
            self.number
        );
        self.cut_off();
    }

    /// Tells the client why it is sent away, in place of what was appended to its output since
    /// `held_output_bytes` were there. Nothing is read from it any more, and once it has read what
    /// is on the way the connection ends.
    pub fn send_away(&mut self, error: CommandError, held_output_bytes: usize) {
        log::warn!("QMP client {} is sent away: {error}", self.number);
        let reply = Reply {
            id: None,
            result: Err(error),
        };
        self.output.take_back(held_output_bytes);
        self.output.append(|out| reply.write(out));
        self.ignore_input();
    }

    /// How many bytes of memory the client's input and output take.
    pub fn held_bytes(&self) -> usize {
        self.session.held_bytes() + self.unprocessed.len() + self.held_output_bytes()
    }

    /// How many of them the output takes.
    pub fn held_output_bytes(&self) -> usize {
        self.output.held_bytes()
    }

    /// Notes that the socket may take output again.
    pub fn unblock(&mut self) {
        self.output.unblock();
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

    /// Tells the client that it gets no more, and waits until it sends something or goes, for at most
    /// `limit`.
    pub fn await_input(&self, limit: Duration) {
        // Errors mean that it has gone.
        let _ = shutdown(&self.socket, Shutdown::Write);
        let limit = Timespec::try_from(limit).ok();
        let _ = poll(&mut [PollFd::new(self, PollFlags::IN)], limit.as_ref());
    }

    /// Throws away what the client has sent. Closing a socket with input left in it would show
    /// the client an error in place of the end of the file.
    pub fn drain_input(&mut self, buffer: &mut [u8]) {
        const MAX_READS: usize = 64;
        for _ in 0..MAX_READS {
            if !matches!(read(&self.socket, &mut *buffer), Ok(1..)) {
                break;
            }
        }
    }

    /// Ends the connection without regard for what is on the way.
    pub fn cut_off(&mut self) {
        self.output.kill();
        self.ignore_input();
    }

    fn ignore_input(&mut self) {
        self.is_ignored = true;
        self.input_ended = true;
        self.session = Session::default();
        self.unprocessed = Vec::new();
    }

    /// Whether what the client has sent is not to be done any more.
    pub fn is_ignored(&self) -> bool {
        self.is_ignored
    }

    /// Whether the client gets events.
    pub fn listens(&self) -> bool {
        self.listens && !self.input_ended
    }

    /// Whether so much output is unsent that input has to wait.
    pub fn is_full(&self) -> bool {
        self.output.unsent_bytes() > OUTPUT_PAUSE_BYTES
    }

    /// Whether output is unsent.
    pub fn has_output(&self) -> bool {
        self.output.unsent_bytes() > 0
    }

    /// Whether more input may be read.
    pub fn wants_input(&self) -> bool {
        !self.input_ended && self.unprocessed.is_empty() && !self.is_full()
    }

    /// Whether input that had to wait can be processed now.
    pub fn wants_turn(&self) -> bool {
        !self.unprocessed.is_empty() && !self.is_full()
    }

    /// Whether nothing remains to be done for the client.
    pub fn is_finished(&self) -> bool {
        self.has_sent_all() && !self.session.is_waiting() && !self.has_output()
    }

    /// Whether all that the client will ever send is done, or being waited for.
    pub fn has_sent_all(&self) -> bool {
        self.input_ended && self.unprocessed.is_empty()
    }

    /// What the event loop is to watch for. `serving` is false once `quit` has been executed.
    pub fn wanted_interest(&self, serving: bool) -> EventSet {
        let mut interest = EventSet::empty();
        if serving && self.wants_input() {
            interest |= EventSet::IN;
        }
        if self.has_output() {
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
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut client = Client::new(ours.into(), 0, 1);
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
    fn client_that_gets_no_more_can_still_end_its_line() {
        let (client, mut theirs) = pair();
        let writer = std::thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            theirs.write_all(b"\n")
        });
        client.await_input(Duration::from_secs(60));
        assert!(writer.join().unwrap().is_ok());

        let (client, theirs) = pair();
        drop(theirs);
        client.await_input(Duration::from_secs(60));
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
