//! Turns a validated configuration into a running KVM machine.
//!
//! [`config`] is what a user can choose, [`builder`] makes a [`Machine`] of it in ordered steps,
//! and a machine starts, pauses, resumes and tells what its guest did. The crate knows neither
//! QMP nor the command line.

pub mod builder;
pub mod config;
pub mod layout;
pub mod machine;
pub mod units;

mod acpi;
mod boot_params;
mod cpuid;
mod device_thread;
mod host;
mod kernel;
mod memory;
mod pvh;
mod registers;
mod vcpu;
mod vcpu_thread;

pub use acpi::AcpiError;
pub use builder::{BuildError, MachineIo, build};
pub use config::MachineConfig;
pub use host::HostError;
pub use kernel::KernelError;
pub use machine::{GuestEvent, Machine, RunState, StateError};
pub use memory::MemoryError;
pub use vcpu::VcpuFailure;
