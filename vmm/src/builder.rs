//! From a configuration to a machine, in ordered steps.
//!
//! Files are checked before anything of KVM is made, so that a wrong argument costs nothing.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use aerostat_devices::balloon::BalloonSink;
use aerostat_devices::serial::SerialOutput;
use aerostat_devices::{Progress, RamError, RamOptions};

use crate::acpi::Platform;
use crate::board::{self, Board};
use crate::boot::{BootError, BootFiles};
use crate::boot_timer::{BootTimer, Phase};
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
pub type RamWatch = Box<dyn FnMut(Progress) -> ControlFlow<()> + Send>;

/// Who hears how a machine is built.
pub struct Observers {
    /// Is told how guest memory is taken from the host, at the start and after resets. Runs on the
    /// thread that builds and resets.
    pub ram: RamWatch,
    /// Takes the times of the boot, and gives the guest a port by which it asks for them; `None` for a
    /// machine without one.
    pub boot_timer: Option<Arc<BootTimer>>,
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers")
            .field("boot_timer", &self.boot_timer)
            .finish_non_exhaustive()
    }
}

/// What a machine is connected to.
pub struct MachineIo {
    /// Where the serial port writes; `None` for a machine without a serial port.
    pub serial: Option<SerialOutput>,
    /// Is told what the guest says of its balloon.
    pub balloon: BalloonSink,
    /// Is told that the guest has panicked and goes on with a crash kernel of its own. Runs on a
    /// vCPU thread; must not block.
    pub crash_loaded: Box<dyn Fn() + Send + Sync>,
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
    /// Whether nothing failed, but [`Observers::ram`] broke off.
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
/// Nearly all of it in turn, on one thread: most of it takes microseconds, and to wake another CPU up costs
/// more than it would save.
///
/// # Errors
/// Those of `io`, or the first step that failed, with its reason.
pub fn build<E: From<BuildError>>(
    config: &MachineConfig,
    observers: Observers,
    io: impl FnOnce() -> Result<MachineIo, E>,
) -> Result<Machine, E> {
    let host = Arc::new(Host::open().map_err(BuildError::from)?);
    host.check_cpus(config.cpus).map_err(BuildError::from)?;
    let files = BootFiles::open(config).map_err(BuildError::from)?;
    Ok(build_on(host, config, files, io()?, observers)?)
}

fn build_on(
    host: Arc<Host>,
    config: &MachineConfig,
    mut files: BootFiles,
    io: MachineIo,
    mut observers: Observers,
) -> Result<Machine, BuildError> {
    let boot_timer = observers.boot_timer;
    let done = |phase| {
        if let Some(timer) = &boot_timer {
            timer.mark(phase);
        }
    };
    // KVM has the last word on this, which takes time.
    memory::check_reach(config.memory, cpuid::host_address_bits())?;
    let ram = memory::map(config.memory, config.ram, &mut observers.ram)?;
    let memory = ram.memory();
    let planned = files.plan(memory)?;
    let events = Arc::new(GuestEvents::new().map_err(resource("an event"))?);
    let device_thread = Arc::new(DeviceThread::new());
    let timer = boot_timer.as_ref();
    let devices = DeviceSet::new(config, &ram, io, timer, &events, &device_thread)?;
    let platform = Platform {
        cpus: config.cpus,
        serial: devices.serial.is_some(),
        virtio_devices: devices.virtio_count(),
    };
    // Each CPUID instruction may be an exit where the host is a virtual machine itself. Meanwhile, on a
    // thread that has nothing else to do yet, or here if that thread has not come to it:
    let supported = Arc::new(OnceLock::new());
    let spawn = |index| {
        let (host, supported) = (host.clone(), supported.clone());
        let first = move || {
            if index == 0 {
                supported.get_or_init(|| cpuid::supported(&host.kvm));
            }
        };
        let thread = VcpuThread::spawn(index, devices.buses.clone(), events.clone(), first);
        thread.map_err(resource("a vCPU thread"))
    };
    let vcpus = (0..config.cpus).map(spawn).collect::<Result<Vec<_>, _>>()?;
    let elsewhere = vcpus.first().and_then(VcpuThread::elsewhere);
    let vm = board::make_vm(&host, memory)?;
    let board = Board::new(vm, config.cpus)?;
    done(Phase::Built);
    let boot = files.load(&planned, memory)?;
    boot.write_information(platform, memory)?;
    log::info!("Kernel: {boot}");
    done(Phase::Loaded);
    let cpuid = supported
        .get_or_init(|| cpuid::supported(&host.kvm))
        .clone()
        .map_err(kvm("say what CPUs it supports"))?;
    drop(elsewhere);
    memory::check_reach(config.memory, cpuid::address_bits(&cpuid))?;
    let vm = board.start(&cpuid, boot.kernel(), memory, &devices, &vcpus)?;
    Ok(Machine {
        state: RunState::Prelaunch,
        vcpus,
        device_thread,
        events,
        devices,
        files,
        boot_timer,
        platform,
        memory: config.memory,
        clock: None,
        vm: Some(vm),
        ram,
        ram_watch: observers.ram,
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
    memory::check_reach(config.memory, cpuid::host_address_bits())?;
    let ram = memory::map(config.memory, ram, &mut watch)?;
    let planned = files.plan(ram.memory())?;
    files.load(&planned, ram.memory())?;
    Ok(())
}
