//! Clients that come: who is taken in, and whether the guest was waiting for them.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events};
use rustix::io::Errno;

use super::client::Client;
use super::peer::Peer;
use super::{MAX_CLIENTS, READ_TURN_BYTES, Server};
use crate::backend::{Backend, CommandError, RunState};
use crate::message::Reply;

/// How many clients are accepted before the others have their turn.
const ACCEPT_TURN: usize = 16;
/// How long no client is accepted when file descriptors or memory have run out.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

impl<B: Backend> Server<B> {
    /// Takes in the clients that have come to a listener, some at a time.
    pub(super) fn accept_clients(&mut self, listener: RawFd, ops: &mut EventOps) {
        for _ in 0..ACCEPT_TURN {
            match self.listeners.accept(listener) {
                Ok(socket) => self.add_client(socket, listener, ops),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                // Out of descriptors or memory. The client stays in the backlog, so the listener
                // stays readable; watching it on would spin.
                Err(errno) => {
                    log::warn!("Cannot accept a QMP client, trying again in a second: {errno}");
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    self.listeners.watch(EventSet::empty(), ops);
                    return;
                }
            }
        }
    }

    fn add_client(&mut self, socket: OwnedFd, listener: RawFd, ops: &mut EventOps) {
        self.buffer.resize(READ_TURN_BYTES, 0);
        if self.clients.len() >= MAX_CLIENTS {
            self.refuse(&socket);
            return;
        }
        let client = self.clients.welcome(socket, listener);
        let peer = Peer::of(client.as_fd()).map_or_else(
            |error| format!("unknown peer: {error}"),
            |peer| peer.to_string(),
        );
        log::info!(
            "QMP client {} is connected to {:?}: {peer}",
            client.number,
            self.listeners.path_of(listener)
        );
        match ops.add(Events::new(&client, client.interest)) {
            Ok(()) => self.clients.insert(client),
            Err(error) => log::warn!("Cannot watch a new QMP client: {error:?}"),
        }
    }

    /// Tells a client that there are too many.
    fn refuse(&mut self, socket: &OwnedFd) {
        log::warn!("Refused a QMP client: {MAX_CLIENTS} are connected");
        let desc = format!("Too many clients: {MAX_CLIENTS} are connected, disconnect one first");
        let mut line = Vec::new();
        Reply {
            id: None,
            result: Err(CommandError::Generic(desc)),
        }
        .write(&mut line);
        // A new socket has room for a line; if the peer is gone already, nobody misses it.
        let _ = rustix::net::send(socket, &line, rustix::net::SendFlags::NOSIGNAL);
        let _ = rustix::io::read(socket, &mut self.buffer);
    }

    /// After a message of the client `fd`: starts the guest if that was the last that its start
    /// waits for.
    pub(super) fn start_guest_when_due(&mut self, fd: RawFd) {
        if self.backend.status() != RunState::Prelaunch {
            log::info!("The guest has been started: no QMP client is waited for any more");
            self.listeners.stop_waiting();
            return;
        }
        let negotiated = |client: &mut Client| {
            let done = client.session.is_negotiated();
            done.then_some(client.listener)
        };
        let listener = self.clients.get_mut(fd).and_then(negotiated);
        if listener.is_some_and(|listener| self.listeners.ends_waiting(listener)) {
            log::info!("The guest starts: the QMP clients that it waited for are there");
            if let Err(error) = self.backend.cont() {
                log::error!("Cannot start the guest: {error}");
            }
            self.deliver_events();
        }
    }
}
