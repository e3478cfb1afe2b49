//! How long QMP's `stop` takes with all CPUs of the guest busy: from the command to its answer,
//! after which nothing of the guest runs.

use std::path::Path;
use std::time::{Duration, Instant};

use aerostat_tiny_guest::{Script, script_elf};

use crate::error::{Error, FileContext, Result};
use crate::harness::machine::Machine;
use crate::harness::setup::Setup;

use super::statistics::median;
use super::table::Figure;

/// Time for the guest to say that it runs.
const LIMIT: Duration = Duration::from_secs(10);
/// Between `cont` and the next `stop`: the guest is back at work by then.
const RUN: Duration = Duration::from_millis(2);

/// Measures the median and the longest of `rounds` stops, with 1 and with 8 busy CPUs.
///
/// # Errors
///
/// When the machine does not start or does not answer.
pub fn measure(binary: &Path, directory: &Path, rounds: u32) -> Result<Vec<Figure>> {
    let kernel = directory.join("script-kernel");
    std::fs::write(&kernel, script_elf()).file("write", &kernel)?;
    let mut figures = Vec::new();
    for (cpus, typical, longest) in [
        ("1", "stop.cpus_1", "stop.cpus_1_max"),
        ("8", "stop.cpus_8", "stop.cpus_8_max"),
    ] {
        let times = stops(binary, &kernel, cpus, rounds)
            .map_err(|error| Error::Check(format!("The machine cannot be stopped: {error:?}")))?;
        let figure = |name: &'static str, time: Duration| {
            Figure::alone(name, "ms", time.as_secs_f64() * 1e3)
        };
        figures.push(figure(typical, median(times.iter().copied())));
        figures.push(figure(longest, times.into_iter().max().unwrap_or_default()));
    }
    Ok(figures)
}

fn stops(
    binary: &Path,
    kernel: &Path,
    cpus: &str,
    rounds: u32,
) -> crate::harness::Result<Vec<Duration>> {
    let script = Script::new().start_others().puts("ready\n");
    let busy = script.here();
    let mut machine: Machine = Setup::new(binary, kernel, "64M")
        .argument("--cpus", cpus)
        .file("--initrd", "script", script.jump(busy).into_initrd())
        .start()?;
    machine.console.wait_for("ready", LIMIT)?;
    let mut qmp = machine.qmp()?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        std::thread::sleep(RUN);
        let begun = Instant::now();
        qmp.execute("stop")?;
        times.push(begun.elapsed());
        qmp.execute("cont")?;
        qmp.take_events();
    }
    Ok(times)
}
