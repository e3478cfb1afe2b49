//! Counts what a guest does wrong, or the host on its behalf, and logs it at a limited rate, as
//! anything else that a guest can do as often as it likes, so that a hostile one can fill neither the
//! log nor the disk under it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// At most one line in this time.
const INTERVAL: Duration = Duration::from_secs(5);

/// When a line of one kind may be logged: every five seconds at most.
#[derive(Debug)]
pub struct LogLimit {
    last_line: Mutex<Option<Instant>>,
}

impl LogLimit {
    /// None was logged yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            last_line: Mutex::new(None),
        }
    }

    /// Whether a line is due; it then counts as logged.
    pub fn line_is_due(&self, now: Instant) -> bool {
        // A thread that finds the lock taken leaves the line to the one that has it.
        let Ok(mut last_line) = self.last_line.try_lock() else {
            return false;
        };
        let due = last_line.is_none_or(|last| now.duration_since(last) >= INTERVAL);
        if due {
            *last_line = Some(now);
        }
        due
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

/// The faults of one kind at one device.
#[derive(Debug)]
pub(crate) struct FaultLog {
    device: &'static str,
    kind: &'static str,
    count: AtomicU64,
    limit: LogLimit,
}

impl FaultLog {
    pub(crate) const fn new(device: &'static str, kind: &'static str) -> Self {
        Self {
            device,
            kind,
            count: AtomicU64::new(0),
            limit: LogLimit::new(),
        }
    }

    /// Counts one fault; `describe` is only called when a line is due.
    pub(crate) fn record(&self, describe: impl FnOnce() -> String) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if self.limit.line_is_due(Instant::now()) {
            let Self { device, kind, .. } = self;
            log::warn!("{device}: {} ({kind} {count})", describe());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_due_in_an_interval() {
        let log = LogLimit::new();
        let start = Instant::now();
        let due = [0, 1, 4999, 5000, 5001, 9999, 10_000]
            .map(|ms| log.line_is_due(start + Duration::from_millis(ms)));
        assert_eq!(due, [true, false, false, true, false, false, true]);
    }
}
