//! The guest's serial output on its way to everything that wants it: the outputs, the last lines
//! that are kept for messages, and the text that is waited for.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::expectation::{ExpectedText, Matcher};
use super::output::ConsoleOutput;
use super::transcript::Transcript;

/// What follows the output byte by byte.
struct Followers {
    transcript: Transcript,
    /// Until the text has appeared.
    matcher: Option<Matcher>,
}

impl Followers {
    /// Takes what was printed; whether the text has just appeared.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let mut appeared = false;
        for &byte in bytes {
            self.transcript.push(byte);
            appeared |= self.matcher.as_mut().is_some_and(|m| m.push(byte));
        }
        if appeared {
            self.matcher = None;
        }
        appeared
    }
}

struct Shared {
    outputs: Vec<ConsoleOutput>,
    followers: Mutex<Followers>,
    expected: Option<EventFd>,
}

impl Shared {
    fn followers(&self) -> MutexGuard<'_, Followers> {
        self.followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The console; clones are the same one. It is written to on the vCPU thread, which never waits:
/// locks are held one at a time, for as long as it takes to copy what they protect.
#[derive(Clone)]
pub struct Console(Arc<Shared>);

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

impl Console {
    /// A console that goes to all of `outputs` and waits for `expect`.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub fn new(outputs: Vec<ConsoleOutput>, expect: Option<&ExpectedText>) -> io::Result<Self> {
        let expected = expect.map(|_| EventFd::new(EFD_NONBLOCK)).transpose()?;
        let followers = Followers {
            transcript: Transcript::default(),
            matcher: expect.map(Matcher::new),
        };
        Ok(Self(Arc::new(Shared {
            outputs,
            followers: Mutex::new(followers),
            expected,
        })))
    }

    /// The last lines that the guest printed, complete or not, separated by line feeds and made
    /// harmless to show; empty when it printed nothing. Outputs that are blocked do not matter.
    #[must_use]
    pub fn last_lines(&self) -> String {
        let transcript = self.0.followers().transcript.clone();
        transcript.text()
    }

    /// Becomes readable, once, when the text that is waited for has appeared; all outputs have
    /// been given it by then. `None` when none is waited for.
    #[must_use]
    pub fn expected(&self) -> Option<&EventFd> {
        self.0.expected.as_ref()
    }

    /// Waits for at most `limit` until all outputs have written everything.
    pub fn finish(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        for output in &self.0.outputs {
            output.finish(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

impl Write for Console {
    /// Takes everything at once.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for output in &self.0.outputs {
            output.push(bytes);
        }
        let appeared = self.0.followers().take(bytes);
        if appeared && let Some(expected) = &self.0.expected {
            // Its counter cannot be full: this is its only increment.
            let _ = expected.write(1);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::super::target::Target;
    use super::*;

    const MORE_THAN_A_PIPE_HOLDS: usize = 128 * 1024;
    const ENOUGH: Duration = Duration::from_secs(60);

    fn file(path: &Path) -> ConsoleOutput {
        ConsoleOutput::new(Target::file(path).unwrap())
    }

    /// A pipe that takes 64 KiB and no more, for as long as its reader lives.
    fn unread_pipe() -> (io::PipeReader, ConsoleOutput) {
        let (reader, writer) = io::pipe().unwrap();
        let target = Target::File {
            path: "pipe".into(),
            file: std::os::fd::OwnedFd::from(writer).into(),
        };
        (reader, ConsoleOutput::new(target))
    }

    fn waiting_for(text: &str) -> Console {
        Console::new(Vec::new(), Some(&text.parse().unwrap())).unwrap()
    }

    fn has_appeared(console: &Console) -> bool {
        console.expected().unwrap().read().is_ok()
    }

    #[test]
    fn every_output_gets_everything() {
        let directory = TempDir::new().unwrap();
        let paths = ["a", "b"].map(|name| directory.path().join(name));
        let outputs = paths.iter().map(|path| file(path)).collect();
        let mut console = Console::new(outputs, None).unwrap();
        for byte in b"ready\r\n" {
            console.write_all(&[*byte]).unwrap();
        }
        console.finish(ENOUGH);
        assert_eq!(
            paths.map(|path| fs::read(path).unwrap()),
            [b"ready\r\n", b"ready\r\n"]
        );
    }

    #[test]
    fn blocked_output_stalls_neither_guest_nor_file_nor_transcript() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("log");
        let log = file(&path);
        let (_unread, pipe) = unread_pipe();
        let mut console = Console::new(vec![pipe, log.clone()], None).unwrap();
        console.write_all(&[b'x'; MORE_THAN_A_PIPE_HOLDS]).unwrap();
        console.write_all(b"\nend").unwrap();
        log.finish(ENOUGH);
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            MORE_THAN_A_PIPE_HOLDS as u64 + 4
        );
        assert!(console.last_lines().ends_with("…\nend"));
    }

    #[test]
    fn finish_spends_its_limit_once_for_all_outputs() {
        let limit = Duration::from_millis(300);
        let (_unread, pipes): (Vec<_>, Vec<_>) = (0..64).map(|_| unread_pipe()).unzip();
        let mut console = Console::new(pipes, None).unwrap();
        console.write_all(&[b'x'; MORE_THAN_A_PIPE_HOLDS]).unwrap();
        let start = Instant::now();
        console.finish(limit);
        assert!((limit..40 * limit).contains(&start.elapsed()));
    }

    #[test]
    fn last_lines_are_there_without_any_output() {
        let mut console = Console::new(Vec::new(), None).unwrap();
        console.write_all(b"one\r\n\x1b[31mtwo").unwrap();
        assert_eq!(console.clone().last_lines(), "one\ntwo");
    }

    #[test]
    fn console_that_waits_for_nothing_has_no_event() {
        let console = Console::new(Vec::new(), None).unwrap();
        assert!(console.expected().is_none());
    }

    #[test]
    fn text_that_appears_again_is_told_once() {
        let mut console = waiting_for("login:");
        console.write_all(b"login: login: ").unwrap();
        assert!(has_appeared(&console));
        console.write_all(b"login: ").unwrap();
        assert!(!has_appeared(&console));
    }

    proptest! {
        #[test]
        fn text_is_told_with_the_piece_that_completes_it(
            text in "[ab\n]{1,5}",
            pieces in prop::collection::vec("[ab\n\r]{0,6}", 0..20),
        ) {
            let mut console = waiting_for(&text);
            let mut printed = String::new();
            let mut expected_before = false;
            for piece in pieces {
                console.write_all(piece.as_bytes()).unwrap();
                printed += &piece.replace('\r', "");
                let expected_now = printed.contains(&text);
                prop_assert_eq!(has_appeared(&console), expected_now && !expected_before);
                expected_before = expected_now;
            }
        }
    }
}
