//! What machines at rest hold and do, from what the host says of their processes.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::bench::footprint::count;
use crate::bench::threads::{Work, work_of};
use crate::error::{Error, FileContext, Result};

/// Mean PSS in KiB of these processes, with the guest's memory that they hold.
///
/// # Errors
///
/// When one is gone.
pub fn mean_pss(pids: &[u32]) -> Result<f64> {
    let sum = pids.iter().map(|pid| pss_of(*pid)).sum::<Result<u64>>()?;
    Ok(count(sum) / pids.len().max(1) as f64)
}

fn pss_of(pid: u32) -> Result<u64> {
    let path = Path::new("/proc")
        .join(pid.to_string())
        .join("smaps_rollup");
    let text = fs::read_to_string(&path).file("read", &path)?;
    parse(&text).ok_or_else(|| Error::Check(format!("{} has no Pss", path.display())))
}

/// `Pss` in the text of `smaps_rollup`, not `Pss_Dirty` and its like.
fn parse(rollup: &str) -> Option<u64> {
    let value = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What all threads of these processes do together within `time`.
///
/// # Errors
///
/// When one is gone.
pub fn work_within(time: Duration, pids: &[u32]) -> Result<Work> {
    let before = works(pids)?;
    thread::sleep(time);
    let after = works(pids)?;
    let each = after
        .iter()
        .zip(before)
        .map(|(after, before)| after.since(before));
    Ok(each.fold(Work::default(), |sum, work| Work {
        vcpus: sum.vcpus + work.vcpus,
        vmm: sum.vmm + work.vmm,
    }))
}

fn works(pids: &[u32]) -> Result<Vec<Work>> {
    // Those that run guests need not be told from the others.
    pids.iter().map(|pid| work_of(*pid, &[])).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    use super::*;

    const ROLLUP: &str = "55d0-7ffe ---p 00000000 00:00 0    [rollup]\nRss:    2000 kB\n\
                          Pss_Dirty:    300 kB\nPss:    1234 kB\nPss_Anon:    200 kB\n";

    #[test]
    fn pss_is_told_from_its_parts() {
        assert_eq!(parse(ROLLUP), Some(1234));
        assert_eq!(parse("Rss: 2000 kB\n"), None);
    }

    #[test]
    fn mean_is_of_all_processes() {
        // Not this one, in which other tests take and give back memory.
        let mut still = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It has all that it needs once it answers.
        still.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let answer = still.stdout.as_mut().unwrap().read_exact(&mut [0]);
        let pid = still.id();
        let means = [&[pid][..], &[pid, pid]].map(mean_pss);
        still.kill().unwrap();
        still.wait().unwrap();
        answer.unwrap();
        let [one, two] = means.map(Result::unwrap);
        assert!(one > 0.0 && (one - two).abs() < one / 2.0, "{one} {two}");
    }

    #[test]
    fn process_that_works_meanwhile_is_seen() {
        // Not this one: threads of other tests end, and take with them what they did.
        let mut busy = Command::new("sh")
            .args(["-c", "while sleep 0.001; do :; done"])
            .spawn()
            .unwrap();
        let pids = [busy.id(); 2];
        let work = work_within(Duration::from_millis(100), &pids);
        busy.kill().unwrap();
        busy.wait().unwrap();
        let work = work.unwrap();
        assert!(work.vmm.switches >= 2, "{work:?}");
    }
}
