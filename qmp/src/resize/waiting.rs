//! What somebody who waits for the guest is told, and when.

use std::time::Instant;

use super::{BalloonState, Resize};

/// What somebody waits for: that the guest reaches the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The target that is waited for, as they are counted.
    number: u64,
    /// How often targets had been given up when the waiting began.
    given_up: u64,
    /// When the waiting ends.
    pub until: Instant,
}

/// How the waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest has the size that was asked for.
    Reached,
    /// The guest has made no progress for some time.
    Stalled,
    /// The guest has taken back what it had given, since it was short of memory.
    Deflated,
    /// The time was up.
    Timeout,
    /// Somebody has set another target.
    Replaced,
}

impl Outcome {
    /// The names of all of them.
    pub const NAMES: &[&str] = &["reached", "stalled", "deflated", "timeout", "replaced"];

    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Stalled => "stalled",
            Self::Deflated => "deflated",
            Self::Timeout => "timeout",
            Self::Replaced => "replaced",
        }
    }
}

impl Resize {
    /// A wait for the target that holds now.
    pub fn wish(&self, until: Instant) -> Wish {
        Wish {
            number: self.wishes,
            given_up: self.given_up,
            until,
        }
    }
}

impl Wish {
    /// How the waiting has ended, if it has. `resize` has seen the sizes of `now`.
    pub fn outcome(&self, resize: &Resize, now: Instant) -> Option<Outcome> {
        if self.number != resize.wishes {
            return Some(Outcome::Replaced);
        }
        if self.given_up != resize.given_up {
            return Some(Outcome::Deflated);
        }
        if resize.sizes().distance() == 0 {
            return Some(Outcome::Reached);
        }
        if resize.state() == BalloonState::Stalled {
            return Some(Outcome::Stalled);
        }
        (now >= self.until).then_some(Outcome::Timeout)
    }
}
