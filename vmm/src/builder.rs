//! From a configuration to a machine, in ordered steps.
//!
//! Files are read before anything of KVM is made, so that a wrong argument costs nothing.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use aerostat_devices::balloon::BalloonSink;
use aerostat_devices::serial::SerialOutput;
use aerostat_devices::{Progress, RamError, RamOptions};

use crate::acpi::Platform;
use crate::board;
use crate::boot::{BootError, BootFiles};
use crate::config::MachineConfig;
use crate::cpuid;
use crate::device_set::DeviceSet;
use crate::device_thread::DeviceThread;
use crate::guest_events::GuestEvents;
use crate::host::{Host, HostError};
use crate::kernel::KernelError;
use crate::machine::Machine;
use crate::memory::{self, MemoryError};
use crate::registers::EntryError;
use crate::run_state::RunState;
use crate::vcpu_thread::VcpuThread;

/// Is told how much of guest memory was taken from the host in advance, and says whether to go on.
pub type RamWatch = Box<dyn FnMut(Progress) -> ControlFlow<()>>;

/// What a machine is connected to.
pub struct MachineIo {
    /// Where the serial port writes; `None` for a machine without a serial port.
    pub serial: Option<SerialOutput>,
    /// Is told what the guest says of its balloon.
    pub balloon: BalloonSink,
    /// Is told that the guest has panicked and goes on with a crash kernel of its own. Runs on a
    /// vCPU thread; must not block.
    pub crash_loaded: Box<dyn Fn() + Send + Sync>,
    /// Is told how guest memory is taken from the host, at the start and after resets. Runs on the
    /// thread that builds and resets.
    pub ram_watch: RamWatch,
}

impl fmt::Debug for MachineIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineIo")
            .field("serial", &self.serial.is_some())
            .finish_non_exhaustive()
    }
}

/// A machine could not be built, or not be built again after a reset.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// KVM is not usable.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Kernel, initrd or command line are not usable.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Guest memory cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// ACPI tables or boot information could not be written.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The first vCPU could not be prepared.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// KVM refused a step.
    #[error("KVM cannot {step}")]
    Kvm {
        /// What was being done.
        step: &'static str,
        /// The reason.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A thread or file descriptor could not be had.
    #[error("Cannot make {what}")]
    Resource {
        /// What was needed.
        what: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Two devices claim the same addresses.
    #[error(transparent)]
    Bus(#[from] aerostat_devices::bus::Overlap),
}

impl BuildError {
    /// Whether nothing failed, but [`MachineIo::ram_watch`] broke off.
    #[must_use]
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Memory(MemoryError::Ram(RamError::Interrupted)))
    }
}

pub(crate) fn kvm(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> BuildError {
    move |source| BuildError::Kvm { step, source }
}

pub(crate) fn resource(what: &'static str) -> impl Fn(io::Error) -> BuildError {
    move |source| BuildError::Resource { what, source }
}

/// Builds a machine. It is in [`RunState::Prelaunch`]: nothing of the guest runs yet.
///
/// # Errors
/// The first step that failed, with its reason.
pub fn build(config: &MachineConfig, mut io: MachineIo) -> Result<Machine, BuildError> {
    let host = Host::open()?;
    host.check_cpus(config.cpus)?;
    let cpuid = cpuid::supported(&host.kvm).map_err(kvm("say what CPUs it supports"))?;
    let mut files = BootFiles::open(config)?;
    let mut ram_watch =
        std::mem::replace(&mut io.ram_watch, Box::new(|_| ControlFlow::Continue(())));
    let bits = cpuid::address_bits(&cpuid);
    let ram = memory::map(config.memory, config.ram, bits, &mut ram_watch)?;
    let memory = ram.memory();
    let planned = files.plan(memory)?;
    let boot = files.load(&planned, memory)?;
    log::info!("Kernel: {boot}");

    let events = Arc::new(GuestEvents::new().map_err(resource("an event"))?);
    let (devices, subscribers) = DeviceSet::new(config, &ram, io, &events)?;
    let platform = Platform {
        cpus: config.cpus,
        serial: devices.serial.is_some(),
        virtio_devices: devices.virtio_count(),
    };
    boot.write_information(platform, memory)?;

    let (vm, vcpus) = board::assemble(&host, &cpuid, config.cpus, memory, &devices, boot.kernel())?;
    let device_thread = DeviceThread::spawn(subscribers).map_err(resource("the device thread"))?;
    let vcpus = (0..)
        .zip(vcpus)
        .map(|(index, vcpu)| {
            VcpuThread::spawn(index, vcpu, devices.buses.clone(), events.clone())
                .map_err(resource("a vCPU thread"))
        })
        .collect::<Result<_, _>>()?;
    Ok(Machine {
        state: RunState::Prelaunch,
        vcpus,
        _device_thread: device_thread,
        events,
        devices,
        files,
        platform,
        memory: config.memory,
        clock: None,
        vm: Some(vm),
        ram,
        ram_watch,
        cpuid,
        host,
    })
}

/// Checks all of `config` that can be checked without KVM: that the files are kernel and initrd,
/// and that they and the command line fit.
///
/// # Errors
/// As [`build`] of the same configuration.
pub fn check(config: &MachineConfig) -> Result<(), BuildError> {
    let mut files = BootFiles::open(config)?;
    // All that the host can refuse at once; taking the memory would only cost time.
    let ram = RamOptions {
        prealloc: false,
        ..config.ram
    };
    let mut watch = |_| ControlFlow::Continue(());
    let ram = memory::map(config.memory, ram, memory::MAX_ADDRESS_BITS, &mut watch)?;
    let planned = files.plan(ram.memory())?;
    files.load(&planned, ram.memory())?;
    Ok(())
}
