//! A machine with the tiny guest, looked at many times a second while the guest writes its memory,
//! gives it, takes it back, writes it again and gives it again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::machine::Machine;
use super::script::{DEFLATED, FILLED, GIVEN_MIB, HALTED, INFLATED};
use super::tiny;
use crate::bench::vmm::Vmm;
use crate::error::{Error, FileContext, Result};
use crate::harness::qmp::Client;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two things that the guest does, so that one sees them apart.
const REST: Duration = Duration::from_millis(700);
/// Time for the guest to do one thing.
const LIMIT: Duration = Duration::from_secs(60);
/// A page of the host, in which the kernel counts resident memory.
const PAGE_BYTES: u64 = 4096;

/// What was seen at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Since the start.
    pub at: Duration,
    /// Bytes that the guest says it has.
    pub actual: u64,
    /// Bytes of the process that are in the host's RAM.
    pub resident: u64,
    /// Bytes that the balloon has given back since the start.
    pub released: u64,
}

/// All that was seen, and when something began.
#[derive(Debug, Default)]
pub struct Trace {
    /// In the order of time.
    pub samples: Vec<Sample>,
    /// What the guest began then.
    pub marks: Vec<(Duration, &'static str)>,
}

/// Runs the guest and looks.
///
/// # Errors
///
/// When it does not do what it should.
pub fn take(ours: &Vmm, directory: &Path) -> Result<Trace> {
    let begun = Instant::now();
    let mut machine = tiny::start(ours, directory)?;
    let mut client = Client::connect(machine.second_socket())?;
    let resident = PathBuf::from(format!("/proc/{}/statm", machine.pid()));
    let is_over = AtomicBool::new(false);
    let (samples, marks) = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut samples = Vec::new();
            while !is_over.load(Ordering::Acquire) {
                samples.push(look(&mut client, &resident, begun)?);
                thread::sleep(PAUSE);
            }
            Ok::<_, Error>(samples)
        });
        let marks = run(&mut machine, begun);
        is_over.store(true, Ordering::Release);
        match looking.join() {
            Ok(samples) => (samples, marks),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    Ok(Trace {
        samples: samples?,
        marks: marks?,
    })
}

fn run(machine: &mut Machine, begun: Instant) -> Result<Vec<(Duration, &'static str)>> {
    let mut marks = vec![(begun.elapsed(), "writes")];
    let mut next = |machine: &mut Machine, given_mib: u64, what, end: &str| {
        thread::sleep(REST);
        marks.push((begun.elapsed(), what));
        machine.ask(given_mib)?;
        machine.console.wait_for(end, LIMIT)?;
        Ok::<_, Error>(())
    };
    machine.console.wait_for(FILLED, LIMIT)?;
    next(machine, GIVEN_MIB, "gives", INFLATED)?;
    next(machine, 0, "takes back", DEFLATED)?;
    let writes_again = begun.elapsed();
    machine.console.wait_for(FILLED, LIMIT)?;
    next(machine, GIVEN_MIB, "gives", HALTED)?;
    thread::sleep(REST);
    marks.push((writes_again, "writes again"));
    marks.sort();
    Ok(marks)
}

fn look(client: &mut Client, statm: &Path, begun: Instant) -> Result<Sample> {
    let balloon = client.execute("x-query-balloon")?;
    let text = fs::read_to_string(statm).file("read", statm)?;
    let resident = resident_pages(&text)
        .ok_or_else(|| Error::Check(format!("{} has no number", statm.display())))?;
    Ok(Sample {
        at: begun.elapsed(),
        actual: bytes(&balloon, "actual")?,
        resident: resident * PAGE_BYTES,
        released: bytes(&balloon, "released")?,
    })
}

fn bytes(balloon: &Value, field: &str) -> Result<u64> {
    balloon[field]
        .as_u64()
        .ok_or_else(|| Error::Check(format!("x-query-balloon answers {balloon}")))
}

/// The second field of `statm`.
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_pages_are_the_second_field() {
        assert_eq!(resident_pages("100 42 7 1 0 9 0\n"), Some(42));
        assert_eq!(resident_pages("100"), None);
    }
}
