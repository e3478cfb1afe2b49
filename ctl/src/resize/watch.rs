//! When a wait for a size ends: the size is there, nothing moves, or the time is up. Takes the
//! time, and reads no clock.

use std::time::{Duration, Instant};

use aerostat_qmp::client::Deadline;

use super::goal::Goal;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest has the size.
    Reached,
    /// Nothing moved for too long.
    Stalled,
    /// The time was up.
    TimeUp,
    /// Another client set another target.
    Replaced,
    /// The guest took back what it had given, and keeps it.
    Deflated,
}

/// A wait for a size. Sizes are in bytes.
#[derive(Debug)]
pub struct Watch {
    goal: Goal,
    actual: u64,
    /// Time without any change that is a stall; `None` if another says when it is one.
    stall: Option<Duration>,
    /// When the size was seen to change, or the wait began.
    changed_at: Instant,
    deadline: Deadline,
    /// Whether the size was seen since the target was set.
    is_current: bool,
}

impl Watch {
    /// A wait that begins now, with a guest that has `actual` bytes.
    pub fn new(goal: Goal, actual: u64, stall: Option<Duration>, deadline: Deadline) -> Self {
        Self {
            goal,
            actual,
            stall,
            changed_at: Instant::now(),
            deadline,
            is_current: false,
        }
    }

    /// What the guest has, as it was last seen.
    pub fn actual(&self) -> u64 {
        self.actual
    }

    /// Takes what the guest has, if that is known.
    pub fn see(&mut self, now: Instant, actual: Option<u64>) {
        let Some(actual) = actual else { return };
        self.is_current = true;
        if actual != self.actual {
            self.actual = actual;
            self.changed_at = now;
        }
    }

    /// How the wait ended, if it has.
    pub fn end(&self, now: Instant) -> Option<End> {
        if self.is_current && self.goal.is_reached(self.actual) {
            return Some(End::Reached);
        }
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Some(End::TimeUp);
        }
        let is_stalled = self.stalled_at().is_some_and(|at| now >= at);
        is_stalled.then_some(End::Stalled)
    }

    /// When to look again: at `poll`, or earlier if the wait ends before.
    pub fn next_look(&self, poll: Instant) -> Instant {
        let ends = [self.stalled_at(), self.deadline];
        ends.into_iter().flatten().fold(poll, Instant::min)
    }

    fn stalled_at(&self) -> Option<Instant> {
        self.stall.map(|stall| self.changed_at + stall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn watch(deadline: Deadline) -> (Watch, Instant) {
        let watch = Watch::new(Goal::exactly(100), 200, Some(5 * SECOND), deadline);
        let begun = watch.changed_at;
        (watch, begun)
    }

    #[test]
    fn size_that_is_there_ends_the_wait() {
        let (mut watch, begun) = watch(None);
        watch.see(begun, Some(150));
        assert_eq!(watch.end(begun), None);
        watch.see(begun, Some(100));
        assert_eq!(watch.end(begun + 9 * SECOND), Some(End::Reached));
    }

    #[test]
    fn size_from_before_the_target_does_not_count() {
        let mut watch = Watch::new(Goal::exactly(200), 200, Some(SECOND), None);
        let begun = watch.changed_at;
        assert_eq!(watch.end(begun), None);
        watch.see(begun, Some(200));
        assert_eq!(watch.end(begun), Some(End::Reached));
    }

    #[test]
    fn every_change_starts_the_stall_anew() {
        let (mut watch, begun) = watch(None);
        watch.see(begun + 4 * SECOND, Some(150));
        assert_eq!(watch.end(begun + 8 * SECOND), None);
        watch.see(begun + 8 * SECOND, Some(150));
        assert_eq!(watch.end(begun + 9 * SECOND), Some(End::Stalled));
    }

    #[test]
    fn stall_may_be_for_another_to_tell() {
        let mut watch = Watch::new(Goal::exactly(100), 200, None, None);
        let begun = watch.changed_at;
        watch.see(begun, Some(150));
        assert_eq!(watch.end(begun + 9 * SECOND), None);
        assert_eq!(watch.next_look(begun + 9 * SECOND), begun + 9 * SECOND);
    }

    #[test]
    fn deadline_comes_before_the_stall() {
        let later = Instant::now() + 3 * SECOND;
        let (watch, begun) = watch(Some(later));
        assert_eq!(watch.end(later), Some(End::TimeUp));
        assert_eq!(watch.next_look(begun + 60 * SECOND), later);
        assert_eq!(watch.next_look(begun + SECOND), begun + SECOND);
    }
}
