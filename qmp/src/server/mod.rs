//! The server: one subscriber of the control thread's event loop that owns the listening sockets,
//! all clients, the queue of events and the timer of the throttle.
//!
//! Work for one wake-up is bounded, and no client can hold up another: sockets do not block, a
//! client is read at most [`READ_TURN_BYTES`] at a time, it gives way to the others after
//! [`TURN_TIME`], and one that does not read its replies is not read either. What clients can take
//! of memory is bounded too ([`memory`]). While nothing happens no timer runs.
//!
//! Other than QEMU, which serves one client and lets the next wait, this server serves up to
//! [`MAX_CLIENTS`] at once, each with a negotiation of its own.

mod bind_error;
mod client;
mod clients;
mod listener;
mod listeners;
pub mod memory;
mod output;
mod path_lock;
mod peer;
mod timer;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::backend::{Backend, CommandError, RunState};
use crate::command::Context;
use crate::events::{Event, EventReceiver, TimedEvent};
use crate::message::Reply;
use crate::monitor::Monitor;
use crate::resize::{DEFAULT_STALL_AFTER, Resize};
use crate::session::Answer;
use crate::throttle::Throttle;
pub use bind_error::BindError;
use client::{Client, Input};
pub use client::{MAX_EVENT_BACKLOG_BYTES, OUTPUT_PAUSE_BYTES};
use clients::Clients;
pub use listener::{Listener, MAX_PATH_BYTES, SocketGroup, SocketOptions};
use listeners::Listeners;
use peer::Peer;
use timer::Timer;

/// How many clients are served at once, on all sockets together. The next gets an error and is closed.
pub const MAX_CLIENTS: usize = 64;
/// How much is read from a client before the others have their turn.
pub const READ_TURN_BYTES: usize = 64 << 10;
/// How long the commands of a client are executed before the others have their turn. A single
/// command may take longer.
pub const TURN_TIME: Duration = Duration::from_millis(2);
/// How many clients are accepted before the others have their turn.
const ACCEPT_TURN: usize = 16;
/// How long no client is accepted when file descriptors or memory have run out.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The QMP server of one machine.
#[derive(Debug)]
pub struct Server<B: Backend> {
    listeners: Listeners,
    /// What commands are told of the listeners.
    monitors: Vec<Monitor>,
    events: EventReceiver,
    backend: B,
    /// How the guest follows the balloon's target.
    resize: Resize,
    throttle: Throttle,
    timer: Timer,
    clients: Clients,
    /// Until when no client is accepted.
    accept_again: Option<Instant>,
    /// False once `quit` has been executed: no request is served after it.
    serving: bool,
    buffer: Vec<u8>,
}

impl<B: Backend> Server<B> {
    /// A server for the clients of all `listeners`, who steer `backend` and hear of `events`. It
    /// works once it is added to an event loop.
    ///
    /// # Errors
    ///
    /// If no timer can be had.
    pub fn new(listeners: Vec<Listener>, events: EventReceiver, backend: B) -> io::Result<Self> {
        let listeners = Listeners::new(listeners);
        Ok(Self {
            monitors: listeners.monitors(),
            listeners,
            events,
            backend,
            resize: Resize::new(DEFAULT_STALL_AFTER, Instant::now()),
            throttle: Throttle::default(),
            timer: Timer::new()?,
            clients: Clients::default(),
            accept_again: None,
            serving: true,
            buffer: vec![0; READ_TURN_BYTES],
        })
    }

    /// Chooses how long there may be no progress before the balloon counts as stalled.
    pub fn set_stall_after(&mut self, stall_after: Duration) {
        self.resize = Resize::new(stall_after, Instant::now());
    }

    /// Whether the guest is not to be started yet: the server starts it, by [`Backend::cont`],
    /// when a client has negotiated on each socket that waits for one. If somebody starts it
    /// before, the server does not.
    pub fn awaits_clients(&self) -> bool {
        self.listeners.awaits_clients()
    }

    /// The machine.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The machine.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Delivers the events and replies that wait, for at most `limit`, and closes all connections.
    /// Events that the throttle holds back go out as the last. To be called once, when the event
    /// loop has ended.
    pub fn finish(&mut self, limit: Duration) {
        self.serving = false;
        self.deliver_events();
        for event in self.throttle.flush() {
            self.broadcast(&event);
        }
        self.clients.give_up_waiting();
        let end = Instant::now() + limit;
        loop {
            self.clients.values_mut().for_each(|client| {
                client.unblock();
                client.flush();
            });
            let waiting = self.clients.values().filter(|client| client.has_output());
            let mut waiting: Vec<_> = waiting
                .map(|client| PollFd::new(client, PollFlags::OUT))
                .collect();
            let left = end.saturating_duration_since(Instant::now());
            if waiting.is_empty() || left.is_zero() {
                break;
            }
            let timeout = Timespec::try_from(left).ok();
            if let Err(errno) = poll(&mut waiting, timeout.as_ref())
                && errno != Errno::INTR
            {
                break;
            }
        }
        for mut client in self.clients.take() {
            client.drain_input(&mut self.buffer);
            log::info!("QMP client {} is disconnected", client.number);
        }
    }

    fn accept_clients(&mut self, listener: RawFd, ops: &mut EventOps) {
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

    fn serve_client(&mut self, fd: RawFd, ready: EventSet) {
        let Some(client) = self.clients.get_mut(fd) else {
            return;
        };
        client.unblock();
        client.flush();
        // Where nothing is read any more, nothing else would notice that the client is gone.
        let is_gone = ready.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if is_gone && (!self.serving || client.has_sent_all()) {
            client.cut_off();
        }
        if !self.serving {
            return;
        }
        if client.wants_input() {
            let mut buffer = std::mem::take(&mut self.buffer);
            if let Input::Bytes(count) = client.read(&mut buffer) {
                self.process_input(fd, &buffer[..count]);
            }
            self.buffer = buffer;
        }
    }

    /// Gives a turn to each client whose input had to wait.
    fn process_unprocessed(&mut self) {
        let waiting = self.clients.values().filter(|client| client.wants_turn());
        let waiting: Vec<_> = waiting.map(AsRawFd::as_raw_fd).collect();
        for fd in waiting {
            if self.serving
                && let Some(client) = self.clients.get_mut(fd)
            {
                let input = std::mem::take(&mut client.unprocessed);
                self.process_input(fd, &input);
            }
        }
    }

    /// Executes the requests in `input`, as far as there is room for replies and time.
    fn process_input(&mut self, fd: RawFd, mut input: &[u8]) {
        let start = Instant::now();
        let mut is_late = false;
        while let Some(client) = self.clients.get_mut(fd) {
            if client.is_ignored() {
                return;
            }
            if is_late || client.is_full() {
                client.unprocessed = input.to_vec();
                return;
            }
            let Some(message) = client.session.next_message(&mut input) else {
                self.clients.limit_input(fd);
                return;
            };
            let mut context = Context::new(&mut self.backend, &self.monitors, &mut self.resize);
            let answer = client.session.execute(message, &mut context);
            let effects = context.effects;
            // What the command has set off comes before its reply.
            self.deliver_events();
            if let Answer::Now(reply) = answer {
                self.clients.send_reply(fd, &reply);
            }
            for listener in effects.yanked {
                self.yank(listener);
            }
            if effects.quit {
                self.serving = false;
                return;
            }
            self.follow_balloon();
            if self.listeners.awaits_clients() {
                self.start_guest_when_due(fd);
            }
            is_late = start.elapsed() >= TURN_TIME;
        }
    }

    /// After a message of the client `fd`: starts the guest if that was the last that its start
    /// waits for.
    fn start_guest_when_due(&mut self, fd: RawFd) {
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

    /// Cuts off all clients of a listener, known by its index.
    fn yank(&mut self, index: usize) {
        let listener = self.listeners.at(index);
        let clients = self.clients.values_mut();
        let clients = clients.filter(|client| Some(client.listener) == listener);
        clients.for_each(Client::cut_off);
    }

    /// Hands the events in the queue to all clients that listen, unless they are to be held back.
    fn deliver_events(&mut self) {
        for event in self.events.take() {
            self.offer(event);
        }
    }

    fn offer(&mut self, event: TimedEvent) {
        if let Some(event) = self.throttle.offer(event, Instant::now()) {
            self.broadcast(&event);
        }
    }

    fn broadcast(&mut self, event: &TimedEvent) {
        let mut line = Vec::new();
        event.write(&mut line);
        let is_extension = event.event.is_extension();
        self.clients.send_event(&line, is_extension);
    }

    /// Looks how far the guest has come on the way to its target, tells of it, and answers those
    /// who waited for it.
    fn follow_balloon(&mut self) {
        let Some(sizes) = self.backend.balloon_sizes() else {
            return;
        };
        let now = Instant::now();
        if self.resize.observe(sizes, now) {
            let state = self.resize.state();
            self.offer(TimedEvent::now(Event::BalloonState { state, sizes }));
        }
        self.clients.answer_waiting(&self.resize, now);
    }

    fn on_timer(&mut self, ops: &EventOps) {
        self.timer.acknowledge();
        let now = Instant::now();
        for event in self.throttle.expire(now) {
            self.broadcast(&event);
        }
        if self.accept_again.take_if(|again| *again <= now).is_some() {
            self.listeners.watch(EventSet::IN, ops);
        }
        self.process_unprocessed();
    }

    /// Brings sockets, the event loop and the timer in line with what the wake-up has changed.
    fn settle(&mut self, ops: &mut EventOps) {
        self.follow_balloon();
        let mut gone = Vec::new();
        for client in self.clients.values_mut() {
            client.flush();
            if client.is_finished() {
                gone.push(client.as_raw_fd());
                continue;
            }
            let wanted = client.wanted_interest(self.serving);
            if wanted != client.interest {
                client.interest = wanted;
                if let Err(error) = ops.modify(Events::new(client, wanted)) {
                    log::error!("Cannot change how a QMP client is watched: {error:?}");
                    gone.push(client.as_raw_fd());
                }
            }
        }
        for fd in gone {
            // Before the socket is closed: the event loop goes by the number.
            if let Err(error) = ops.remove(Events::empty_raw(fd)) {
                log::error!("Cannot stop watching a QMP client: {error:?}");
            }
            if let Some(mut client) = self.clients.remove(fd) {
                client.drain_input(&mut self.buffer);
                log::info!("QMP client {} is disconnected", client.number);
            }
        }
        // By way of the timer, so that all that is ready now has its turn before.
        let waits = self.serving && self.clients.values().any(Client::wants_turn);
        let next_turn = waits.then(Instant::now);
        let deadlines = [
            self.throttle.deadline(),
            self.accept_again,
            self.resize.deadline(),
            self.clients.deadline(),
            next_turn,
        ];
        let deadline = deadlines.into_iter().flatten().min();
        if let Err(error) = self.timer.set(deadline) {
            log::error!("Cannot set the timer of the QMP server: {error}");
        }
    }
}

impl<B: Backend> MutEventSubscriber for Server<B> {
    fn init(&mut self, ops: &mut EventOps) {
        if self.awaits_clients() {
            let paths = self.listeners.awaited_paths();
            log::info!("The guest waits for a QMP client on each of {paths:?}");
        }
        self.listeners.add_to(ops);
        for fd in [self.events.as_raw_fd(), self.timer.as_raw_fd()] {
            if let Err(error) = ops.add(Events::new_raw(fd, EventSet::IN)) {
                log::error!("Cannot watch a file descriptor of the QMP server: {error:?}");
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        if self.listeners.contains(fd) {
            self.accept_clients(fd, ops);
        } else if fd == self.events.as_raw_fd() {
            self.deliver_events();
        } else if fd == self.timer.as_raw_fd() {
            self.on_timer(ops);
        } else {
            self.serve_client(fd, events.event_set());
        }
        self.settle(ops);
    }
}

#[cfg(test)]
mod tests;
