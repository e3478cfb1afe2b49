//! What the host has left, from `/proc/meminfo` and `/proc/zoneinfo`, and how many files this process may
//! have open.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{Error, FileContext, Result};

const MEMINFO: &str = "/proc/meminfo";
const ZONEINFO: &str = "/proc/zoneinfo";
/// KiB in a page.
const PAGE: u64 = 4;
/// KiB in a GiB.
pub const GIB: u64 = 1 << 20;
/// What the host keeps in any case, in KiB: below that it would end processes of its own choice.
const RESERVE: u64 = GIB;
/// What there has to be besides the machines at the start, in KiB.
const SPARE: u64 = 2 * GIB;
/// Memory of ended machines comes back within this time, but for so many KiB.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
const SETTLE_REST: u64 = GIB / 16;
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// MemAvailable in KiB, and what lies in the kernel's lists of free pages for each CPU, which that does
/// not count: after many machines have ended it may be GiB, and goes to the others within minutes only.
///
/// # Errors
///
/// When the kernel does not say.
pub fn available() -> Result<u64> {
    let read = |path: &'static str, parse: fn(&str) -> Option<u64>| {
        let text = fs::read_to_string(path).file("read", Path::new(path))?;
        let missing = || Error::Check(format!("{path} does not say what memory is free"));
        parse(&text).ok_or_else(missing)
    };
    Ok(read(MEMINFO, mem_available)? + read(ZONEINFO, in_lists)?)
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let value = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// KiB in the lists of all zones and CPUs.
fn in_lists(zoneinfo: &str) -> Option<u64> {
    let counts = zoneinfo
        .lines()
        .filter_map(|line| line.trim().strip_prefix("count:"));
    let counts = counts.map(|count| count.trim().parse::<u64>().ok());
    counts.sum::<Option<u64>>().map(|pages| pages * PAGE)
}

/// Checks that machines may take `kib`, and some more, before the host runs short: those that are large
/// take more until there are enough of them for all figures.
///
/// # Errors
///
/// When the host has less.
pub fn check_room(kib: u64) -> Result<()> {
    enough(available()?, kib)
}

fn enough(available: u64, kib: u64) -> Result<()> {
    let needed = kib + SPARE;
    if available >= needed {
        return Ok(());
    }
    let gib = |kib: u64| kib as f64 / GIB as f64;
    Err(Error::Check(format!(
        "`density` fills {:.0} GiB with machines and needs {:.0} GiB, of which {:.1} GiB are missing \
         ({:.1} GiB are available): end what takes memory, or name other parts alone",
        gib(kib),
        gib(needed),
        gib(needed - available),
        gib(available),
    )))
}

/// Checks that the host keeps its reserve with `available` KiB left.
///
/// # Errors
///
/// When it does not.
pub fn check_reserve(available: u64) -> Result<()> {
    if available >= RESERVE {
        return Ok(());
    }
    Err(Error::Check(format!(
        "Only {available} KiB of the host's memory are left; something else takes memory too"
    )))
}

/// Waits until the memory of machines that have ended is back: `before` KiB were available before
/// them. Says so if it is not in time, since the next figures may suffer from that.
///
/// # Errors
///
/// When the kernel does not say how much is available.
pub fn settle(before: u64) -> Result<()> {
    let deadline = Instant::now() + SETTLE_LIMIT;
    loop {
        let missing = before.saturating_sub(available()?);
        if missing <= SETTLE_REST {
            return Ok(());
        }
        if Instant::now() >= deadline {
            eprintln!(
                "{missing} KiB did not come back within {} s of the machines' end",
                SETTLE_LIMIT.as_secs()
            );
            return Ok(());
        }
        thread::sleep(SETTLE_PAUSE);
    }
}

/// Lets this process have `files` files open.
///
/// # Errors
///
/// When it may not.
pub fn allow_files(files: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // None is no limit.
    if limit.current.is_none_or(|current| current >= files) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < files) {
        return Err(Error::Check(format!(
            "`density` needs {files} open files, more than this user may have: raise the hard limit \
             (ulimit -Hn) first"
        )));
    }
    let limit = Rlimit {
        current: Some(files),
        ..limit
    };
    setrlimit(Resource::Nofile, limit).map_err(|error| Error::System {
        action: "raise the limit of open files",
        source: error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_found_by_its_name() {
        let text = "MemTotal:       24683720 kB\nMemFree: 5 kB\nMemAvailable:   23514112 kB\n";
        assert_eq!(mem_available(text), Some(23_514_112));
        assert_eq!(mem_available("MemTotal: 5 kB\n"), None);
        assert_eq!(mem_available("MemAvailable: some kB\n"), None);
    }

    #[test]
    fn free_pages_in_the_lists_of_all_cpus_count() {
        let text = "Node 0, zone Normal\n  pages free 9\n  pagesets\n    cpu: 0\n              \
                    count:    30\n              high:     61877\n    cpu: 1\n              \
                    count:    12\n";
        assert_eq!(in_lists(text), Some(168));
        assert_eq!(in_lists("Node 0, zone DMA\n"), Some(0));
        assert_eq!(in_lists("count: many\n"), None);
    }

    #[test]
    fn host_that_is_too_small_is_told_what_is_missing() {
        assert!(enough(6 * GIB, 4 * GIB).is_ok());
        let error = enough(5 * GIB, 4 * GIB).unwrap_err().to_string();
        assert!(
            error.contains("fills 4 GiB") && error.contains("1.0 GiB are missing"),
            "{error}"
        );
    }

    #[test]
    fn files_that_are_allowed_already_need_nothing() {
        allow_files(1).unwrap();
        assert!(allow_files(u64::MAX).is_err() || getrlimit(Resource::Nofile).current.is_none());
    }
}
