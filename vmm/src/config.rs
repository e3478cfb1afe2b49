//! What a user can choose about a machine, validated.

use std::path::PathBuf;

use aerostat_devices::RamOptions;
use aerostat_devices::balloon::BalloonOptions;

use crate::units::MemorySize;

/// The kernel command line unless the user gives another: console on the serial port, and a reset
/// at once when the kernel panics (one that finds the panic port says so before).
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 panic=-1";

/// The most vCPUs in a machine.
pub const MAX_CPUS: u8 = 64;

/// A machine to build.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The kernel: a bzImage or an ELF vmlinux.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel command line.
    pub cmdline: String,
    /// vCPUs, from 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// Guest memory.
    pub memory: MemorySize,
    /// Where guest memory comes from.
    pub ram: RamOptions,
    /// The balloon, if there is to be one.
    pub balloon: Option<BalloonOptions>,
    /// Whether there is a port by which the guest ends its machine with an exit status.
    pub debug_exit: bool,
}
