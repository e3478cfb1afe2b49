//! A timer whose time stands still while the machine does.
//!
//! Any thread may set it; the control thread stops and resumes it, and the device thread serves it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::timer::Timer;

/// The timer.
#[derive(Debug)]
pub(super) struct PausableTimer {
    timer: Timer,
    /// While the machine is stopped: what is left of the time, if it has begun.
    stopped: Mutex<Option<Option<Duration>>>,
}

impl PausableTimer {
    /// A timer that is off, of a machine that is not stopped.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            timer: Timer::new()?,
            stopped: Mutex::new(None),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Option<Duration>>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls after `time`, or never; what had been set before is forgotten.
    pub(super) fn set(&self, time: Option<Duration>) {
        match &mut *self.lock() {
            Some(left) => *left = time,
            None => self.timer.set(time),
        }
    }

    /// Keeps what is left of the time, since the machine is stopped.
    pub(super) fn stop(&self) {
        let mut stopped = self.lock();
        if stopped.is_none() {
            // A call that nobody has heard yet is due at once when the machine goes on.
            let unheard = || self.has_called().then_some(Duration::ZERO);
            let left = self.left().or_else(unheard);
            self.timer.set(None);
            *stopped = Some(left);
        }
    }

    /// Lets the rest of the time pass.
    pub(super) fn resume(&self) {
        if let Some(left) = self.lock().take() {
            self.timer.set(left);
        }
    }

    /// What is left, if time passes.
    pub(super) fn left(&self) -> Option<Duration> {
        self.timer.left()
    }

    /// Takes note that it has called; whether it really had.
    pub(super) fn has_called(&self) -> bool {
        self.timer.has_called()
    }
}

impl AsFd for PausableTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

impl AsRawFd for PausableTimer {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}
