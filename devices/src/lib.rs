//! The devices of an Aerostat machine.
//!
//! They know guest memory, queues, an interrupt line and a callback for what happened; they know
//! neither QMP nor KVM. Register accesses arrive on vCPU threads through the [`bus`]; queues are
//! served on the device thread by event-manager subscribers such as
//! [`balloon::BalloonEvents`]; the control thread uses the methods of the devices, none of which
//! waits for the guest.

pub mod balloon;
pub mod boot_timer;
pub mod bus;
pub mod debug_exit;
pub mod interrupt;
pub mod ioapic;
pub mod power;
pub mod pvpanic;
pub mod serial;
pub mod virtio;

mod fault_log;
mod memory;
#[cfg(test)]
mod test_driver;
#[cfg(test)]
#[path = "../../tests/common/huge_pages.rs"]
#[allow(dead_code, reason = "tests of machines use it too")]
mod test_huge_pages;
mod timer;

pub use fault_log::LogLimit;
pub use memory::{
    Backing, GivenUp, Granularity, GuestRam, HugePageSize, Keeper, PAGE_SIZE, PageRelease, PageRun,
    Pfn, Progress, RamError, RamOptions,
};

/// Guest memory as every device sees it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<Keeper>;
