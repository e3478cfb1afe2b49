//! The balloon as the server steers it: [`governor`](crate::governor) decides what the guest is
//! asked for, [`resize`](crate::resize) watches how it follows, and the machine is told.

use std::time::{Duration, Instant};

use crate::backend::{Backend, CommandError};
use crate::events::Event;
use crate::governor::{Governor, Limits, Noted, View};
use crate::resize::{BalloonState, DEFAULT_STALL_AFTER, Resize, Sizes};

/// What a user chooses about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SteeringOptions {
    /// What may be asked of the guest.
    pub limits: Limits,
    /// How long there may be no progress before the balloon counts as stalled.
    pub stall_after: Duration,
}

impl Default for SteeringOptions {
    /// Without limits.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            stall_after: DEFAULT_STALL_AFTER,
        }
    }
}

/// Steers the balloon of a machine.
#[derive(Debug)]
pub struct Steering {
    governor: Governor,
    resize: Resize,
    /// That the guest has taken memory back, until it is told.
    deflated: Option<Event>,
    was_running: bool,
    deadline: Option<Instant>,
}

impl Steering {
    /// One that asks for nothing yet.
    pub fn new(options: SteeringOptions, now: Instant) -> Self {
        Self {
            governor: Governor::new(options.limits),
            resize: Resize::new(options.stall_after, now),
            deflated: None,
            was_running: true,
            deadline: None,
        }
    }

    /// How the guest follows.
    pub fn resize(&self) -> &Resize {
        &self.resize
    }

    /// What may be asked of the guest.
    pub fn limits(&self) -> Limits {
        self.governor.limits()
    }

    /// What the guest is to have and what it has.
    pub fn sizes(&self, view: &View) -> Sizes {
        Sizes {
            target: self.governor.target(view),
            actual: view.actual,
        }
    }

    /// Sets what the guest is to have, in bytes, and asks it, be it for the same as before. What
    /// follows from that is told by the next [`Self::follow`].
    ///
    /// # Errors
    ///
    /// As [`Backend::set_balloon`].
    pub fn ask(
        &mut self,
        machine: &mut dyn Backend,
        guest_bytes: u64,
        now: Instant,
    ) -> Result<(), CommandError> {
        let Some(view) = machine.balloon_view() else {
            return machine.set_balloon(guest_bytes);
        };
        self.look(&view, now);
        self.governor.wish(guest_bytes, &view);
        self.resize.ask(self.sizes(&view), now);
        let asked = self.governor.ask(&view, false, now);
        machine.set_balloon(asked)
    }

    /// Looks how far the guest has come, and asks it for what follows from that. Returns what
    /// clients are to hear.
    pub fn follow(&mut self, machine: &mut dyn Backend, now: Instant) -> Vec<Event> {
        let Some(mut view) = machine.balloon_view() else {
            return Vec::new();
        };
        self.look(&view, now);
        let sizes = self.sizes(&view);
        let mut events: Vec<_> = self.deflated.take().into_iter().collect();
        // What the machine or the limits make a guest wait for is not its fault.
        if !(view.is_running && self.was_running) || self.governor.holds_back(&view) {
            self.resize.excuse(now);
        }
        self.was_running = view.is_running;
        if self.resize.observe(sizes, now) {
            let state = self.resize.state();
            events.push(Event::BalloonState { state, sizes });
        }
        let is_stalled = self.resize.state() == BalloonState::Stalled;
        let asked = self.governor.ask(&view, is_stalled, now);
        // Only a machine without a balloon refuses.
        if asked != view.asked && machine.set_balloon(asked).is_ok() {
            view.asked = asked;
        }
        let stalls = self.resize.deadline().filter(|_| view.is_running);
        self.deadline = stalls
            .into_iter()
            .chain(self.governor.deadline(&view))
            .min();
        events
    }

    /// When [`Self::follow`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn look(&mut self, view: &View, now: Instant) {
        match self.governor.look(view, now) {
            Noted::Nothing => {}
            Noted::OtherDriver => self.resize.start_anew(self.sizes(view), now),
            Noted::Deflated { before } => {
                self.resize.give_up();
                let sizes = self.sizes(view);
                self.deflated = Some(Event::BalloonDeflated { before, sizes });
            }
        }
    }
}

#[cfg(test)]
mod tests;
