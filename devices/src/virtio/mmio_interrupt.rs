//! The interrupt and status state of a virtio-mmio device that several threads share.
//!
//! virtio 1.2 §4.2.2: InterruptStatus, InterruptACK, and the part of Status that the device
//! itself sets. All of it is atomic: the device thread reports used buffers and the control
//! thread configuration changes while a vCPU acknowledges.

use std::sync::atomic::{AtomicU32, Ordering};

use super::DeviceStatus;
use crate::interrupt::InterruptLine;

/// Interrupt status bit 0: the device has used a buffer.
const USED_BUFFER: u32 = 1;
/// Interrupt status bit 1: the configuration has changed.
const CONFIG_CHANGE: u32 = 2;

/// The interrupt of one virtio-mmio device.
#[derive(Debug)]
pub struct MmioInterrupt {
    line: InterruptLine,
    pending: AtomicU32,
    status: AtomicU32,
}

impl MmioInterrupt {
    /// The interrupt of a device in reset.
    #[must_use]
    pub fn new(line: InterruptLine) -> Self {
        Self {
            line,
            pending: AtomicU32::new(0),
            status: AtomicU32::new(0),
        }
    }

    /// Tells the driver that buffers were used.
    pub fn used_buffer(&self) {
        self.signal(USED_BUFFER);
    }

    /// Tells the driver, when there is one, that the configuration has changed (§4.2.3.4).
    pub fn config_changed(&self) {
        if self.status().contains(DeviceStatus::DRIVER_OK) {
            self.signal(CONFIG_CHANGE);
        }
    }

    /// Stops the device until its driver resets it (§2.1.2).
    pub fn needs_reset(&self) {
        self.status
            .fetch_or(DeviceStatus::NEEDS_RESET.bits(), Ordering::AcqRel);
        self.config_changed();
    }

    /// The device status field.
    #[must_use]
    pub fn status(&self) -> DeviceStatus {
        DeviceStatus::from_bits(self.status.load(Ordering::Acquire))
    }

    pub(super) fn set_status(&self, status: DeviceStatus) {
        // The device may add NEEDS_RESET at any moment; only a reset takes it away.
        if status == DeviceStatus::RESET {
            self.status.store(0, Ordering::Release);
            self.pending.store(0, Ordering::Release);
        } else {
            self.status.fetch_or(status.bits(), Ordering::AcqRel);
        }
    }

    pub(super) fn pending(&self) -> u32 {
        self.pending.load(Ordering::Acquire)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.pending.fetch_and(!bits, Ordering::AcqRel);
    }

    fn signal(&self, bit: u32) {
        self.pending.fetch_or(bit, Ordering::AcqRel);
        self.line.raise();
    }
}
