//! How often the events are sent that a guest can cause as often as it likes.
//!
//! At most [`limit`] of a kind in a second, these at once, and of those past the limit the last,
//! at the end of the second. For BALLOON_CHANGE that is one, as in QEMU. QEMU does not limit the
//! others; here the limit is above what a guest does that only boots, panics and boots again, and
//! low enough that a client which does not read its events has more than half an hour before
//! [`MAX_EVENT_BACKLOG_BYTES`](crate::server::MAX_EVENT_BACKLOG_BYTES) have gathered.
//!
//! Pure logic; the caller gives the time. One state for all clients, which outlives them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::events::{GuestDriven, TimedEvent};

/// The time for which the limits hold.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// How many events of this kind are sent within one [`INTERVAL`].
pub fn limit(kind: GuestDriven) -> u32 {
    match kind {
        GuestDriven::BalloonChange => 1,
        GuestDriven::Reset
        | GuestDriven::GuestPanicked
        | GuestDriven::GuestCrashloaded
        | GuestDriven::BalloonState
        | GuestDriven::BalloonDeflated => 16,
    }
}

/// Decides which events go out, and when.
#[derive(Debug, Default)]
pub struct Throttle {
    kinds: BTreeMap<GuestDriven, Interval>,
}

/// The state of one kind of event.
#[derive(Debug, Default)]
struct Interval {
    /// The end of the interval that an event sent has started.
    deadline: Option<Instant>,
    /// How many events were sent in it.
    sent: u32,
    /// The newest event past the limit.
    kept: Option<TimedEvent>,
}

impl Interval {
    fn start(&mut self, now: Instant) {
        self.deadline = Some(now + INTERVAL);
        self.sent = 1;
    }

    fn expire(&mut self, now: Instant) -> Option<TimedEvent> {
        self.deadline.take_if(|deadline| *deadline <= now)?;
        let event = self.kept.take()?;
        self.start(now);
        Some(event)
    }
}

impl Throttle {
    /// Takes an event that has come in; gives it back if it is to be sent now.
    pub fn offer(&mut self, event: TimedEvent, now: Instant) -> Option<TimedEvent> {
        let Some(kind) = event.event.guest_driven() else {
            return Some(event);
        };
        let interval = self.kinds.entry(kind).or_default();
        if interval.deadline.is_none() {
            interval.start(now);
        } else if interval.sent < limit(kind) {
            interval.sent += 1;
        } else {
            interval.kept = Some(event);
            return None;
        }
        Some(event)
    }

    /// The events to be sent at `now`: those kept in intervals that are over. Each starts the next
    /// interval of its kind.
    pub fn expire(&mut self, now: Instant) -> Vec<TimedEvent> {
        in_order(self.kinds.values_mut().filter_map(|kind| kind.expire(now)))
    }

    /// The events that are held back, to be sent before their time since there will be no other.
    pub fn flush(&mut self) -> Vec<TimedEvent> {
        in_order(self.kinds.values_mut().filter_map(|kind| kind.kept.take()))
    }

    /// When [`Throttle::expire`] is to be called, if at all.
    pub fn deadline(&self) -> Option<Instant> {
        self.kinds.values().filter_map(|kind| kind.deadline).min()
    }
}

/// In the order in which they happened.
fn in_order(events: impl Iterator<Item = TimedEvent>) -> Vec<TimedEvent> {
    let mut events: Vec<_> = events.collect();
    events.sort_by_key(|event| event.at);
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Event, PanicAction, ShutdownCause};

    fn change(actual_bytes: u64) -> TimedEvent {
        TimedEvent::now(Event::BalloonChange { actual_bytes })
    }

    fn reset() -> TimedEvent {
        TimedEvent::now(Event::Reset(ShutdownCause::GuestReset))
    }

    #[test]
    fn first_is_sent_at_once_and_the_last_at_the_end_of_the_interval() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        let [first, second, third] = [1, 2, 3].map(change);

        assert_eq!(throttle.offer(first, start), Some(first));
        assert_eq!(throttle.offer(second, start), None);
        assert_eq!(throttle.offer(third, start + INTERVAL / 2), None);
        assert_eq!(throttle.expire(start + INTERVAL / 2), []);
        assert_eq!(throttle.expire(start + INTERVAL), [third]);
        assert_eq!(throttle.deadline(), Some(start + 2 * INTERVAL));
    }

    #[test]
    fn quiet_interval_ends_the_timer() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        throttle.offer(change(1), start);

        assert_eq!(throttle.expire(start + INTERVAL), []);
        assert_eq!(throttle.deadline(), None);
        let next = change(2);
        assert_eq!(throttle.offer(next, start + INTERVAL), Some(next));
    }

    #[test]
    fn late_timer_starts_the_next_interval_when_it_fires() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        throttle.offer(change(1), start);
        throttle.offer(change(2), start);
        throttle.expire(start + 3 * INTERVAL);
        assert_eq!(throttle.deadline(), Some(start + 4 * INTERVAL));
    }

    #[test]
    fn flood_of_resets_is_sent_up_to_the_limit_and_then_the_last() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        let limit = limit(GuestDriven::Reset);
        let flood: Vec<_> = (0..2 * limit).map(|_| reset()).collect();

        let sent = flood
            .iter()
            .filter_map(|event| throttle.offer(*event, start));
        assert_eq!(u32::try_from(sent.count()), Ok(limit));
        let last = flood.last().copied();
        assert_eq!(throttle.expire(start + INTERVAL).into_iter().next(), last);

        let sent = flood
            .iter()
            .filter_map(|event| throttle.offer(*event, start + INTERVAL));
        assert_eq!(u32::try_from(sent.count()), Ok(limit - 1));
    }

    #[test]
    fn kinds_do_not_hold_back_each_other() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        throttle.offer(change(1), start);
        assert_eq!(throttle.offer(change(2), start), None);
        let reset = reset();
        assert_eq!(throttle.offer(reset, start + INTERVAL / 2), Some(reset));
        assert_eq!(throttle.deadline(), Some(start + INTERVAL));
    }

    #[test]
    fn flush_gives_the_events_held_back_once_the_oldest_first() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        let action = PanicAction::Run;
        let panic = TimedEvent {
            at: Duration::from_secs(1),
            event: Event::GuestPanicked { action },
        };
        for _ in 0..=limit(GuestDriven::GuestPanicked) {
            throttle.offer(panic, start);
        }
        let [first, second] = [1, 2].map(change);
        throttle.offer(first, start);
        throttle.offer(second, start);

        assert_eq!(throttle.flush(), [panic, second]);
        assert_eq!(throttle.flush(), []);
        assert_eq!(throttle.expire(start + INTERVAL), []);
    }

    #[test]
    fn events_that_the_guest_does_not_drive_pass() {
        let mut throttle = Throttle::default();
        let by_client = TimedEvent::now(Event::Reset(ShutdownCause::HostQmpSystemReset));
        for _ in 0..100 {
            assert_eq!(throttle.offer(by_client, Instant::now()), Some(by_client));
        }
        assert_eq!(throttle.deadline(), None);
    }
}
