//! QEMU's object model: the machine as a tree of objects with properties.
//!
//! Only what a client of the balloon looks at is there: the balloon, what it is plugged into, the
//! memory, the CPUs. Paths, errors and the search for partial paths are QEMU's.

mod tree;
pub mod types;

pub use tree::{Change, Tree};
pub(crate) use tree::{STATISTICS, statistics_value};
pub use types::CPU_TYPE;

/// The name of the machine, of which `aerostat-machine` is the type.
pub const MACHINE_NAME: &str = "aerostat";
/// The id of the guest's memory.
pub const RAM_ID: &str = "aerostat.ram";

/// Where the CPU with this index stands.
pub fn cpu_path(index: usize) -> String {
    format!("/machine/unattached/device[{index}]")
}
