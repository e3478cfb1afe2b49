//! A one-shot timer for the device thread's event loop.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_gettime, timerfd_settime,
};

/// A timer that is off until it is set, and after it has called. Its descriptor is readable from
/// the call on, until that is noted.
#[derive(Debug)]
pub(crate) struct Timer(OwnedFd);

impl Timer {
    /// A timer that is off.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self(timer))
    }

    /// Calls after `time`, or never; what had been set before is forgotten.
    pub(crate) fn set(&self, time: Option<Duration>) {
        let never = Timespec::default();
        // Zero would mean never.
        let time = time.map(|time| time.max(Duration::from_nanos(1)));
        let timer = Itimerspec {
            it_interval: never,
            it_value: time.map_or(never, |time| Timespec::try_from(time).unwrap_or(never)),
        };
        if let Err(error) = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &timer) {
            log::error!("Cannot set a timer of the balloon: {error}");
        }
    }

    /// What is left, if it is set and has not called.
    pub(crate) fn left(&self) -> Option<Duration> {
        let left = timerfd_gettime(&self.0).ok()?.it_value;
        let left = Duration::try_from(left).ok()?;
        (!left.is_zero()).then_some(left)
    }

    /// Takes note that it has called; whether it really had.
    pub(crate) fn has_called(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 8]).is_ok()
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    #[test]
    fn timer_calls_once_after_its_time() {
        let timer = Timer::new().unwrap();
        assert_eq!((timer.left(), timer.has_called()), (None, false));
        timer.set(Some(Duration::ZERO));
        poll(&mut [PollFd::new(&timer, PollFlags::IN)], None).unwrap();
        assert_eq!(timer.left(), None);
        assert!(timer.has_called());
        assert!(!timer.has_called());
    }

    #[test]
    fn timer_that_is_set_again_forgets_what_was_set() {
        let timer = Timer::new().unwrap();
        timer.set(Some(Duration::from_secs(10)));
        timer.set(Some(Duration::from_secs(1000)));
        assert!(timer.left().unwrap() > Duration::from_secs(900));
        timer.set(None);
        assert_eq!(timer.left(), None);
    }
}
