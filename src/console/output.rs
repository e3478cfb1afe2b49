//! One of the outputs of the guest's console: a bounded buffer and a thread that empties it.
//!
//! The vCPU thread never waits: where the terminal, pipe or file behind is blocked for longer
//! than the buffer lasts, output is dropped and the gap marked. Each output has a buffer and a
//! thread of its own, so none of them waits for another.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::target::Target;

/// Bytes kept for a reader that does not read: some thousand lines.
const CAPACITY: usize = 256 * 1024;

/// Rest after each write, in which more gathers: the guest prints byte by byte, and to be woken
/// for each would cost its vCPU several times what the byte does. Nobody sees it on a terminal.
const REST: Duration = Duration::from_millis(1);

/// What the thread does.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Activity {
    /// It is to be woken for more output.
    #[default]
    Waiting,
    /// It writes what it has taken, and will then look for more.
    Writing,
    /// It lets output gather, and will then look for more.
    Resting,
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    dropped: u64,
    activity: Activity,
    /// Writing has failed; nothing will be written again.
    broken: bool,
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.dropped == 0
    }
}

struct Shared {
    /// Of the target, for messages.
    name: String,
    buffer: Mutex<Buffer>,
    filled: Condvar,
    drained: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An output of the console; clones are the same one.
#[derive(Clone)]
pub struct ConsoleOutput(Arc<Shared>);

/// The thread that empties the buffer, before it has started.
pub struct Drain {
    shared: Arc<Shared>,
    target: Box<dyn Write + Send>,
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").finish_non_exhaustive()
    }
}

impl Drain {
    /// Starts the thread. It ends with the process.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(self) -> io::Result<()> {
        thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || drain(&self.shared, self.target))?;
        Ok(())
    }
}

impl fmt::Debug for ConsoleOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleOutput").finish_non_exhaustive()
    }
}

impl ConsoleOutput {
    /// An output to `target`, and what is to be started so that it arrives there; until then it waits.
    pub fn new(target: Target) -> (Self, Drain) {
        Self::with_writer(target.to_string(), target)
    }

    fn with_writer(name: String, target: impl Write + Send + 'static) -> (Self, Drain) {
        let shared = Arc::new(Shared {
            name,
            buffer: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
        });
        let drain = Drain {
            shared: shared.clone(),
            target: Box::new(target),
        };
        (Self(shared), drain)
    }

    /// Takes all `bytes` at once, or drops what there is no room for. Never waits.
    pub fn push(&self, bytes: &[u8]) {
        let mut buffer = self.0.lock();
        if buffer.broken {
            return;
        }
        let wakes = buffer.is_empty() && buffer.activity == Activity::Waiting;
        // Once something was dropped, nothing is taken until the gap is marked.
        let room = if buffer.dropped > 0 {
            0
        } else {
            CAPACITY - buffer.bytes.len()
        };
        let taken = bytes.len().min(room);
        buffer.bytes.extend_from_slice(&bytes[..taken]);
        buffer.dropped += (bytes.len() - taken) as u64;
        drop(buffer);
        if wakes {
            self.0.filled.notify_one();
        }
    }

    /// Waits for at most `limit` until everything is written, and warns when it is not.
    pub fn finish(&self, limit: Duration) {
        let pending = |buffer: &mut Buffer| {
            !buffer.broken && (buffer.activity == Activity::Writing || !buffer.is_empty())
        };
        let timed_out = {
            let waited = self
                .0
                .drained
                .wait_timeout_while(self.0.lock(), limit, pending);
            waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
        };
        // Standard error may be blocked as well: without the lock, nobody waits for it.
        if timed_out {
            log::warn!(
                "The end of the console output to {} is lost: it could not be written in time",
                self.0.name
            );
        }
    }
}

/// Writes what comes, for as long as the process lives. After an error `target` is kept as it is,
/// and with it the lock of a file whose content still counts.
fn drain(shared: &Shared, mut target: impl Write) {
    let mut taken = Vec::new();
    let mut buffer = shared.lock();
    loop {
        let filled = shared.filled.wait_while(buffer, |buffer| buffer.is_empty());
        buffer = filled.unwrap_or_else(PoisonError::into_inner);
        taken.clear();
        std::mem::swap(&mut taken, &mut buffer.bytes);
        let dropped = std::mem::take(&mut buffer.dropped);
        if dropped > 0 {
            let mark = format!("\r\n[{dropped} bytes of console output dropped]\r\n");
            taken.extend(mark.into_bytes());
        }
        buffer.activity = Activity::Writing;
        drop(buffer);
        let result = target.write_all(&taken).and_then(|()| target.flush());
        if let Err(error) = &result {
            // Before `finish` hears of it, lest the process ends without a word.
            log::warn!(
                "Console output to {} is lost from here on: {error}",
                shared.name
            );
        }
        buffer = shared.lock();
        buffer.activity = Activity::Resting;
        if result.is_err() {
            *buffer = Buffer {
                broken: true,
                ..Buffer::default()
            };
        }
        drop(buffer);
        shared.drained.notify_all();
        thread::sleep(REST);
        buffer = shared.lock();
        buffer.activity = Activity::Waiting;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Hands out what is to be written, then blocks until it is told to go on.
    struct Gate {
        written: Sender<Vec<u8>>,
        open: Receiver<()>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.written
                .send(bytes.to_vec())
                .map_err(io::Error::other)?;
            self.open.recv().map_err(io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (ConsoleOutput, Sender<()>, Receiver<Vec<u8>>) {
        let (written, seen) = channel();
        let (opener, open) = channel();
        let gate = Gate { written, open };
        let (output, drain) = ConsoleOutput::with_writer("gate".to_owned(), gate);
        drain.start().unwrap();
        (output, opener, seen)
    }

    #[test]
    fn output_arrives_in_order() {
        let (output, open, seen) = gated();
        output.push(b"one");
        assert_eq!(seen.recv().unwrap(), b"one");
        output.push(b"two");
        open.send(()).unwrap();
        assert_eq!(seen.recv().unwrap(), b"two");
    }

    #[test]
    fn blocked_target_costs_output_but_no_time_and_the_gap_is_marked() {
        let (output, open, seen) = gated();
        output.push(b"x");
        seen.recv().unwrap();
        let piece = [b'y'; 1000];
        for _ in 0..2 * CAPACITY / piece.len() {
            output.push(&piece);
        }
        open.send(()).unwrap();
        let text = String::from_utf8(seen.recv().unwrap()).unwrap();
        let (kept, mark) = text.split_once("\r\n").unwrap();
        assert_eq!(kept.len(), CAPACITY);
        assert!(
            mark.ends_with(" bytes of console output dropped]\r\n"),
            "{mark}"
        );
    }

    #[test]
    fn finish_gives_up_on_a_blocked_target() {
        let (output, _open, _seen) = gated();
        output.push(b"x");
        output.finish(Duration::from_millis(10));
    }

    #[test]
    fn nothing_is_written_after_an_error() {
        let (output, open, seen) = gated();
        drop(open);
        output.push(b"x");
        seen.recv().unwrap();
        output.finish(Duration::from_secs(60));
        output.push(b"y");
        output.finish(Duration::from_secs(60));
        assert!(seen.try_recv().is_err());
    }

    #[test]
    fn finish_returns_when_the_target_is_gone() {
        let (output, _open, seen) = gated();
        drop(seen);
        output.push(b"x");
        output.finish(Duration::from_secs(60));
    }
}
