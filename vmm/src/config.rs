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

/// Who unpacks the kernel in a bzImage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BootMethod {
    /// The VMM, before the guest runs. A bzImage that it does not understand is left to the guest.
    #[default]
    Direct,
    /// The guest, with the decompressor that the bzImage brings along.
    GuestDecompress,
}

/// A machine to build.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The kernel: a bzImage or an ELF vmlinux.
    pub kernel: PathBuf,
    /// Who unpacks it, where it is a bzImage.
    pub boot: BootMethod,
    /// A directory of kernels that were unpacked before.
    pub kernel_cache: Option<PathBuf>,
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
