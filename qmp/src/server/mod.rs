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

mod arrival;
mod bind_error;
mod client;
mod clients;
mod departure;
mod listener;
mod listeners;
pub mod memory;
mod output;
mod path_lock;
mod peer;
mod timer;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use crate::backend::Backend;
use crate::command::Context;
use crate::events::{EventReceiver, TimedEvent};
use crate::monitor::Monitor;
use crate::session::Answer;
use crate::steering::{Steering, SteeringOptions};
use crate::throttle::Throttle;
pub use bind_error::BindError;
use client::{Client, Input};
pub use client::{MAX_EVENT_BACKLOG_BYTES, OUTPUT_PAUSE_BYTES};
use clients::Clients;
pub use listener::{Listener, MAX_PATH_BYTES, SocketGroup, SocketOptions};
use listeners::Listeners;
use timer::Timer;

/// How many clients are served at once, on all sockets together. The next gets an error and is closed.
pub const MAX_CLIENTS: usize = 64;
/// How much is read from a client before the others have their turn.
pub const READ_TURN_BYTES: usize = 64 << 10;
/// How long the commands of a client are executed before the others have their turn. A single
/// command may take longer.
pub const TURN_TIME: Duration = Duration::from_millis(2);
/// How long the guest wakes nobody after it has: one that does something over and over costs the
/// control thread little, and what it did last is seen that much later.
const HUSH_TIME: Duration = Duration::from_millis(2);

/// The QMP server of one machine.
#[derive(Debug)]
pub struct Server<B: Backend> {
    listeners: Listeners,
    /// What commands are told of the listeners.
    monitors: Vec<Monitor>,
    events: EventReceiver,
    backend: B,
    /// What the guest is asked for, and how it follows.
    steering: Steering,
    throttle: Throttle,
    timer: Timer,
    clients: Clients,
    /// Until when the guest wakes nobody.
    hushed_until: Option<Instant>,
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
            steering: Steering::new(SteeringOptions::default(), Instant::now()),
            throttle: Throttle::default(),
            timer: Timer::new()?,
            clients: Clients::default(),
            hushed_until: None,
            accept_again: None,
            serving: true,
            buffer: Vec::new(),
        })
    }

    /// Chooses how the balloon is steered.
    pub fn set_steering(&mut self, options: SteeringOptions) {
        self.steering = Steering::new(options, Instant::now());
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
        self.count_clients();
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
            let mut context = Context::new(&mut self.backend, &self.monitors, &mut self.steering);
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
                if let Some(client) = self.clients.get_mut(fd) {
                    client.is_in_line = !input.contains(&b'\n');
                }
                return;
            }
            self.follow_balloon();
            if self.listeners.awaits_clients() {
                self.start_guest_when_due(fd);
            }
            is_late = start.elapsed() >= TURN_TIME;
        }
    }

    /// Brings up to date what commands are told of the listeners.
    fn count_clients(&mut self) {
        if !std::mem::take(&mut self.clients.have_changed) {
            return;
        }
        self.monitors = self.listeners.monitors();
        for client in self.clients.values() {
            let index = self.listeners.index_of(client.listener);
            if let Some(monitor) = index.and_then(|index| self.monitors.get_mut(index)) {
                monitor.clients += 1;
            }
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
        let now = Instant::now();
        for event in self.steering.follow(&mut self.backend, now) {
            self.offer(TimedEvent::now(event));
        }
        let resize = self.steering.resize();
        self.clients.answer_waiting(&self.backend, resize, now);
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
        if self.hushed_until.take_if(|until| *until <= now).is_some() && self.events.listen() {
            self.hear_guest(now);
        }
        self.process_unprocessed();
    }

    /// Looks at what has happened, and then at nothing that the guest does for a while.
    fn hear_guest(&mut self, now: Instant) {
        self.deliver_events();
        self.events.hush();
        self.hushed_until = Some(now + HUSH_TIME);
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
            self.hushed_until,
            self.steering.deadline(),
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
            self.hear_guest(Instant::now());
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
