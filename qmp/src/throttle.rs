//! How often BALLOON_CHANGE is sent: at most once a second, the first at once, the last always.
//!
//! Pure logic; the caller gives the time. One state for all clients, which outlives them.

use std::time::{Duration, Instant};

use crate::events::{Event, TimedEvent};

/// The shortest time between two BALLOON_CHANGE events.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Decides which events go out, and when.
#[derive(Debug, Default)]
pub struct Throttle {
    /// The end of the interval that the last event sent has started.
    deadline: Option<Instant>,
    /// The newest event of this interval.
    kept: Option<TimedEvent>,
}

impl Throttle {
    /// Takes an event that has come in; gives it back if it is to be sent now.
    pub fn offer(&mut self, event: TimedEvent, now: Instant) -> Option<TimedEvent> {
        if !matches!(event.event, Event::BalloonChange { .. }) {
            return Some(event);
        }
        if self.deadline.is_some() {
            self.kept = Some(event);
            return None;
        }
        self.deadline = Some(now + INTERVAL);
        Some(event)
    }

    /// The event to be sent at `now`, if the interval is over and has kept one. That starts the
    /// next interval.
    pub fn expire(&mut self, now: Instant) -> Option<TimedEvent> {
        self.deadline.take_if(|deadline| *deadline <= now)?;
        let event = self.kept.take()?;
        self.deadline = Some(now + INTERVAL);
        Some(event)
    }

    /// The event that is held back, to be sent before its time since there will be no other.
    pub fn flush(&mut self) -> Option<TimedEvent> {
        self.kept.take()
    }

    /// When [`Throttle::expire`] is to be called, if at all.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(actual_bytes: u64) -> TimedEvent {
        TimedEvent::now(Event::BalloonChange { actual_bytes })
    }

    #[test]
    fn first_is_sent_at_once_and_the_last_at_the_end_of_the_interval() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        let [first, second, third] = [1, 2, 3].map(change);

        assert_eq!(throttle.offer(first, start), Some(first));
        assert_eq!(throttle.offer(second, start), None);
        assert_eq!(throttle.offer(third, start + INTERVAL / 2), None);
        assert_eq!(throttle.expire(start + INTERVAL / 2), None);
        assert_eq!(throttle.expire(start + INTERVAL), Some(third));
        assert_eq!(throttle.deadline(), Some(start + 2 * INTERVAL));
    }

    #[test]
    fn quiet_interval_ends_the_timer() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        throttle.offer(change(1), start);

        assert_eq!(throttle.expire(start + INTERVAL), None);
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
    fn flush_gives_the_event_held_back_once() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        let [first, second] = [1, 2].map(change);
        throttle.offer(first, start);
        assert_eq!(throttle.flush(), None);
        throttle.offer(second, start);
        assert_eq!(throttle.flush(), Some(second));
        assert_eq!(throttle.expire(start + INTERVAL), None);
    }

    #[test]
    fn other_events_pass() {
        let mut throttle = Throttle::default();
        let stop = TimedEvent::now(Event::Stop);
        throttle.offer(change(1), Instant::now());
        assert_eq!(throttle.offer(stop, Instant::now()), Some(stop));
    }
}
