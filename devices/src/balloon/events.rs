//! The balloon on the device thread: only what the event loop calls.

use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Balloon;

/// Serves the balloon's queues when the guest kicks them.
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
        let queue = usize::try_from(events.data()).unwrap_or(usize::MAX);
        if let Some(kick) = self.0.kicks().get(queue) {
            let _ = kick.read();
            self.0.serve(queue);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        for (queue, kick) in (0..).zip(self.0.kicks()) {
            if let Err(error) = ops.add(Events::with_data(kick, queue, EventSet::IN)) {
                log::error!("The balloon's queue {queue} will not be served: {error}");
            }
        }
    }
}
