//! Density: how many machines with a halted guest the host holds, how soon they are there, and what
//! they cost it while nothing happens.
//!
//! Programs are measured one after the other, each from when the memory of the last one is back. The
//! figures of what is there and of what is done at rest are of the first machines, of the same number
//! for all programs.

mod host;
mod machines;
mod rest;

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::error::Result;

use super::footprint::count;
use super::program::{Guests, Program};
use super::table::Figure;
use super::taken::Taken;
use machines::Machines;

/// What machines take of the host's memory until there are enough of them, in KiB.
const GOAL: u64 = 4 * host::GIB;
/// As many are started at most: their threads have to fit below the host's `pid_max`, 32,768 by
/// default.
const MOST: usize = 4000;
/// Machines that are measured one by one.
const FIRST: usize = 100;
/// Files of this process besides a pipe for each machine.
const OTHER_FILES: usize = 200;
/// From the last byte on: what was left of the start is done by then.
const SETTLE: Duration = Duration::from_secs(2);
/// For so long the first machines are watched.
const IDLE: Duration = Duration::from_secs(30);

/// What was measured of a program.
#[derive(Debug, Clone, Copy, Default)]
struct Density {
    /// Machines that fit.
    vms: f64,
    /// Machines a second.
    start_rate: f64,
    /// KiB of the host's memory.
    memory_per_vm: f64,
    /// KiB.
    pss_per_vm: f64,
    /// Milliseconds of all together.
    idle_cpu: f64,
    /// Context switches of all together.
    idle_wakeups: f64,
}

/// Measures each program once. The first of `programs` is ours.
///
/// # Errors
///
/// When the host has not enough memory, or one of our machines does not start.
pub fn measure(programs: &[Program<'_>], guests: &Guests, directory: &Path) -> Result<Vec<Figure>> {
    host::check_room(GOAL)?;
    host::allow_files((MOST + OTHER_FILES) as u64)?;
    let mut taken = Taken::<Density>::new(programs);
    taken.each(|program, taken| {
        let before = host::available()?;
        let machines = Machines::new(program, guests, directory);
        let outcome = of_program(program.name(), machines, before);
        host::settle(before)?;
        *taken = outcome?;
        Ok(())
    })?;
    Ok(vec![
        taken.figure("density.vms", "", |taken| taken.vms),
        taken.figure("density.start_rate", "1/s", |taken| taken.start_rate),
        taken.figure("density.memory_per_vm", "KiB", |taken| taken.memory_per_vm),
        taken.figure("density.pss_per_vm", "KiB", |taken| taken.pss_per_vm),
        taken.figure("density.idle_cpu_ms", "ms/30s", |taken| taken.idle_cpu),
        taken.figure("density.idle_wakeups", "/30s", |taken| taken.idle_wakeups),
    ])
}

/// Starts machines until they have taken what they may of the `before` KiB that were available, and
/// at least those that are measured one by one.
fn of_program(name: &str, mut machines: Machines<'_>, before: u64) -> Result<Density> {
    let mut density = Density::default();
    let mut starting = Duration::ZERO;
    let mut fitting = None;
    loop {
        let took = machines.start_one()?;
        let available = host::available()?;
        host::check_reserve(available)?;
        let taken = before.saturating_sub(available);
        if taken >= GOAL {
            fitting.get_or_insert(machines.count());
        }
        if machines.count() <= FIRST {
            starting += took;
        }
        if machines.count() == FIRST {
            density.start_rate = FIRST as f64 / starting.as_secs_f64();
            look_at_rest(&machines, &mut density)?;
        }
        let is_last = machines.count() >= MOST;
        if machines.count() >= FIRST && (fitting.is_some() || is_last) {
            if fitting.is_none() {
                eprintln!(
                    "{name}: {MOST} machines, the most that are started, take {taken} KiB; more of \
                     them would fit"
                );
            }
            density.vms = fitting.unwrap_or(MOST) as f64;
            density.memory_per_vm = count(taken) / machines.count() as f64;
            return Ok(density);
        }
    }
}

/// Looks at the machines that there are while nothing happens.
fn look_at_rest(machines: &Machines<'_>, density: &mut Density) -> Result<()> {
    thread::sleep(SETTLE);
    let pids: Vec<u32> = machines.pids().collect();
    density.pss_per_vm = rest::mean_pss(&pids)?;
    let work = rest::work_within(IDLE, &pids)?;
    density.idle_cpu = work.vmm.time.as_secs_f64() * 1e3;
    density.idle_wakeups = count(work.vmm.switches);
    Ok(())
}
