//! All clients of a server, and the bounds on the memory that they take together.

use std::collections::BTreeMap;
use std::collections::btree_map::{Values, ValuesMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use super::client::Client;
use super::memory::{CLIENT_BYTES, SHARED_BYTES, out_of_memory, shared_part};
use crate::backend::Backend;
use crate::message::Reply;
use crate::resize::Resize;

/// The clients, each known by its descriptor.
#[derive(Debug)]
pub struct Clients {
    by_fd: BTreeMap<RawFd, Client>,
    /// How many there have been.
    count: u64,
    /// Whether one has come or gone since this was last looked at.
    pub(super) have_changed: bool,
    /// What they may hold together beyond their own parts.
    pub(super) shared_limit: usize,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            by_fd: BTreeMap::new(),
            count: 0,
            have_changed: false,
            shared_limit: SHARED_BYTES,
        }
    }
}

impl Clients {
    /// A client that has come to the socket `listener`. It is none of these yet.
    pub fn welcome(&mut self, socket: OwnedFd, listener: RawFd) -> Client {
        self.count += 1;
        Client::new(socket, listener, self.count)
    }

    /// Adds a client.
    pub fn insert(&mut self, client: Client) {
        self.have_changed = true;
        self.by_fd.insert(client.as_raw_fd(), client);
    }

    /// Removes a client.
    pub fn remove(&mut self, fd: RawFd) -> Option<Client> {
        self.have_changed = true;
        self.by_fd.remove(&fd)
    }

    /// A client.
    pub fn get_mut(&mut self, fd: RawFd) -> Option<&mut Client> {
        self.by_fd.get_mut(&fd)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_fd.len()
    }

    /// All of them.
    pub fn values(&self) -> Values<'_, RawFd, Client> {
        self.by_fd.values()
    }

    /// All of them.
    pub fn values_mut(&mut self) -> ValuesMut<'_, RawFd, Client> {
        self.by_fd.values_mut()
    }

    /// Takes all of them away.
    pub fn take(&mut self) -> impl Iterator<Item = Client> + use<> {
        std::mem::take(&mut self.by_fd).into_values()
    }

    /// Appends a reply to the output of a client. One for which no memory is left is told instead,
    /// and sent away.
    pub fn send_reply(&mut self, fd: RawFd, reply: &Reply) {
        let Some(client) = self.by_fd.get_mut(&fd) else {
            return;
        };
        // Why it is sent away is the last that it hears.
        if client.is_ignored() {
            return;
        }
        let held_before = client.held_output_bytes();
        client.send_reply(reply);
        self.limit_memory(fd, held_before);
    }

    /// Sends a client away whose unfinished request takes more memory than is left.
    pub fn limit_input(&mut self, fd: RawFd) {
        if let Some(client) = self.by_fd.get(&fd) {
            self.limit_memory(fd, client.held_output_bytes());
        }
    }

    fn limit_memory(&mut self, fd: RawFd, kept_output_bytes: usize) {
        if self.needs_too_much(fd) {
            let error = out_of_memory(self.shared_limit);
            if let Some(client) = self.by_fd.get_mut(&fd) {
                client.send_away(error, kept_output_bytes);
            }
        }
    }

    /// Sends the replies that were waited for and whose time has come.
    pub fn answer_waiting(&mut self, machine: &dyn Backend, resize: &Resize, now: Instant) {
        let waiting = self.by_fd.values_mut();
        let waiting = waiting.filter(|client| client.session.is_waiting());
        let due: Vec<_> = waiting
            .map(|client| (client.as_raw_fd(), client.session.due(machine, resize, now)))
            .collect();
        self.send_replies(due);
    }

    /// Answers all that wait: the machine ends.
    pub fn give_up_waiting(&mut self) {
        let clients = self.by_fd.values_mut();
        let due: Vec<_> = clients
            .map(|client| (client.as_raw_fd(), client.session.give_up()))
            .collect();
        self.send_replies(due);
    }

    fn send_replies(&mut self, due: Vec<(RawFd, Vec<Reply>)>) {
        for (fd, replies) in due {
            for reply in replies {
                self.send_reply(fd, &reply);
            }
        }
    }

    /// When [`Self::answer_waiting`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let deadlines = self.by_fd.values().map(|client| client.session.deadline());
        deadlines.flatten().min()
    }

    /// Appends the line of an event to the output of all that listen. Those for whose backlog no
    /// memory is left are cut off. An extension is for those only that know such.
    pub fn send_event(&mut self, line: &[u8], is_extension: bool) {
        for client in self.by_fd.values_mut() {
            if !is_extension || client.session.knows_extensions() {
                client.send_event(line);
            }
        }
        let listening = self.by_fd.iter().filter(|(_, client)| client.listens());
        let listening: Vec<_> = listening.map(|(fd, _)| *fd).collect();
        for fd in listening {
            if self.needs_too_much(fd)
                && let Some(client) = self.by_fd.get_mut(&fd)
            {
                client.cut_off_as_deaf();
            }
        }
    }

    /// Whether a client holds more than its own part while the shared part is used up.
    fn needs_too_much(&self, fd: RawFd) -> bool {
        let held = |client: &Client| client.held_bytes();
        if self
            .by_fd
            .get(&fd)
            .is_none_or(|client| held(client) <= CLIENT_BYTES)
        {
            return false;
        }
        let shared = self.by_fd.values().map(|client| shared_part(held(client)));
        shared.sum::<usize>() > self.shared_limit
    }
}
