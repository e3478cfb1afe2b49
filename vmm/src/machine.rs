//! A running machine: its run state, and how it is run, stopped and reset.
//!
//! Everything here is called from the control thread.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use aerostat_devices::balloon::Balloon;
use aerostat_devices::serial::SerialPort;
use aerostat_devices::{GuestRam, RamOptions};
use kvm_bindings::{CpuId, kvm_clock_data};
use kvm_ioctls::VmFd;

use crate::acpi::Platform;
use crate::board::{self, Board};
use crate::boot::BootFiles;
use crate::boot_timer::{BootTimer, Phase};
use crate::builder::{BuildError, RamWatch};
use crate::device_set::DeviceSet;
use crate::device_thread::DeviceThread;
use crate::guest_events::{GuestEvent, GuestEvents};
use crate::host::Host;
use crate::memory::MemoryError;
use crate::run_state::{Change, NeedsReset, RunState};
use crate::units::MemorySize;
use crate::vcpu::Buses;
use crate::vcpu_thread::{StuckVcpu, VcpuThread};

/// A machine cannot be run or stopped.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The guest has ended.
    #[error(transparent)]
    NeedsReset(#[from] NeedsReset),
    /// A vCPU hangs.
    #[error(transparent)]
    Stuck(#[from] StuckVcpu),
}

/// A machine cannot be reset; it must not run again.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// A vCPU hangs.
    #[error(transparent)]
    Stuck(#[from] StuckVcpu),
    /// A step of building it again failed.
    #[error("Cannot build the machine again after its reset")]
    Build(#[from] BuildError),
}

/// A machine.
///
/// The fields are dropped in this order: first the vCPUs stop, then the device thread, then the
/// VM goes, and guest memory after it.
pub struct Machine {
    pub(crate) state: RunState,
    pub(crate) vcpus: Vec<VcpuThread>,
    pub(crate) device_thread: Arc<DeviceThread>,
    pub(crate) events: Arc<GuestEvents>,
    pub(crate) devices: DeviceSet,
    pub(crate) files: BootFiles,
    pub(crate) boot_timer: Option<Arc<BootTimer>>,
    pub(crate) platform: Platform,
    pub(crate) memory: MemorySize,
    /// The guest's clock while it does not run.
    pub(crate) clock: Option<kvm_clock_data>,
    /// There is one but while a reset makes another.
    pub(crate) vm: Option<Arc<VmFd>>,
    pub(crate) ram: GuestRam,
    pub(crate) ram_watch: RamWatch,
    pub(crate) cpuid: CpuId,
    pub(crate) host: Arc<Host>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("state", &self.state)
            .field("ram", &self.ram)
            .field("devices", &self.devices)
            .field("device_thread", &self.device_thread)
            .finish_non_exhaustive()
    }
}

/// Access to devices as a guest has it, without a guest.
#[derive(Clone, Debug)]
pub struct Mmio(Arc<Buses>);

impl Mmio {
    /// Reads 1 to 8 bytes; all bits are set where there is no device.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        self.0.mmio.read(address, data);
    }

    /// Writes 1 to 8 bytes; nothing happens where there is no device.
    pub fn write(&self, address: u64, data: &[u8]) {
        self.0.mmio.write(address, data);
    }
}

impl Machine {
    /// Where the machine is in its life.
    #[must_use]
    pub fn state(&self) -> RunState {
        self.state
    }

    /// What the guest does.
    #[must_use]
    pub fn events(&self) -> &Arc<GuestEvents> {
        &self.events
    }

    /// The memory balloon, if the machine has one.
    #[must_use]
    pub fn balloon(&self) -> Option<&Balloon> {
        self.devices.balloon()
    }

    /// The serial port, if the machine has one.
    #[must_use]
    pub fn serial(&self) -> Option<&Arc<SerialPort>> {
        self.devices.serial.as_ref()
    }

    /// The devices that are reached through guest-physical addresses, as a vCPU finds them.
    #[must_use]
    pub fn mmio(&self) -> Mmio {
        Mmio(self.devices.buses.clone())
    }

    /// Guest memory at boot.
    #[must_use]
    pub fn memory(&self) -> MemorySize {
        self.memory
    }

    /// Where guest memory comes from.
    #[must_use]
    pub fn ram_options(&self) -> RamOptions {
        self.ram.options()
    }

    /// Where this process has guest memory.
    pub fn ram_addresses(&self) -> impl Iterator<Item = Range<usize>> {
        self.ram.addresses()
    }

    /// Whether KVM lets pages be taken from a running guest (KVM_CAP_SYNC_MMU).
    #[must_use]
    pub fn has_sync_mmu(&self) -> bool {
        self.host.sync_mmu
    }

    /// The host's ids of the vCPU threads, in the order of the vCPUs. They stay the same over
    /// resets.
    #[must_use]
    pub fn vcpu_thread_ids(&self) -> Vec<u32> {
        self.vcpus.iter().map(VcpuThread::id).collect()
    }

    /// Presses the power button. A guest that does not run finds it pressed when it goes on.
    pub fn press_power_button(&self) {
        self.devices.power_button.press();
    }

    /// Ends the threads of the vCPUs, without waiting for them: nothing can follow but the end of the
    /// process. What the guest has printed by now is at its output.
    pub fn abandon(&self) {
        self.vcpus.iter().for_each(VcpuThread::end);
        self.devices.deliver_output();
    }

    /// Lets the guest run; whether it did not before.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn resume(&mut self) -> Result<bool, StateError> {
        let before = self.state;
        self.state = before.after(Change::Cont)?;
        if before == RunState::Running {
            return Ok(false);
        }
        if before == RunState::GuestPanicked {
            self.events.rearm();
        }
        self.restore_clock();
        if let Some(balloon) = self.balloon() {
            balloon.resume();
        }
        if let Some(timer) = &self.boot_timer {
            timer.mark(Phase::Entered);
        }
        self.vcpus.iter().for_each(VcpuThread::run);
        Ok(true)
    }

    /// Stops the guest; whether it ran before. When this returns, no instruction of it runs.
    ///
    /// # Errors
    /// When a vCPU does not leave the guest.
    pub fn pause(&mut self) -> Result<bool, StateError> {
        self.stop_for(Change::Stop)
    }

    /// Stops the guest because of what it did; whether it ran before.
    ///
    /// # Errors
    /// When a vCPU does not leave the guest.
    pub fn halt(&mut self, event: &GuestEvent) -> Result<bool, StateError> {
        self.stop_for(match event {
            GuestEvent::PowerOff
            | GuestEvent::Exit(_)
            | GuestEvent::Reset
            | GuestEvent::TripleFault { .. } => Change::PowerOff,
            GuestEvent::Panicked => Change::Panic,
            GuestEvent::VcpuFailed { .. } => Change::Failure,
        })
    }

    fn stop_for(&mut self, change: Change) -> Result<bool, StateError> {
        let before = self.state;
        let after = before.after(change)?;
        if before == RunState::Running {
            let begun = Instant::now();
            self.park()?;
            log::debug!("All vCPUs left the guest within {:?}", begun.elapsed());
            self.keep_clock();
            if let Some(balloon) = self.balloon() {
                balloon.stop();
            }
        }
        self.state = after;
        Ok(before == RunState::Running)
    }

    /// Resets the machine: the guest starts from its kernel's entry, in memory of zeroes, with
    /// devices as at power-on. A machine that runs goes on running; any other is in
    /// [`RunState::Prelaunch`] afterwards. `announce` is called in between, when the machine is
    /// reset and the guest does not run yet.
    ///
    /// What the guest had in its memory goes back to the host. vCPU threads stay the same.
    ///
    /// # Errors
    /// When a vCPU hangs, KVM refuses, or the kernel can no longer be read. The machine is in
    /// [`RunState::InternalError`] then.
    pub fn reset(&mut self, announce: impl FnOnce()) -> Result<(), ResetError> {
        let before = self.state;
        let rebuilt = self.park().map_err(ResetError::from).and_then(|()| {
            self.rebuild()?;
            Ok(())
        });
        let change = if rebuilt.is_ok() {
            Change::Reset
        } else {
            Change::Failure
        };
        self.state = before.after(change).unwrap_or(RunState::InternalError);
        rebuilt?;
        self.clock = None;
        announce();
        if self.state == RunState::Running {
            self.vcpus.iter().for_each(VcpuThread::run);
        }
        Ok(())
    }

    /// The board anew, around devices and memory that were put back. All vCPUs are parked.
    fn rebuild(&mut self) -> Result<(), BuildError> {
        self.devices.reset();
        self.ram
            .reset(&mut self.ram_watch)
            .map_err(MemoryError::from)?;
        let memory = self.ram.memory();
        let planned = self.files.plan(memory)?;
        let boot = self.files.load(&planned, memory)?;
        boot.write_information(self.platform, memory)?;
        // Before interrupt lines are connected to another one.
        self.vm = None;
        let cpus = self.platform.cpus;
        let vm = board::make_vm(&self.host, memory)?;
        let board = Board::new(vm, cpus)?;
        let kernel = boot.kernel();
        self.vm = Some(board.start(&self.cpuid, kernel, memory, &self.devices, &self.vcpus)?);
        self.events.rearm();
        Ok(())
    }

    fn park(&self) -> Result<(), StuckVcpu> {
        self.vcpus.iter().for_each(VcpuThread::pause);
        self.vcpus.iter().try_for_each(VcpuThread::wait_parked)
    }

    /// A guest that is stopped does not see time pass, as in QEMU: its watchdogs would take the
    /// gap for a hang.
    fn keep_clock(&mut self) {
        let clock = self.vm.as_ref().map(|vm| vm.get_clock());
        self.clock = match clock {
            Some(Ok(clock)) => Some(clock),
            Some(Err(error)) => {
                log::debug!("The guest's clock runs on while it is stopped: {error}");
                None
            }
            None => None,
        };
    }

    fn restore_clock(&mut self) {
        let Some((vm, kept)) = self.vm.as_ref().zip(self.clock.take()) else {
            return;
        };
        let clock = kvm_clock_data {
            clock: kept.clock,
            ..Default::default()
        };
        if let Err(error) = vm.set_clock(&clock) {
            log::warn!("The guest's clock jumps over the time that it was stopped: {error}");
        }
    }
}
