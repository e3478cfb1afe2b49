//! How long a boot takes: when each part of it was done, since the process began.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use aerostat_devices::serial::SerialOutput;
use rustix::time::{ClockId, clock_gettime};

/// What a boot consists of, as far as it can be seen from outside of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Devices, virtual machine and CPUs are there.
    Built,
    /// Kernel and initrd are in guest memory.
    Loaded,
    /// The guest runs.
    Entered,
    /// The guest has written to its serial port.
    Printed,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Built, Self::Loaded, Self::Entered, Self::Printed];

    fn name(self) -> &'static str {
        match self {
            Self::Built => "machine built",
            Self::Loaded => "kernel loaded",
            Self::Entered => "guest entered",
            Self::Printed => "first output",
        }
    }
}

/// Takes the times of the first boot, and says them when the guest asks for it. The guest of a later
/// boot, after a reset, is told the time since the process began as well.
#[derive(Debug)]
pub struct BootTimer {
    begun: Instant,
    marks: [OnceLock<Duration>; Phase::ALL.len()],
}

impl BootTimer {
    /// The target of the log's line.
    pub const LOG_TARGET: &str = "boot_timer";

    /// A timer of a process that began at `begun`.
    #[must_use]
    pub fn new(begun: Instant) -> Self {
        Self {
            begun,
            marks: Default::default(),
        }
    }

    /// Takes the time of a phase. The first counts.
    pub(crate) fn mark(&self, phase: Phase) {
        self.marks[phase as usize].get_or_init(|| self.begun.elapsed());
    }

    /// The guest has written `code` to the timer's port.
    pub(crate) fn report(&self, code: u8) {
        let now = self.begun.elapsed();
        log::info!(target: Self::LOG_TARGET, "Boot timer: {code} at {}{self}", Milliseconds(now));
    }
}

/// Phases that there were, each with its time, and the process's CPU time.
impl fmt::Display for BootTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (phase, mark) in Phase::ALL.iter().zip(&self.marks) {
            if let Some(time) = mark.get() {
                write!(f, ", {} {}", phase.name(), Milliseconds(*time))?;
            }
        }
        write!(f, ", CPU {}", Milliseconds(cpu_time()))
    }
}

/// A time with three digits behind the point.
struct Milliseconds(Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms", self.0.as_secs_f64() * 1e3)
    }
}

/// What this process has used of its CPUs, its guest's share included.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A serial output that takes the time of the first byte.
pub(crate) struct TimedOutput {
    pub(crate) output: SerialOutput,
    pub(crate) timer: Arc<BootTimer>,
}

impl Write for TimedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.timer.mark(Phase::Printed);
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_told_with_the_time_when_they_were_first_done() {
        let timer = BootTimer::new(Instant::now());
        timer.mark(Phase::Loaded);
        let first = *timer.marks[Phase::Loaded as usize].get().unwrap();
        timer.mark(Phase::Loaded);
        let text = timer.to_string();
        let expected = format!(", kernel loaded {}, CPU ", Milliseconds(first));
        assert!(text.starts_with(&expected), "{text}");
    }

    #[test]
    fn first_output_is_a_phase() {
        let timer = Arc::new(BootTimer::new(Instant::now()));
        let mut output = TimedOutput {
            output: Box::new(io::sink()),
            timer: timer.clone(),
        };
        output.write_all(b"!").unwrap();
        assert!(timer.marks[Phase::Printed as usize].get().is_some());
    }
}
