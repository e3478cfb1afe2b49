//! A running machine: its run state, and what its guest did.
//!
//! Everything here is called from the control thread, but for [`GuestEvents`], through which
//! vCPU threads report.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aerostat_devices::GuestMemory;
use aerostat_devices::balloon::Balloon;
use aerostat_devices::serial::SerialPort;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device_thread::DeviceThread;
use crate::units::MemorySize;
use crate::vcpu::VcpuFailure;
use crate::vcpu_thread::{StuckVcpu, VcpuThread};

/// Where a machine is in its life; the names are QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Built, and never run.
    Prelaunch,
    /// The guest runs.
    Running,
    /// The guest was stopped and can go on.
    Paused,
    /// The guest has ended its machine.
    Shutdown,
    /// A vCPU failed.
    InternalError,
}

/// What a guest did to end its machine.
#[derive(Debug)]
pub enum GuestEvent {
    /// It powered the machine off.
    PowerOff,
    /// It reset the machine.
    Reset,
    /// One of its vCPUs cannot go on.
    VcpuFailed {
        /// Which one.
        index: u8,
        /// Why.
        failure: VcpuFailure,
    },
}

/// The way from vCPU threads to the control thread. The first event ends the guest; what other
/// vCPUs, or the same one a few instructions later, add to it is not heard.
#[derive(Debug)]
pub struct GuestEvents {
    wake: EventFd,
    ended: AtomicBool,
    event: Mutex<Option<GuestEvent>>,
}

impl GuestEvents {
    pub(crate) fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self {
            wake,
            ended: AtomicBool::new(false),
            event: Mutex::new(None),
        })
    }

    pub(crate) fn send(&self, event: GuestEvent) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            *self.event.lock().unwrap_or_else(PoisonError::into_inner) = Some(event);
            let _ = self.wake.write(1);
        }
    }

    /// Whether the guest has ended, so that no vCPU may enter it again.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Becomes readable when there is an event.
    #[must_use]
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// The event, once.
    pub fn take(&self) -> Option<GuestEvent> {
        let _ = self.wake.read();
        self.event
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// A change of run state did not happen.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The guest has ended; a machine that starts again is another one.
    #[error("the guest has ended")]
    Ended,
    /// A vCPU hangs.
    #[error(transparent)]
    Stuck(#[from] StuckVcpu),
}

/// A machine.
///
/// The fields are dropped in this order: first the vCPUs stop, then the device thread, then the
/// VM goes, and guest memory last.
#[derive(Debug)]
pub struct Machine {
    pub(crate) state: RunState,
    pub(crate) vcpus: Vec<VcpuThread>,
    pub(crate) _device_thread: DeviceThread,
    pub(crate) events: Arc<GuestEvents>,
    pub(crate) balloon: Option<Arc<Balloon>>,
    pub(crate) serial: Option<Arc<SerialPort>>,
    pub(crate) memory: MemorySize,
    pub(crate) sync_mmu: bool,
    pub(crate) _vm: VmFd,
    pub(crate) _guest_memory: GuestMemory,
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
        self.balloon.as_deref()
    }

    /// The serial port, if the machine has one.
    #[must_use]
    pub fn serial(&self) -> Option<&Arc<SerialPort>> {
        self.serial.as_ref()
    }

    /// Guest memory at boot.
    #[must_use]
    pub fn memory(&self) -> MemorySize {
        self.memory
    }

    /// Whether KVM lets pages be taken from a running guest (KVM_CAP_SYNC_MMU).
    #[must_use]
    pub fn has_sync_mmu(&self) -> bool {
        self.sync_mmu
    }

    /// Lets the guest run; whether it did not before.
    ///
    /// # Errors
    /// When the guest has ended.
    pub fn resume(&mut self) -> Result<bool, StateError> {
        match self.state {
            RunState::Running => Ok(false),
            RunState::Prelaunch | RunState::Paused => {
                self.vcpus.iter().for_each(VcpuThread::run);
                self.state = RunState::Running;
                Ok(true)
            }
            RunState::Shutdown | RunState::InternalError => Err(StateError::Ended),
        }
    }

    /// Stops the guest; whether it ran before. When this returns, no instruction of it runs.
    ///
    /// # Errors
    /// When a vCPU does not leave the guest.
    pub fn pause(&mut self) -> Result<bool, StateError> {
        if self.state != RunState::Running {
            return Ok(false);
        }
        self.vcpus.iter().for_each(VcpuThread::pause);
        for vcpu in &self.vcpus {
            vcpu.wait_parked()?;
        }
        self.state = RunState::Paused;
        Ok(true)
    }

    /// Records that the guest has ended.
    pub fn end(&mut self, event: &GuestEvent) {
        self.state = match event {
            GuestEvent::PowerOff | GuestEvent::Reset => RunState::Shutdown,
            GuestEvent::VcpuFailed { .. } => RunState::InternalError,
        };
    }
}
