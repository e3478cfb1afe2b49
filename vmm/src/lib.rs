//! Turns a validated configuration into a running KVM machine.
//!
//! [`config`] is what a user can choose, [`builder`] makes a [`Machine`] of it in ordered steps,
//! and a machine starts, pauses, resumes, is reset and tells what its guest did. The crate knows neither
//! QMP nor the command line.

pub mod builder;
pub mod config;
pub mod layout;
mod link;
pub mod machine;
pub mod units;

mod acpi;
mod board;
mod boot;
mod boot_params;
mod boot_timer;
mod coalescing;
mod cpuid;
mod device_set;
mod device_thread;
mod elsewhere;
mod guest_events;
mod host;
mod kernel;
mod memory;
mod pvh;
mod registers;
mod run_state;
mod vcpu;
mod vcpu_thread;

pub use acpi::AcpiError;
pub use boot::BootError;
pub use boot_timer::BootTimer;
pub use builder::{BuildError, MachineIo, Observers, RamWatch, build, check};
pub use config::{BootMethod, MachineConfig};
pub use guest_events::{GuestEvent, GuestEvents};
pub use host::HostError;
pub use kernel::KernelError;
pub use machine::{Machine, Mmio, ResetError, StateError};
pub use memory::MemoryError;
pub use run_state::{Change, NeedsReset, RunState};
pub use vcpu::{RegisterDump, VcpuFailure};
