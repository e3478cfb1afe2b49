//! What the host sees of a machine's process. Sizes are in KiB, as the kernel gives them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{Context, Error, Result};

/// The CPU can run a guest in hardware. Without it a Linux guest takes hours.
pub fn cpu_virtualizes() -> bool {
    lists_virtualization(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// Whether the text of `/proc/cpuinfo` has VT-x or SVM among its flags.
pub fn lists_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

/// Memory of process `pid` that is in RAM and no file's: its guest's and its own data. Its code comes
/// and goes with what the program does, and is the file's.
///
/// # Errors
///
/// When the process is gone.
pub fn resident_kib(pid: u32) -> Result<u64> {
    Ok(memory_field_kib(pid, "Pss_Anon")? + memory_field_kib(pid, "Pss_Shmem")?)
}

/// A field of `/proc/PID/smaps_rollup`, such as `Pss` or `Private_Dirty`.
///
/// # Errors
///
/// When the process is gone or the kernel has no such field.
pub fn memory_field_kib(pid: u32, field: &str) -> Result<u64> {
    let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
    let text = fs::read_to_string(&path).context(format!("read {}", path.display()))?;
    field_kib(&text, field).ok_or_else(|| Error::Field {
        field: field.to_owned(),
        path,
    })
}

/// Memory in the files without a name by which process `pid` has its guest's memory.
///
/// # Errors
///
/// When the process is gone.
pub fn memfd_kib(pid: u32) -> Result<u64> {
    let directory = PathBuf::from(format!("/proc/{pid}/fd"));
    let entries = fs::read_dir(&directory).context(format!("read {}", directory.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_memory = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("memfd:aerostat-ram"))
    };
    let blocks = paths.filter(is_memory).filter_map(|path| {
        let metadata = fs::metadata(path).ok()?;
        Some(metadata.blocks())
    });
    // A block has 512 bytes, whatever the file system's are.
    Ok(blocks.sum::<u64>() / 2)
}

/// The number after `name:` in a file with lines as `MemTotal:  1024 kB`.
pub fn field_kib(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .and_then(|(_, value)| value.split_whitespace().next()?.parse().ok())
}
