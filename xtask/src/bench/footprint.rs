//! Footprint: what a machine with a halted guest holds besides the guest's memory. KiB, counts.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::error::{Error, FileContext, Result};
use crate::process;

use super::running::Running;
use super::table::Figure;
use super::vmm::{MEMORY_MIB, Vmm};

/// Time after the guest's byte in which the machine comes to rest.
const SETTLE: Duration = Duration::from_millis(300);
const NAMES: [(&str, &str); 5] = [
    ("footprint.pss", "KiB"),
    ("footprint.private_dirty", "KiB"),
    ("footprint.threads", ""),
    ("footprint.fds", ""),
    ("footprint.binary_stripped", "KiB"),
];

/// Measures each machine once: these figures hardly vary. The first of `vmms` is ours, the second
/// the peer.
///
/// # Errors
///
/// When a machine does not start.
pub fn measure(vmms: &[&Vmm], kernel: &Path, directory: &Path) -> Result<Vec<Figure>> {
    let taken = vmms
        .iter()
        .map(|vmm| one(vmm, kernel, directory))
        .collect::<Result<Vec<[f64; NAMES.len()]>>>()?;
    let figures = NAMES.iter().enumerate().map(|(index, (name, unit))| {
        let ours = taken.first().map_or(0.0, |values| values[index]);
        Figure::alone(*name, unit, ours).beside_qemu(taken.get(1).map(|values| values[index]))
    });
    Ok(figures.collect())
}

fn one(vmm: &Vmm, kernel: &Path, directory: &Path) -> Result<[f64; NAMES.len()]> {
    // Pages of a file that was written just now would count as dirty memory.
    let binary = vmm.binary();
    let file = fs::File::open(binary).file("open", binary)?;
    file.sync_all().file("write out", binary)?;
    let mut running = vmm.start(kernel, &[directory.join("qmp")], directory)?;
    running.await_greeting(false)?;
    thread::sleep(SETTLE);
    let [pss, private_dirty, threads, descriptors] = of_process(running.pid())?;
    drop(running);
    let binary = stripped_kib(vmm.binary(), directory)?;
    Ok([pss, private_dirty, threads, descriptors, binary].map(count))
}

/// PSS and private dirty KiB besides guest RAM, threads, file descriptors.
fn of_process(pid: u32) -> Result<[u64; 4]> {
    let directory = Path::new("/proc").join(pid.to_string());
    let (pss, private_dirty) = memory_of(pid)?;
    let entries = |name: &str| {
        let path = directory.join(name);
        Ok::<_, Error>(fs::read_dir(&path).file("read", &path)?.count() as u64)
    };
    Ok([pss, private_dirty, entries("task")?, entries("fd")?])
}

/// PSS and private dirty KiB of a process besides its guest's RAM.
fn memory_of(pid: u32) -> Result<(u64, u64)> {
    let path = Path::new("/proc").join(pid.to_string()).join("smaps");
    let text = fs::read_to_string(&path).file("read", &path)?;
    Ok(besides_ram(&text, u64::from(MEMORY_MIB) << 10))
}

/// PSS in KiB of a machine that has come to rest, besides its guest's RAM.
///
/// # Errors
///
/// When the process is gone.
pub fn pss_at_rest(running: &Running) -> Result<f64> {
    thread::sleep(SETTLE);
    memory_of(running.pid()).map(|(pss, _)| count(pss))
}

/// Sums of `Pss` and `Private_Dirty` over all mappings in the text of `smaps` that are smaller than
/// the guest's RAM, which is one mapping of its own size or more.
fn besides_ram(smaps: &str, ram_kib: u64) -> (u64, u64) {
    let (mut pss, mut private_dirty, mut is_ram) = (0, 0, false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let key = words.next().unwrap_or_default();
        let value = || {
            line.split_whitespace()
                .nth(1)
                .and_then(|word| word.parse::<u64>().ok())
        };
        match key {
            "Size:" => is_ram = value().is_some_and(|size| size >= ram_kib),
            "Pss:" if !is_ram => pss += value().unwrap_or(0),
            "Private_Dirty:" if !is_ram => private_dirty += value().unwrap_or(0),
            _ => {}
        }
    }
    (pss, private_dirty)
}

/// Size of the binary without symbols.
fn stripped_kib(binary: &Path, directory: &Path) -> Result<u64> {
    let copy = directory.join("stripped");
    process::output(Command::new("strip").arg("-o").arg(&copy).arg(binary))?;
    Ok(fs::metadata(&copy).file("look at", &copy)?.len() >> 10)
}

/// A count as the number that the table holds; far below the 2^53 to which it is exact.
pub fn count(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_ram_is_left_out() {
        let smaps = "0-1 rw-p 0\nSize: 1024 kB\nPss: 900 kB\nPrivate_Dirty: 800 kB\n\
                     1-2 rw-p 0\nSize: 8 kB\nPss: 6 kB\nPrivate_Dirty: 4 kB\n\
                     2-3 r-xp 0\nSize: 16 kB\nPss: 5 kB\nPrivate_Dirty: 0 kB\n";
        assert_eq!(besides_ram(smaps, 1024), (11, 4));
    }
}
