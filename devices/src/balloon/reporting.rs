//! How much of the free memory that the guest reports is given back, and how fast: chosen at run
//! time.
//!
//! Where there is a rate, the guest's next report waits in its queue for as long as the last one
//! takes at that rate. Linux keeps the pages of a report to itself meanwhile: at most
//! [`MAX_WAIT`], whatever a guest reports at once.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::timer::Timer;

/// The longest that a report waits for the one before it. A report of Linux is of 32 blocks of at
/// most 4 MiB, which pass in this time at 128 MiB/s.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// The slowest rate, in bytes per second.
pub const MIN_REPORTING_RATE: u64 = 128 << 20;

/// What is chosen, and when the next report is taken.
#[derive(Debug)]
pub(super) struct Reporting {
    is_on: AtomicBool,
    /// Bytes per second; 0 for as fast as they come.
    max_rate: AtomicU64,
    next: Mutex<Option<Instant>>,
    timer: Timer,
}

impl Reporting {
    /// On and without a rate.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            is_on: AtomicBool::new(true),
            max_rate: AtomicU64::new(0),
            next: Mutex::default(),
            timer: Timer::new()?,
        })
    }

    /// Whether reported memory is given back.
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Switches it; what waits need not wait any longer.
    pub(super) fn switch(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Release);
        self.forget();
    }

    /// The rate in bytes per second; 0 for none.
    pub(super) fn max_rate(&self) -> u64 {
        self.max_rate.load(Ordering::Acquire)
    }

    /// Chooses the rate, 0 for none. What waits for the former one waits no longer than for this.
    pub(super) fn set_max_rate(&self, bytes_per_second: u64) {
        self.max_rate.store(bytes_per_second, Ordering::Release);
        self.forget();
    }

    fn forget(&self) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether a report may be taken now. If not, the timer calls when it may.
    pub(super) fn may_take(&self, now: Instant) -> bool {
        let next = *self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let left = next.map_or(Duration::ZERO, |next| next.saturating_duration_since(now));
        if left.is_zero() {
            return true;
        }
        self.timer.set(Some(left));
        false
    }

    /// Notes that so many bytes have been given back.
    pub(super) fn gave(&self, bytes: u64, now: Instant) {
        let rate = self.max_rate();
        if rate > 0 {
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
            let wait = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            let next = now.checked_add(wait.min(MAX_WAIT));
            *self.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
        }
    }

    /// Calls when a report that had to wait may be taken.
    pub(super) fn timer(&self) -> &Timer {
        &self.timer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_taken_as_they_come_without_a_rate() {
        let reporting = Reporting::new().unwrap();
        let now = Instant::now();
        reporting.gave(u64::MAX, now);
        assert!(reporting.may_take(now));
    }

    #[test]
    fn report_waits_for_as_long_as_the_one_before_takes() {
        let reporting = Reporting::new().unwrap();
        reporting.set_max_rate(256 << 20);
        let now = Instant::now();
        reporting.gave(128 << 20, now);
        assert!(!reporting.may_take(now + Duration::from_millis(499)));
        assert!(reporting.timer.left().is_some());
        assert!(reporting.may_take(now + Duration::from_millis(500)));
    }

    #[test]
    fn no_report_waits_longer_than_the_limit() {
        let reporting = Reporting::new().unwrap();
        reporting.set_max_rate(MIN_REPORTING_RATE);
        let now = Instant::now();
        reporting.gave(u64::MAX, now);
        assert!(!reporting.may_take(now));
        assert!(reporting.may_take(now + MAX_WAIT));
    }

    #[test]
    fn another_rate_ends_the_wait_for_the_former() {
        let reporting = Reporting::new().unwrap();
        reporting.set_max_rate(MIN_REPORTING_RATE);
        let now = Instant::now();
        reporting.gave(u64::MAX, now);
        reporting.set_max_rate(0);
        assert!(reporting.may_take(now));
    }
}
