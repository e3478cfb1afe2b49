//! The guest's console output: a bounded buffer and a thread that empties it.
//!
//! The vCPU thread never waits: where the terminal, pipe or file behind is blocked for longer
//! than the buffer lasts, output is dropped and the gap marked.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Bytes kept for a reader that does not read: some thousand lines.
const CAPACITY: usize = 256 * 1024;

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    dropped: u64,
    /// The thread is writing what it has taken.
    writing: bool,
    /// The target is gone; nothing will be written again.
    broken: bool,
}

#[derive(Default)]
struct Shared {
    buffer: Mutex<Buffer>,
    filled: Condvar,
    drained: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The console's output.
#[derive(Clone)]
pub struct ConsoleOutput(Arc<Shared>);

impl ConsoleOutput {
    /// Starts the thread that writes to `target`, which may block.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn spawn(target: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || drain(&own, target))?;
        Ok(Self(shared))
    }

    /// Waits for at most `limit` until everything is written.
    pub fn finish(&self, limit: Duration) {
        let pending = |buffer: &mut Buffer| {
            !buffer.broken && (buffer.writing || !buffer.bytes.is_empty() || buffer.dropped > 0)
        };
        let _ = self
            .0
            .drained
            .wait_timeout_while(self.0.lock(), limit, pending);
    }
}

impl Write for ConsoleOutput {
    /// Takes everything at once, or drops what there is no room for.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut buffer = self.0.lock();
        // Once something was dropped, nothing is taken until the gap is marked.
        let room = if buffer.dropped > 0 {
            0
        } else {
            CAPACITY - buffer.bytes.len()
        };
        let taken = bytes.len().min(room);
        let idle = buffer.bytes.is_empty() && buffer.dropped == 0;
        buffer.bytes.extend_from_slice(&bytes[..taken]);
        buffer.dropped += (bytes.len() - taken) as u64;
        if idle {
            self.0.filled.notify_one();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn drain(shared: &Shared, mut target: impl Write) {
    let mut taken = Vec::new();
    loop {
        let empty = |buffer: &mut Buffer| buffer.bytes.is_empty() && buffer.dropped == 0;
        let buffer = shared.filled.wait_while(shared.lock(), empty);
        let mut buffer = buffer.unwrap_or_else(PoisonError::into_inner);
        taken.clear();
        std::mem::swap(&mut taken, &mut buffer.bytes);
        let dropped = std::mem::take(&mut buffer.dropped);
        if dropped > 0 {
            let mark = format!("\r\n[{dropped} bytes of console output dropped]\r\n");
            taken.extend(mark.into_bytes());
        }
        buffer.writing = true;
        drop(buffer);
        let result = target.write_all(&taken).and_then(|()| target.flush());
        let mut buffer = shared.lock();
        buffer.writing = false;
        if let Err(error) = result
            && !buffer.broken
        {
            log::warn!("Console output is lost from here on: {error}");
            buffer.broken = true;
        }
        shared.drained.notify_all();
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
        (
            ConsoleOutput::spawn(Gate { written, open }).unwrap(),
            opener,
            seen,
        )
    }

    #[test]
    fn output_arrives_in_order() {
        let (mut output, open, seen) = gated();
        output.write_all(b"one").unwrap();
        assert_eq!(seen.recv().unwrap(), b"one");
        output.write_all(b"two").unwrap();
        open.send(()).unwrap();
        assert_eq!(seen.recv().unwrap(), b"two");
    }

    #[test]
    fn blocked_target_costs_output_but_no_time_and_the_gap_is_marked() {
        let (mut output, open, seen) = gated();
        output.write_all(b"x").unwrap();
        seen.recv().unwrap();
        let piece = [b'y'; 1000];
        for _ in 0..2 * CAPACITY / piece.len() {
            output.write_all(&piece).unwrap();
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
        let (mut output, _open, _seen) = gated();
        output.write_all(b"x").unwrap();
        output.finish(Duration::from_millis(10));
    }

    #[test]
    fn finish_returns_when_the_target_is_gone() {
        let (mut output, _open, seen) = gated();
        drop(seen);
        output.write_all(b"x").unwrap();
        output.finish(Duration::from_secs(60));
    }
}
