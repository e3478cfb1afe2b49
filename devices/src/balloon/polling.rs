//! When the guest is asked for its statistics.
//!
//! The control thread chooses the interval, stops and resumes; the device thread arms the timer
//! after each answer and serves it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::pausable::PausableTimer;

/// The interval and its timer.
#[derive(Debug)]
pub(super) struct Polling {
    timer: PausableTimer,
    /// Held while the timer is set: what it is set to follows from the interval.
    interval_seconds: Mutex<u32>,
}

impl Polling {
    /// A timer that is off, of a machine that is not stopped.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            timer: PausableTimer::new()?,
            interval_seconds: Mutex::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, u32> {
        let lock = self.interval_seconds.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// The interval in seconds; 0 while polling is off.
    pub(super) fn interval(&self) -> u32 {
        *self.lock()
    }

    /// Chooses the interval; what had begun of another is over.
    pub(super) fn set_interval(&self, seconds: u32) {
        let mut interval = self.lock();
        *interval = seconds;
        self.timer.set(None);
    }

    /// Lets the interval begin.
    pub(super) fn begin(&self) {
        let interval = self.lock();
        let time = Duration::from_secs((*interval).into());
        self.timer.set(Some(time).filter(|time| !time.is_zero()));
    }

    /// Ends the interval without a call: there is nobody to ask.
    pub(super) fn end(&self) {
        self.timer.set(None);
    }

    /// Keeps what is left of the interval, since the machine is stopped.
    pub(super) fn stop(&self) {
        self.timer.stop();
    }

    /// Lets the rest of the interval pass.
    pub(super) fn resume(&self) {
        self.timer.resume();
    }

    /// Takes note that the timer has called; whether it really had.
    pub(super) fn has_called(&self) -> bool {
        self.timer.has_called()
    }
}

impl AsRawFd for Polling {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn running(interval: u32) -> Polling {
        let polling = Polling::new().unwrap();
        polling.set_interval(interval);
        polling
    }

    #[test]
    fn timer_runs_from_the_answer_on_and_only_while_polling() {
        let polling = running(10_000);
        assert_eq!(polling.timer.left(), None);
        polling.begin();
        assert!(polling.timer.left().unwrap() > Duration::from_secs(9_000));
        polling.set_interval(0);
        assert_eq!(polling.timer.left(), None);
        polling.begin();
        assert_eq!(polling.timer.left(), None);
    }

    #[test]
    fn time_stands_still_while_the_machine_is_stopped() {
        let polling = running(10_000);
        polling.begin();
        polling.stop();
        polling.stop();
        assert_eq!(polling.timer.left(), None);
        polling.resume();
        assert!(polling.timer.left().unwrap() > Duration::from_secs(9_000));
    }

    #[test]
    fn call_that_was_not_heard_before_the_stop_comes_again() {
        let polling = running(1);
        polling.begin();
        let mut timer = [PollFd::new(&polling.timer, PollFlags::IN)];
        poll(&mut timer, None).unwrap();
        polling.stop();
        assert!(!polling.has_called());
        polling.resume();
        poll(&mut timer, None).unwrap();
        assert!(polling.has_called());
    }

    #[test]
    fn what_changes_while_stopped_counts_from_the_resume() {
        let polling = running(10_000);
        polling.begin();
        polling.stop();
        polling.set_interval(50);
        polling.begin();
        polling.resume();
        assert!(polling.timer.left().unwrap() <= Duration::from_secs(50));
        polling.stop();
        polling.end();
        polling.resume();
        assert_eq!(polling.timer.left(), None);
    }

    #[test]
    fn longest_interval_can_be_set() {
        let polling = running(u32::MAX);
        polling.begin();
        assert!(polling.timer.left().is_some());
    }
}
