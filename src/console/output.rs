//! One of the outputs of the guest's console: a bounded buffer and a thread that empties it.
//!
//! The vCPU thread never waits: where the terminal, pipe or file behind is blocked for longer
//! than the buffer lasts, output is dropped and the gap marked. Each output has a buffer and a
//! thread of its own, so none of them waits for another.
//!
//! What comes after a rest is written at once where that goes without waiting, so that it is there before
//! another thread could have woken up; a guest that prints no more than that needs no thread.

mod buffer;

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aerostat_devices::LogLimit;

use super::target::Target;
use buffer::{Activity, Buffer, REST};

/// What takes the output.
pub(super) trait Sink: Write + Send {
    /// Writes as much of `bytes` as goes without waiting; how much that was. What is wrong with the sink
    /// is for [`Write::write`] to find.
    fn write_now(&mut self, bytes: &[u8]) -> usize;
}

struct Shared {
    /// Of the target, for messages.
    name: String,
    /// Locked by the thread while it is [`Activity::Writing`], and by nobody for long otherwise.
    sink: Mutex<Box<dyn Sink>>,
    buffer: Mutex<Buffer>,
    filled: Condvar,
    drained: Condvar,
    /// For a guest that prints on while there is no thread to be had.
    missing: LogLimit,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sink(&self) -> MutexGuard<'_, Box<dyn Sink>> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An output of the console; clones are the same one.
#[derive(Clone)]
pub struct ConsoleOutput(Arc<Shared>);

impl fmt::Debug for ConsoleOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsoleOutput").finish_non_exhaustive()
    }
}

impl ConsoleOutput {
    /// An output to `target`. Its thread, once there is something for it to do, ends with the process.
    pub fn new(target: Target) -> Self {
        Self::with_sink(target.to_string(), target)
    }

    fn with_sink(name: String, sink: impl Sink + 'static) -> Self {
        Self(Arc::new(Shared {
            name,
            sink: Mutex::new(Box::new(sink)),
            buffer: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            missing: LogLimit::new(),
        }))
    }

    /// Takes all `bytes` at once, or drops what there is no room for. Never waits.
    pub fn push(&self, bytes: &[u8]) {
        let mut buffer = self.0.lock();
        if buffer.broken {
            return;
        }
        let mut bytes = bytes;
        if buffer.is_rested() {
            let written = self.0.sink().write_now(bytes);
            if written > 0 {
                buffer.written_past = Some(Instant::now());
            }
            bytes = &bytes[written..];
        }
        if bytes.is_empty() {
            return;
        }
        let was_due = buffer.is_due();
        buffer.take(bytes);
        let wakes = buffer.is_due() && !was_due;
        if buffer.activity == Activity::Absent {
            self.start_thread(&mut buffer);
        }
        drop(buffer);
        if wakes {
            self.0.filled.notify_one();
        }
    }

    /// Starts the thread; where there is none to be had, output waits for the next try.
    fn start_thread(&self, buffer: &mut Buffer) {
        let shared = self.0.clone();
        let builder = thread::Builder::new().name("console".to_owned());
        match builder.spawn(move || drain(&shared)) {
            Ok(_) => buffer.activity = Activity::Waiting,
            Err(error) if self.0.missing.line_is_due(Instant::now()) => log::error!(
                "Console output to {} waits: no thread can be had for it: {error}",
                self.0.name
            ),
            Err(_) => {}
        }
    }

    /// Waits for at most `limit` until everything is written, and warns when it is not.
    pub fn finish(&self, limit: Duration) {
        let pending = |buffer: &mut Buffer| {
            !buffer.broken && (buffer.activity == Activity::Writing || !buffer.is_empty())
        };
        let mut buffer = self.0.lock();
        buffer.is_awaited = true;
        self.0.filled.notify_one();
        let waited = self.0.drained.wait_timeout_while(buffer, limit, pending);
        let timed_out = {
            let (mut buffer, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            buffer.is_awaited = false;
            waited.timed_out()
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

/// Writes what comes, for as long as the process lives. After an error the sink is kept as it is,
/// and with it the lock of a file whose content still counts.
fn drain(shared: &Shared) {
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
        let result = {
            let mut sink = shared.sink();
            sink.write_all(&taken).and_then(|()| sink.flush())
        };
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
        shared.drained.notify_all();
        let rested = shared
            .filled
            .wait_timeout_while(buffer, REST, |buffer| !buffer.ends_rest());
        buffer = rested.unwrap_or_else(PoisonError::into_inner).0;
        buffer.activity = Activity::Waiting;
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::buffer::CAPACITY;
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

    impl Sink for Gate {
        fn write_now(&mut self, _bytes: &[u8]) -> usize {
            0
        }
    }

    /// Takes so much at once, and all in the end.
    struct Keeper {
        at_once: usize,
        kept: Sender<(Way, Vec<u8>)>,
    }

    /// How output came to a [`Keeper`].
    #[derive(Debug, PartialEq, Eq)]
    enum Way {
        AtOnce,
        ByThread,
    }

    impl Write for Keeper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let kept = self.kept.send((Way::ByThread, bytes.to_vec()));
            kept.map_err(io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink for Keeper {
        fn write_now(&mut self, bytes: &[u8]) -> usize {
            let count = bytes.len().min(self.at_once);
            self.kept
                .send((Way::AtOnce, bytes[..count].to_vec()))
                .unwrap();
            count
        }
    }

    fn kept(at_once: usize) -> (ConsoleOutput, Receiver<(Way, Vec<u8>)>) {
        let (kept, seen) = channel();
        let keeper = Keeper { at_once, kept };
        (ConsoleOutput::with_sink("keeper".to_owned(), keeper), seen)
    }

    fn gated() -> (ConsoleOutput, Sender<()>, Receiver<Vec<u8>>) {
        let (written, seen) = channel();
        let (opener, open) = channel();
        let gate = Gate { written, open };
        let output = ConsoleOutput::with_sink("gate".to_owned(), gate);
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
    fn output_after_a_rest_needs_no_thread() {
        let (output, seen) = kept(usize::MAX);
        for text in [b"one", b"two"] {
            output.push(text);
            assert_eq!(seen.recv().unwrap(), (Way::AtOnce, text.to_vec()));
            thread::sleep(2 * REST);
        }
        assert!(output.0.lock().activity == Activity::Absent);
    }

    #[test]
    fn thread_writes_what_does_not_go_at_once_and_what_follows_soon() {
        let (output, seen) = kept(2);
        output.push(b"one");
        output.push(b"two");
        assert_eq!(seen.recv().unwrap(), (Way::AtOnce, b"on".to_vec()));
        let mut rest = Vec::new();
        while rest.len() < 4 {
            let (way, bytes) = seen.recv().unwrap();
            assert_eq!(way, Way::ByThread);
            rest.extend(bytes);
        }
        assert_eq!(rest, b"etwo");
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
