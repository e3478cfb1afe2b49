//! Start-up: from before the VMM's exec to the guest's byte on the serial port, and to the end of
//! the process after the guest's reset. Times are on the monotonic clock.

use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

use super::statistics::median;
use super::table::Figure;
use super::vmm::Vmm;

/// What the guest writes.
const GREETING: u8 = b'!';
/// Time for one round, after which the machine is taken for hanging.
const LIMIT: Duration = Duration::from_secs(10);

/// One round of one machine.
#[derive(Debug, Clone, Copy)]
struct Round {
    first_byte: Duration,
    exit: Duration,
}

/// Takes `rounds` of each machine in turn. The first of `vmms` is ours, the second the peer.
///
/// # Errors
///
/// When a machine does not start, or its guest does not say its byte.
pub fn measure(vmms: &[&Vmm], kernel: &Path, directory: &Path, rounds: u32) -> Result<Vec<Figure>> {
    let socket = directory.join("qmp");
    let mut taken: Vec<Vec<Round>> = vec![Vec::new(); vmms.len()];
    // One round more than asked for: the first one fills caches and does not count.
    for number in 0..=rounds {
        for (vmm, taken) in vmms.iter().zip(&mut taken) {
            let round = round(vmm, kernel, &socket)?;
            if number > 0 {
                taken.push(round);
            }
        }
    }
    let median_ms = |index: usize, time: fn(&Round) -> Duration| {
        taken
            .get(index)
            .map(|rounds| median(rounds.iter().map(time)).as_secs_f64() * 1e3)
    };
    let figure = |name: &'static str, time| {
        Figure::alone(name, "ms", median_ms(0, time).unwrap_or_default())
            .beside_qemu(median_ms(1, time))
    };
    Ok(vec![
        figure("start.first_byte", |round| round.first_byte),
        figure("start.exit", |round| round.exit),
    ])
}

fn round(vmm: &Vmm, kernel: &Path, socket: &Path) -> Result<Round> {
    let begun = Instant::now();
    let mut child = vmm.start(kernel, socket)?;
    let outcome = wait(vmm, &mut child, begun);
    // An error means that it has ended already.
    let _ = child.kill();
    let _ = child.wait();
    outcome
}

fn wait(vmm: &Vmm, child: &mut Child, begun: Instant) -> Result<Round> {
    await_greeting(vmm, child)?;
    let first_byte = begun.elapsed();
    // Its serial port is closed when the process ends, or as good as.
    let deadline = begun + LIMIT;
    let mut rest = [0; 64];
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if !readable_within(child, remaining)? {
            return Err(Error::Check(format!(
                "{} did not end within {} s of its guest's reset",
                vmm.name(),
                LIMIT.as_secs()
            )));
        }
        if read(child, &mut rest)? == 0 {
            break;
        }
    }
    child.wait().map_err(|source| Error::System {
        action: "wait for the machine",
        source,
    })?;
    Ok(Round {
        first_byte,
        exit: begun.elapsed(),
    })
}

/// Waits until the guest writes its byte.
///
/// # Errors
///
/// When the machine ends or is silent instead; what it said on its standard error is in it.
pub fn await_greeting(vmm: &Vmm, child: &mut Child) -> Result<()> {
    let failure = |reason: &str, child: &mut Child| {
        let _ = child.kill();
        let mut said = String::new();
        if let Some(errors) = &mut child.stderr {
            let _ = errors.read_to_string(&mut said);
        }
        Error::Check(format!("{} {reason}; it said: {}", vmm.name(), said.trim()))
    };
    if !readable_within(child, LIMIT)? {
        return Err(failure("showed no byte of its guest in time", child));
    }
    let mut byte = [0];
    match (read(child, &mut byte)?, byte) {
        (1, [GREETING]) => Ok(()),
        (0, _) => Err(failure("ended before its guest's byte", child)),
        (_, [byte]) => Err(failure(&format!("showed byte {byte:#x} instead"), child)),
    }
}

fn read(child: &mut Child, buffer: &mut [u8]) -> Result<usize> {
    let Some(output) = &mut child.stdout else {
        return Ok(0);
    };
    output.read(buffer).map_err(|source| Error::System {
        action: "read the machine's serial port",
        source,
    })
}

fn readable_within(child: &Child, limit: Duration) -> Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let Some(output) = &child.stdout else {
        return Ok(false);
    };
    let limit = Timespec {
        tv_sec: limit.as_secs().cast_signed(),
        tv_nsec: limit.subsec_nanos().into(),
    };
    let ready = poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&limit)).map_err(|error| {
        Error::System {
            action: "wait for the guest's byte",
            source: error.into(),
        }
    })?;
    Ok(ready > 0)
}
