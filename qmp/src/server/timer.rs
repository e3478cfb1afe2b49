//! A one-shot timer that the event loop can watch.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A timer that is off unless there is a deadline.
#[derive(Debug)]
pub struct Timer {
    fd: OwnedFd,
    deadline: Option<Instant>,
}

impl Timer {
    /// A timer that is off.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { fd, deadline: None })
    }

    /// Sets the timer to fire at `deadline`, or not at all.
    pub fn set(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        if self.deadline == deadline {
            return Ok(());
        }
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = match deadline {
            None => zero,
            Some(deadline) => {
                // Zero would switch the timer off.
                let left = deadline.saturating_duration_since(Instant::now());
                Timespec::try_from(left.max(Duration::from_nanos(1))).unwrap_or(zero)
            }
        };
        let spec = Itimerspec {
            it_interval: zero,
            it_value: value,
        };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec)?;
        self.deadline = deadline;
        Ok(())
    }

    /// Takes note that the timer has fired, and is off.
    pub fn acknowledge(&mut self) {
        // Nothing to read means that the timer was set anew since it fired.
        if rustix::io::read(&self.fd, &mut [0_u8; 8]).is_ok() {
            self.deadline = None;
        }
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
