//! What the guest is asked to have, from what somebody wants it to have.
//!
//! Mostly the same. It differs
//!
//! - where [`Limits`] are set: a guest is not asked below the least, and is asked to give step by
//!   step where there is a rate;
//! - while a guest is stuck: a driver that is asked for what it cannot give tries again and again,
//!   which costs CPU time in guest and host and the guest its caches. So it is asked for what it
//!   has given already, and for the rest now and then ([`FIRST_PAUSE`], [`MAX_PAUSE`], [`TRY`]);
//! - when the guest's driver takes pages back because the guest is short of memory: the target
//!   follows, else the driver would take away again what it has just given, for ever.
//!
//! Pure logic; the caller gives sizes and time. Sizes are what the guest has left, in bytes, as in
//! `balloon` and `query-balloon`.

use std::num::NonZero;
use std::time::{Duration, Instant};

/// How long a guest that is stuck is left alone at first; each time twice as long as before.
pub const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest that it is left alone.
pub const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How long it is asked again. Linux's driver tries five times a second.
pub const TRY: Duration = Duration::from_secs(1);
/// The time between two steps where there is a rate.
pub const STEP_TIME: Duration = Duration::from_millis(100);
/// How long a guest may still be on its way to what it was asked for before: Linux's driver reads
/// what it is asked for, works, and tells of that when it is done.
const GRACE: Duration = Duration::from_secs(2);
/// A balloon that loses more than this at once and is empty then is one whose driver leaves. A guest
/// that is short of memory takes a MiB at a time.
const LEAVING_BYTES: u64 = 16 << 20;
/// How many steps fit into a second.
const STEPS_PER_SECOND: u64 = 10;
/// Bytes in a page of the balloon.
const PAGE_BYTES: u64 = 4096;

/// What may be asked of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// It always keeps this much, in bytes.
    pub min: u64,
    /// It is asked to give at most so much, in bytes per second; `None` for as fast as it can.
    pub max_rate: Option<NonZero<u64>>,
}

/// The balloon and its guest at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// RAM: what the guest has when nothing is in the balloon.
    pub memory: u64,
    /// What it is asked to have.
    pub asked: u64,
    /// What it has, by the word of the driver that is there; RAM if that has said nothing yet.
    pub actual: u64,
    /// Its driver, if there is one.
    pub driver: Option<Driver>,
    /// Whether its CPUs run.
    pub is_running: bool,
}

/// A driver of the balloon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Tells it from the others that there were and will be.
    pub number: u64,
    /// It may take pages back when the guest is short of memory.
    pub deflates_on_oom: bool,
}

/// A guest that is stuck.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    /// When it is asked again or, while it is, left alone again.
    until: Instant,
    /// How long it is left alone.
    pause: Duration,
    is_tried: bool,
}

/// What a guest may still be asked to give.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    bytes: u64,
    /// What was too little for a page.
    rest: u64,
    /// When it was last made good.
    at: Instant,
}

/// What was seen last.
#[derive(Clone, Copy, Debug)]
struct Seen {
    driver: Option<u64>,
    actual: u64,
}

/// What has happened that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// Nothing.
    Nothing,
    /// A driver has come or gone. What one could not give, the next may: the target is again what
    /// somebody wants.
    OtherDriver,
    /// The guest has taken pages back since it is short of memory, and the target has followed
    /// from what it was before.
    Deflated {
        /// The target before, in bytes.
        before: u64,
    },
}

/// Decides what the guest is asked to have.
#[derive(Debug, Default)]
pub struct Governor {
    limits: Limits,
    /// What somebody wants it to have, within the limits; `None` while nobody has said so.
    wish: Option<u64>,
    /// What it is to have: the wish, or more if it has taken pages back.
    target: Option<u64>,
    /// What it was asked to have before and may still be on its way to, and since when it is asked
    /// for less.
    excused: Option<(u64, Instant)>,
    allowance: Option<Allowance>,
    stuck: Option<Stuck>,
    seen: Option<Seen>,
}

impl Stuck {
    /// What follows from what was before, for a guest that is stuck now.
    fn after(before: Option<Self>, now: Instant) -> Self {
        match before {
            Some(stuck) if now < stuck.until => stuck,
            Some(Self {
                pause,
                is_tried: false,
                ..
            }) => Self {
                until: now + TRY,
                pause,
                is_tried: true,
            },
            Some(Self { pause, .. }) => Self::alone_for((pause * 2).min(MAX_PAUSE), now),
            None => Self::alone_for(FIRST_PAUSE, now),
        }
    }

    fn alone_for(pause: Duration, now: Instant) -> Self {
        Self {
            until: now + pause,
            pause,
            is_tried: false,
        }
    }
}

impl Governor {
    /// One that asks for nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// What may be asked of the guest.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What the guest is to have, which is what it is asked to have unless somebody has said.
    pub fn target(&self, view: &View) -> u64 {
        self.target.unwrap_or(view.asked)
    }

    /// Takes a new wish: made good to whole pages, no more than RAM and no less than the least.
    pub fn wish(&mut self, guest_bytes: u64, view: &View) {
        let least = self.limits.min.min(view.memory);
        let given = view.memory.saturating_sub(guest_bytes.max(least));
        let wish = view.memory - given / PAGE_BYTES * PAGE_BYTES;
        self.wish = Some(wish);
        self.target = Some(wish);
        self.stuck = None;
    }

    /// Notes how things stand, and what has happened since the last time.
    pub fn look(&mut self, view: &View, now: Instant) -> Noted {
        let driver = view.driver.map(|driver| driver.number);
        let seen = self.seen.replace(Seen {
            driver,
            actual: view.actual,
        });
        let Some(seen) = seen.filter(|seen| seen.driver == driver) else {
            self.target = self.wish;
            self.excused = None;
            self.stuck = None;
            self.make_good(now);
            return Noted::OtherDriver;
        };
        if let Some(allowance) = &mut self.allowance {
            let given = seen.actual.saturating_sub(view.actual);
            allowance.bytes = allowance.bytes.saturating_sub(given);
        }
        self.make_good(now);
        let is_over = |since: Instant| now.saturating_duration_since(since) >= GRACE;
        self.excused = self.excused.filter(|(_, since)| !is_over(*since));
        let takes = view.driver.is_some_and(|driver| driver.deflates_on_oom);
        let Some(before) = self.target else {
            return Noted::Nothing;
        };
        let excused = self.excused.map_or(0, |(excused, _)| excused);
        let asked = view.asked.max(before).max(excused);
        let taken = view.actual.saturating_sub(seen.actual);
        let leaves = view.actual == view.memory && taken > LEAVING_BYTES;
        if takes && taken > 0 && view.actual > asked && !leaves {
            self.target = Some(view.actual);
            self.stuck = None;
            return Noted::Deflated { before };
        }
        Noted::Nothing
    }

    /// What the guest is to be asked to have now; `is_stalled` tells whether it has come no nearer
    /// to its target for some time.
    pub fn ask(&mut self, view: &View, is_stalled: bool, now: Instant) -> u64 {
        let asked = self.asked(view, is_stalled, now);
        if asked < view.asked && view.actual < view.asked {
            let excused = self.excused.map_or(0, |(excused, _)| excused);
            self.excused = Some((excused.max(view.asked), now));
        }
        asked
    }

    fn asked(&mut self, view: &View, is_stalled: bool, now: Instant) -> u64 {
        let Some(target) = self.target else {
            return view.asked;
        };
        let is_stuck = is_stalled && view.actual > target && view.driver.is_some();
        self.stuck = match is_stuck {
            true if view.is_running => Some(Stuck::after(self.stuck, now)),
            // A machine that is stopped for a moment is no other than it was.
            true => self.stuck,
            false => None,
        };
        if self.stuck.is_some_and(|stuck| !stuck.is_tried) {
            return view.actual;
        }
        let allowed = self.allowance.map(|allowance| allowance.bytes);
        let least = allowed.map_or(0, |bytes| view.actual.saturating_sub(bytes));
        target.max(least)
    }

    /// Whether the guest has done all that it was asked for, and is still not where it is to be.
    pub fn holds_back(&self, view: &View) -> bool {
        self.stuck.is_none() && view.actual == view.asked && view.asked > self.target(view)
    }

    /// When [`Self::look`] and [`Self::ask`] are to be called at the latest.
    pub fn deadline(&self, view: &View) -> Option<Instant> {
        if !view.is_running {
            return None;
        }
        if let Some(stuck) = self.stuck {
            return Some(stuck.until);
        }
        let allowance = self.allowance.filter(|_| self.holds_back(view))?;
        Some(allowance.at + STEP_TIME)
    }

    /// Lets the guest give another step, when it is time.
    fn make_good(&mut self, now: Instant) {
        let Some(rate) = self.limits.max_rate else {
            return;
        };
        let step = (rate.get() / STEPS_PER_SECOND).max(PAGE_BYTES);
        let is_due =
            |allowance: Allowance| now.saturating_duration_since(allowance.at) >= STEP_TIME;
        if self.allowance.is_none_or(is_due) {
            let rest = self.allowance.map_or(0, |allowance| allowance.rest);
            let bytes = step.saturating_add(rest);
            self.allowance = Some(Allowance {
                bytes: bytes / PAGE_BYTES * PAGE_BYTES,
                rest: bytes % PAGE_BYTES,
                at: now,
            });
        }
    }
}

#[cfg(test)]
mod tests;
