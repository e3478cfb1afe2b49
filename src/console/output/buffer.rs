//! What was printed and is not written yet, and whether that is to be done at once, soon or later.

use std::time::{Duration, Instant};

/// Bytes kept for a reader that does not read: some thousand lines.
pub(super) const CAPACITY: usize = 256 * 1024;

/// Rest after each write, in which more gathers: the guest prints byte by byte, and a system call
/// for each would cost its vCPU several times what the byte does, as would a thread that takes the CPU
/// from it every other moment. Nobody sees it on a terminal.
pub(super) const REST: Duration = Duration::from_millis(10);

/// So much is written without a rest.
const PLENTY: usize = CAPACITY / 4;

/// What the thread does.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Activity {
    /// There is none yet.
    #[default]
    Absent,
    /// It is to be woken for more output.
    Waiting,
    /// It writes what it has taken, and will then look for more.
    Writing,
    /// It lets output gather, and will then look for more.
    Resting,
}

#[derive(Default)]
pub(super) struct Buffer {
    pub(super) bytes: Vec<u8>,
    pub(super) dropped: u64,
    pub(super) activity: Activity,
    /// When output was last written past the buffer.
    pub(super) written_past: Option<Instant>,
    /// Somebody waits for all to be written.
    pub(super) is_awaited: bool,
    /// Writing has failed; nothing will be written again.
    pub(super) broken: bool,
}

impl Buffer {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.dropped == 0
    }

    /// Whether all that was printed is written, and not just now.
    pub(super) fn is_rested(&self) -> bool {
        let rests = matches!(self.activity, Activity::Absent | Activity::Waiting);
        let was_long_ago = |written: Instant| written.elapsed() >= REST;
        rests && self.is_empty() && self.written_past.is_none_or(was_long_ago)
    }

    /// Whether a rest ends before its time.
    pub(super) fn ends_rest(&self) -> bool {
        self.bytes.len() >= PLENTY || self.is_awaited && !self.is_empty()
    }

    /// Whether there is something to do for a thread that sleeps.
    pub(super) fn is_due(&self) -> bool {
        match self.activity {
            Activity::Waiting => !self.is_empty(),
            Activity::Resting => self.ends_rest(),
            Activity::Absent | Activity::Writing => false,
        }
    }

    /// Takes all `bytes`, or drops what there is no room for.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        // Once something was dropped, nothing is taken until the gap is marked.
        let room = if self.dropped > 0 {
            0
        } else {
            CAPACITY - self.bytes.len()
        };
        let taken = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..taken]);
        self.dropped += (bytes.len() - taken) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_lasts_until_there_is_plenty_or_somebody_waits() {
        let mut buffer = Buffer {
            activity: Activity::Resting,
            ..Buffer::default()
        };
        assert!(!buffer.is_due());
        buffer.take(b"x");
        assert!(!buffer.is_due());
        buffer.is_awaited = true;
        assert!(buffer.is_due());
        buffer.is_awaited = false;
        buffer.take(&[b'x'; PLENTY]);
        assert!(buffer.is_due());
    }
}
