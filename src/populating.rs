//! What is told while guest memory is taken from the host in advance, and how that is broken off.
//!
//! Before the guest starts, a terminal shows how far it is; otherwise the log does. One of the
//! signals that end a machine breaks it off, and so does the end of its time.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use aerostat_devices::Progress;
use aerostat_vmm::RamWatch;

use crate::signals;

/// Nothing is told before so long, and then as often.
const INTERVAL: Duration = Duration::from_secs(1);

/// One time that memory is taken from the host.
struct Telling {
    /// A terminal shows it: no guest has printed anything yet.
    on_terminal: bool,
    begun: Instant,
    told: Option<Instant>,
}

/// The watch of a machine that ends after `limit`.
pub fn watch(limit: Option<Duration>) -> RamWatch {
    let mut telling: Option<Telling> = None;
    let mut is_first = true;
    let begun = Instant::now();
    let is_too_late = move || limit.is_some_and(|limit| begun.elapsed() >= limit);
    Box::new(move |progress| {
        let current = telling.get_or_insert_with(|| Telling {
            on_terminal: is_first && io::stderr().is_terminal(),
            begun: Instant::now(),
            told: None,
        });
        current.tell(progress);
        let is_done = progress.done_bytes == progress.total_bytes;
        if is_done || signals::is_one_pending() || is_too_late() {
            current.end();
            telling = None;
            is_first = false;
        } else {
            return ControlFlow::Continue(());
        }
        match is_done {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })
}

impl Telling {
    fn tell(&mut self, progress: Progress) {
        let now = Instant::now();
        let is_done = progress.done_bytes == progress.total_bytes;
        let last = self.told.unwrap_or(self.begun);
        let is_due = now.duration_since(last) >= INTERVAL || (is_done && self.told.is_some());
        if !is_due {
            return;
        }
        self.told = Some(now);
        let text = text(progress);
        if self.on_terminal {
            // Who reads it does not matter.
            let _ = write!(io::stderr(), "\raerostat: {text}");
        } else {
            log::info!("{text}");
        }
    }

    /// Ends the line on the terminal, if there is one.
    fn end(&self) {
        if self.on_terminal && self.told.is_some() {
            let _ = writeln!(io::stderr());
        }
    }
}

fn text(progress: Progress) -> String {
    let mib = |bytes: u64| bytes >> 20;
    let percent = progress.done_bytes.saturating_mul(100) / progress.total_bytes.max(1);
    format!(
        "{} of {} MiB of guest memory taken from the host ({percent} %)",
        mib(progress.done_bytes),
        mib(progress.total_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(done_mib: u64, total_mib: u64) -> Progress {
        Progress {
            done_bytes: done_mib << 20,
            total_bytes: total_mib << 20,
        }
    }

    #[test]
    fn progress_is_told_in_mib_and_percent() {
        let told = text(progress(64, 200));
        assert_eq!(
            told,
            "64 of 200 MiB of guest memory taken from the host (32 %)"
        );
        assert!(text(progress(0, 0)).contains("(0 %)"));
    }

    #[test]
    fn populating_ends_with_the_time_of_the_machine_unless_it_is_done() {
        let mut watch = watch(Some(Duration::ZERO));
        assert_eq!(watch(progress(1, 3)), ControlFlow::Break(()));
        assert_eq!(watch(progress(3, 3)), ControlFlow::Continue(()));
    }

    #[test]
    fn populating_goes_on_without_a_signal() {
        let mut watch = watch(None);
        for done in [1, 2, 3] {
            assert_eq!(watch(progress(done, 3)), ControlFlow::Continue(()));
        }
    }
}
