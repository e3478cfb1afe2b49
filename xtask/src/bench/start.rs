//! Start-up: from before the program's exec to the guest's byte on the serial port, and to the end of
//! the process after the guest's reset; the CPU time that took; and the memory of one whose guest has
//! halted. Times are on the monotonic clock.

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::error::Result;

use super::footprint;
use super::program::{Ending, Guests, Program};
use super::statistics::median;
use super::table::Figure;
use super::taken::Taken;

/// Rounds of what hardly varies, at most.
const MEMORY_ROUNDS: u32 = 5;
/// Before a start: the kernel is done by then with what the process before has left to it.
const PAUSE: Duration = Duration::from_millis(10);

/// One round of one program.
#[derive(Debug, Clone, Copy)]
struct Round {
    first_byte: Duration,
    exit: Duration,
    cpu: Duration,
}

/// What was measured of a program.
#[derive(Debug, Default)]
struct Rounds {
    times: Vec<Round>,
    /// In KiB.
    pss: Vec<f64>,
}

/// Takes `rounds` of each program. The first of `programs` is ours.
///
/// # Errors
///
/// When ours does not start, or its guest does not say its byte.
pub fn measure(
    programs: &[Program<'_>],
    guests: &Guests,
    directory: &Path,
    rounds: u32,
) -> Result<Vec<Figure>> {
    let mut taken = Taken::<Rounds>::new(programs);
    // One round more than asked for: the first one fills caches and does not count.
    for number in 0..=rounds {
        taken.each(|program, taken| {
            let round = round(program, guests, directory)?;
            if number > 0 {
                taken.times.push(round);
            }
            Ok(())
        })?;
    }
    for _ in 0..rounds.min(MEMORY_ROUNDS) {
        taken.each(|program, taken| {
            let started = program.start(guests, Ending::Halt, directory, 0)?;
            taken.pss.push(footprint::pss_at_rest(&started.running)?);
            Ok(())
        })?;
    }
    let figure = |name, time: fn(&Round) -> Duration| {
        taken.figure(name, "ms", |rounds| {
            median(rounds.times.iter().map(time)).as_secs_f64() * 1e3
        })
    };
    Ok(vec![
        figure("start.first_byte", |round| round.first_byte),
        figure("start.exit", |round| round.exit),
        figure("start.cpu_ms", |round| round.cpu),
        taken.figure("start.pss_kib", "KiB", |rounds| {
            median(rounds.pss.iter().copied())
        }),
    ])
}

fn round(program: &Program<'_>, guests: &Guests, directory: &Path) -> Result<Round> {
    thread::sleep(PAUSE);
    let started = program.start(guests, Ending::End, directory, 0)?;
    let ended = started.running.await_end()?;
    Ok(Round {
        first_byte: started.first_byte,
        exit: ended.age,
        cpu: ended.cpu,
    })
}
