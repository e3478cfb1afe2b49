//! The balloon on the device thread: only what the event loop calls.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Balloon;

/// What an event is about: a queue, by its index, or one of these.
const ASK: u32 = u32::MAX;
const POLL: u32 = ASK - 1;
const REPORT: u32 = ASK - 2;
const KEPT: u32 = ASK - 3;

/// Serves the balloon's queues when the guest kicks them, and asks for its statistics.
#[derive(Debug)]
pub struct BalloonEvents(Arc<Balloon>);

impl BalloonEvents {
    /// A subscriber for the device thread's loop.
    #[must_use]
    pub fn new(balloon: Arc<Balloon>) -> Self {
        Self(balloon)
    }
}

impl MutEventSubscriber for BalloonEvents {
    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        let balloon = &self.0;
        match events.data() {
            ASK => {
                let _ = balloon.ask().read();
                balloon.ask_guest();
            }
            POLL => {
                if balloon.polling().has_called() {
                    balloon.ask_guest();
                }
            }
            REPORT => {
                if balloon.reporting().timer().has_called() {
                    balloon.serve_reports();
                }
            }
            KEPT => {
                if balloon.kept().has_called() {
                    balloon.release_kept();
                }
            }
            queue => {
                let queue = usize::try_from(queue).unwrap_or(usize::MAX);
                balloon.serve(queue);
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        // Each kick is an edge, also where the counter says that there were others before: nobody has
        // to read it, which would be a system call for each buffer.
        let edge = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let kicks = (0..).zip(self.0.kicks());
        let kicks = kicks.map(|(queue, kick)| (queue, kick.as_raw_fd(), edge));
        let others = [
            (ASK, self.0.ask().as_raw_fd()),
            (POLL, self.0.polling().as_raw_fd()),
            (REPORT, self.0.reporting().timer().as_raw_fd()),
            (KEPT, self.0.kept().as_raw_fd()),
        ];
        let others = others.map(|(data, fd)| (data, fd, EventSet::IN));
        for (data, fd, set) in kicks.chain(others) {
            let events = Events::with_data_raw(fd, data, set);
            if let Err(error) = ops.add(events) {
                log::error!("An event of the balloon will not be served: {error}");
            }
        }
    }
}
