//! The end of the server: its clients hear the last of the machine.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Server;
use super::listeners::Listeners;
use crate::backend::Backend;

/// How long a client may take to end the line of its `quit`, which was done when the request was
/// whole. To a client that writes the line's end by itself a closed socket would be an error.
const LINE_END: Duration = Duration::from_millis(250);

impl<B: Backend> Server<B> {
    /// Delivers the events and replies that wait, for at most `limit`, and closes all connections and
    /// sockets, whose files are gone then.
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
            if client.is_in_line {
                client.await_input(LINE_END);
            }
            client.drain_input(&mut self.buffer);
            log::info!("QMP client {} is disconnected", client.number);
        }
        self.listeners = Listeners::new(Vec::new());
    }
}
