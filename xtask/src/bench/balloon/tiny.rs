//! The whole way with the tiny guest, from the command to the guest's last word, beside QEMU: how
//! fast, at the cost of how much CPU, how soon questions are answered meanwhile, and whether the
//! machine is at rest afterwards.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use aerostat_tiny_guest::script_pvh_elf;

use super::machine::{Guest, Machine, Resize};
use super::query::Asker;
use super::script::{DEFLATED, FILLED, GIVEN_MIB, HALTED, INFLATED, MEM_MIB, script};
use crate::bench::statistics::{median, percentile};
use crate::bench::table::Figure;
use crate::bench::threads::Work;
use crate::bench::vmm::Vmm;
use crate::error::{FileContext, Result};

/// Time for the guest to do the next thing, where each instruction is emulated.
const LIMIT: Duration = Duration::from_secs(60);
/// Questions to a machine at rest in a round.
const IDLE_QUESTIONS: usize = 500;
/// From the last question on: throttled events are out by then.
const SETTLE: Duration = Duration::from_secs(2);
/// For so long the machine is watched that shall be at rest.
pub const IDLE: Duration = Duration::from_secs(10);

/// What was measured of a machine.
#[derive(Debug, Default)]
struct Rounds {
    inflates: Vec<Resize>,
    deflates: Vec<Resize>,
    asked_while_inflating: Vec<Duration>,
    asked_at_rest: Vec<Duration>,
    idle: Work,
}

/// Takes `rounds` of each machine in turn. The first of `vmms` is ours, the second the peer.
///
/// # Errors
///
/// When a machine does not start, or its guest does not do what it should.
pub fn measure(vmms: &[&Vmm], directory: &Path, rounds: u32) -> Result<Vec<Figure>> {
    let mut taken: Vec<Rounds> = vmms.iter().map(|_| Rounds::default()).collect();
    for number in 1..=rounds {
        for (vmm, taken) in vmms.iter().zip(&mut taken) {
            let mut machine = start(vmm, directory)?;
            round(&mut machine, taken)?;
            // What does not vary is measured once.
            if number == rounds {
                taken.idle = idle(&machine)?;
            }
        }
    }
    Ok(figures(&taken))
}

/// A machine whose guest is on its way.
///
/// # Errors
///
/// When it does not start.
pub fn start(vmm: &Vmm, directory: &Path) -> Result<Machine> {
    let write = |name: &str, contents: Vec<u8>| {
        let path = directory.join(name);
        std::fs::write(&path, contents)
            .file("write", &path)
            .map(|()| path)
    };
    let guest = Guest {
        kernel: write("tiny", script_pvh_elf())?,
        initrd: write("script", script(vmm.balloon_registers()).into_initrd())?,
        cmdline: "",
        mem_mib: MEM_MIB,
        wants_clock: false,
    };
    Machine::start(vmm, &guest)
}

fn round(machine: &mut Machine, taken: &mut Rounds) -> Result<()> {
    machine.console.wait_for(FILLED, LIMIT)?;
    taken
        .inflates
        .push(machine.resize(GIVEN_MIB, LIMIT, Some(INFLATED))?);
    taken
        .deflates
        .push(machine.resize(0, LIMIT, Some(DEFLATED))?);
    machine.console.wait_for(FILLED, LIMIT)?;

    let mut asker = Asker::connect(machine.second_socket())?;
    let is_over = AtomicBool::new(false);
    let times = thread::scope(|scope| {
        let asking = scope.spawn(|| asker.ask_while(|| !is_over.load(Ordering::Acquire)));
        let inflated = machine
            .ask(GIVEN_MIB)
            .and_then(|()| Ok(machine.console.wait_for(HALTED, LIMIT)?));
        is_over.store(true, Ordering::Release);
        let times = match asking.join() {
            Ok(times) => times,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        inflated.and(times)
    });
    taken.asked_while_inflating.extend(times?);
    let mut left = 0..IDLE_QUESTIONS;
    let times = asker.ask_while(|| left.next().is_some())?;
    taken.asked_at_rest.extend(times);
    Ok(())
}

/// What the threads of a machine do whose guest is halted and which nobody asks anything.
fn idle(machine: &Machine) -> Result<Work> {
    thread::sleep(SETTLE);
    let before = machine.work()?;
    thread::sleep(IDLE);
    Ok(machine.work()?.since(before))
}

fn figures(taken: &[Rounds]) -> Vec<Figure> {
    let figure = |name: &'static str, unit, of: &dyn Fn(&Rounds) -> f64| {
        Figure::alone(name, unit, taken.first().map_or(0.0, of)).beside_qemu(taken.get(1).map(of))
    };
    let p99_us = |times: &[Duration]| percentile(times.iter().copied(), 0.99).as_secs_f64() * 1e6;
    vec![
        figure("balloon.tiny.inflate", "MiB/s", &|taken| {
            speed(&taken.inflates, GIVEN_MIB)
        }),
        figure("balloon.tiny.inflate_vmm_cpu", "s/GiB", &|taken| {
            vmm_cpu(&taken.inflates, GIVEN_MIB)
        }),
        figure("balloon.tiny.inflate_all_cpu", "s/GiB", &|taken| {
            all_cpu(&taken.inflates, GIVEN_MIB)
        }),
        figure("balloon.tiny.deflate", "MiB/s", &|taken| {
            speed(&taken.deflates, GIVEN_MIB)
        }),
        figure("balloon.tiny.deflate_vmm_cpu", "s/GiB", &|taken| {
            vmm_cpu(&taken.deflates, GIVEN_MIB)
        }),
        figure("balloon.tiny.deflate_all_cpu", "s/GiB", &|taken| {
            all_cpu(&taken.deflates, GIVEN_MIB)
        }),
        figure("balloon.query_p99_during_inflate_us", "us", &|taken| {
            p99_us(&taken.asked_while_inflating)
        }),
        figure("balloon.query_p99_idle_us", "us", &|taken| {
            p99_us(&taken.asked_at_rest)
        }),
        figure("balloon.idle_wakeups", "/10s", &|taken| {
            taken.idle.vmm.switches as f64
        }),
        figure("balloon.idle_wakeups_vcpu", "/10s", &|taken| {
            taken.idle.vcpus.switches as f64
        }),
    ]
}

/// MiB/s of the median resize by `mib`.
pub fn speed(resizes: &[Resize], mib: u64) -> f64 {
    let took = median(resizes.iter().map(|resize| resize.took));
    mib as f64 / took.as_secs_f64().max(1e-9)
}

/// CPU seconds per GiB of the threads that do not run the guest, in the median resize by `mib`.
pub fn vmm_cpu(resizes: &[Resize], mib: u64) -> f64 {
    per_gib(resizes.iter().map(|resize| resize.work.vmm.time), mib)
}

/// The same of all threads.
pub fn all_cpu(resizes: &[Resize], mib: u64) -> f64 {
    per_gib(
        resizes
            .iter()
            .map(|resize| resize.work.vmm.time + resize.work.vcpus.time),
        mib,
    )
}

fn per_gib(times: impl Iterator<Item = Duration>, mib: u64) -> f64 {
    median(times).as_secs_f64() * 1024.0 / mib as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::threads::Effort;

    #[test]
    fn rates_are_per_gib_and_of_the_median() {
        let resize = |seconds| {
            let effort = Effort {
                time: Duration::from_secs(seconds),
                switches: 0,
            };
            Resize {
                took: Duration::from_secs(seconds),
                work: Work {
                    vcpus: effort,
                    vmm: effort,
                },
            }
        };
        let resizes = [resize(2), resize(64), resize(1)];
        assert_eq!(speed(&resizes, 256), 128.0);
        assert_eq!(vmm_cpu(&resizes, 256), 8.0);
        assert_eq!(all_cpu(&resizes, 256), 16.0);
    }
}
