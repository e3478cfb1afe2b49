//! The virtio-mmio transport, version 2 (virtio 1.2 §4.2.2): the registers of one device.
//!
//! Runs on vCPU threads. Notifications of queues arrive here only until the hypervisor turns them
//! into eventfds ([`QUEUE_NOTIFY_OFFSET`], [`MmioTransport::before_activation`]). What a driver does
//! out of turn changes nothing, is counted, and is logged at a limited rate.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::queue_setup::QueueSetup;
use super::{DeviceStatus, MmioInterrupt, VIRTIO_F_VERSION_1, VirtioDevice};
use crate::GuestMemory;
use crate::bus::BusDevice;
use crate::fault_log::FaultLog;

/// Guest-physical addresses that a device takes: its registers, and room to spare in the page.
pub const LENGTH: u64 = 0x1000;
/// The register to which a driver writes the index of the queue that it kicks, 32 bits wide.
pub const QUEUE_NOTIFY_OFFSET: u64 = 0x050;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// VendorID: there is no registry; this one is "AERO".
const VENDOR: u32 = u32::from_le_bytes(*b"AERO");
/// The length of a shared memory region that does not exist.
const NO_SHARED_MEMORY: u32 = u32::MAX;

const MAGIC_OFFSET: u64 = 0x000;
const VERSION_OFFSET: u64 = 0x004;
const DEVICE_ID_OFFSET: u64 = 0x008;
const VENDOR_ID_OFFSET: u64 = 0x00c;
const DEVICE_FEATURES_OFFSET: u64 = 0x010;
const DEVICE_FEATURES_SEL_OFFSET: u64 = 0x014;
const DRIVER_FEATURES_OFFSET: u64 = 0x020;
const DRIVER_FEATURES_SEL_OFFSET: u64 = 0x024;
const QUEUE_SEL_OFFSET: u64 = 0x030;
const QUEUE_NUM_MAX_OFFSET: u64 = 0x034;
const QUEUE_NUM_OFFSET: u64 = 0x038;
const QUEUE_READY_OFFSET: u64 = 0x044;
const INTERRUPT_STATUS_OFFSET: u64 = 0x060;
const INTERRUPT_ACK_OFFSET: u64 = 0x064;
const STATUS_OFFSET: u64 = 0x070;
const QUEUE_DESC_LOW_OFFSET: u64 = 0x080;
const QUEUE_DESC_HIGH_OFFSET: u64 = 0x084;
const QUEUE_DRIVER_LOW_OFFSET: u64 = 0x090;
const QUEUE_DRIVER_HIGH_OFFSET: u64 = 0x094;
const QUEUE_DEVICE_LOW_OFFSET: u64 = 0x0a0;
const QUEUE_DEVICE_HIGH_OFFSET: u64 = 0x0a4;
const SHM_SEL_OFFSET: u64 = 0x0ac;
const SHM_LEN_LOW_OFFSET: u64 = 0x0b0;
const SHM_BASE_HIGH_OFFSET: u64 = 0x0bc;
const CONFIG_GENERATION_OFFSET: u64 = 0x0fc;
const CONFIG_OFFSET: u64 = 0x100;

/// What the driver has written so far.
struct Registers {
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: Vec<QueueSetup>,
}

/// What is done before a driver uses the queues, or why they cannot be used.
pub type BeforeActivation = Box<dyn Fn() -> io::Result<()> + Send + Sync>;

/// The transport of one device.
pub struct MmioTransport {
    device: Arc<dyn VirtioDevice>,
    memory: GuestMemory,
    interrupt: Arc<MmioInterrupt>,
    registers: Mutex<Registers>,
    before_activation: BeforeActivation,
    faults: FaultLog,
}

impl fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device_id", &self.device.device_id())
            .finish()
    }
}

impl MmioTransport {
    /// A transport for `device`, in reset.
    #[must_use]
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        memory: GuestMemory,
        interrupt: Arc<MmioInterrupt>,
    ) -> Self {
        let queues = device
            .queue_max_sizes()
            .iter()
            .map(|&size| QueueSetup::new(size))
            .collect();
        let registers = Mutex::new(Registers {
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            queues,
        });
        Self {
            device,
            memory,
            interrupt,
            registers,
            before_activation: Box::new(|| Ok(())),
            faults: FaultLog::new("virtio-mmio", "guest fault"),
        }
    }

    /// The same with something to do each time when a driver is about to use the queues: to have
    /// somebody serve them, and the hypervisor take their notifications. Runs on a vCPU thread. Where it
    /// fails, the device needs a reset instead.
    #[must_use]
    pub fn before_activation(self, act: BeforeActivation) -> Self {
        Self {
            before_activation: act,
            ..self
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        let registers = self
            .registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match offset {
            MAGIC_OFFSET => MAGIC,
            VERSION_OFFSET => VERSION,
            DEVICE_ID_OFFSET => self.device.device_id(),
            VENDOR_ID_OFFSET => VENDOR,
            DEVICE_FEATURES_OFFSET => half(self.offered_features(), registers.device_features_sel),
            QUEUE_NUM_MAX_OFFSET => registers
                .selected()
                .map_or(0, |queue| queue.max_size.into()),
            QUEUE_READY_OFFSET => registers.selected().map_or(0, |queue| queue.ready.into()),
            INTERRUPT_STATUS_OFFSET => self.interrupt.pending(),
            STATUS_OFFSET => self.interrupt.status().bits(),
            SHM_LEN_LOW_OFFSET..=SHM_BASE_HIGH_OFFSET => NO_SHARED_MEMORY,
            CONFIG_GENERATION_OFFSET => self.device.config_generation(),
            _ => {
                self.faults
                    .record(|| format!("register {offset:#x} cannot be read"));
                0
            }
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        let mut registers = self
            .registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match offset {
            DEVICE_FEATURES_SEL_OFFSET => registers.device_features_sel = value,
            DRIVER_FEATURES_SEL_OFFSET => registers.driver_features_sel = value,
            DRIVER_FEATURES_OFFSET => self.write_driver_features(&mut registers, value),
            QUEUE_SEL_OFFSET => registers.queue_sel = value,
            QUEUE_NUM_OFFSET
            | QUEUE_READY_OFFSET
            | QUEUE_DESC_LOW_OFFSET
            | QUEUE_DESC_HIGH_OFFSET
            | QUEUE_DRIVER_LOW_OFFSET
            | QUEUE_DRIVER_HIGH_OFFSET
            | QUEUE_DEVICE_LOW_OFFSET
            | QUEUE_DEVICE_HIGH_OFFSET => self.write_queue(&mut registers, offset, value),
            QUEUE_NOTIFY_OFFSET => self.notify(&registers, value),
            INTERRUPT_ACK_OFFSET => self.interrupt.acknowledge(value),
            STATUS_OFFSET => self.write_status(&mut registers, value),
            SHM_SEL_OFFSET => {}
            _ => self
                .faults
                .record(|| format!("register {offset:#x} cannot be written")),
        }
    }

    fn offered_features(&self) -> u64 {
        self.device.features() | VIRTIO_F_VERSION_1
    }

    /// §4.2.2.2: between DRIVER and FEATURES_OK only.
    fn write_driver_features(&self, registers: &mut Registers, value: u32) {
        let status = self.interrupt.status();
        if !status.contains(DeviceStatus::DRIVER) || status.contains(DeviceStatus::FEATURES_OK) {
            self.faults
                .record(|| format!("features written in status {:#x}", status.bits()));
            return;
        }
        let value = u64::from(value);
        match registers.driver_features_sel {
            0 => registers.driver_features = registers.driver_features & !0xffff_ffff | value,
            1 => registers.driver_features = registers.driver_features & 0xffff_ffff | value << 32,
            _ if value == 0 => {}
            sel => self
                .faults
                .record(|| format!("feature word {sel} is not on offer")),
        }
    }

    /// Queue registers are writable from FEATURES_OK to DRIVER_OK, and but for QueueReady only
    /// while the queue is not ready (§4.2.2.2).
    fn write_queue(&self, registers: &mut Registers, offset: u64, value: u32) {
        let status = self.interrupt.status();
        if !status.contains(DeviceStatus::FEATURES_OK) || status.contains(DeviceStatus::DRIVER_OK) {
            let bits = status.bits();
            self.faults
                .record(|| format!("queue register {offset:#x} written in status {bits:#x}"));
            return;
        }
        let sel = registers.queue_sel;
        let Some(queue) = registers.selected_mut() else {
            self.faults.record(|| format!("there is no queue {sel}"));
            return;
        };
        if offset == QUEUE_READY_OFFSET {
            queue.ready = value == 1;
            return;
        }
        if queue.ready {
            self.faults
                .record(|| format!("register {offset:#x} of ready queue {sel} written"));
            return;
        }
        match offset {
            QUEUE_NUM_OFFSET => queue.size = value,
            QUEUE_DESC_LOW_OFFSET => queue.set_half(0, false, value),
            QUEUE_DESC_HIGH_OFFSET => queue.set_half(0, true, value),
            QUEUE_DRIVER_LOW_OFFSET => queue.set_half(1, false, value),
            QUEUE_DRIVER_HIGH_OFFSET => queue.set_half(1, true, value),
            QUEUE_DEVICE_LOW_OFFSET => queue.set_half(2, false, value),
            _ => queue.set_half(2, true, value),
        }
    }

    fn write_status(&self, registers: &mut Registers, value: u32) {
        if value == 0 {
            self.reset_locked(registers);
            return;
        }
        let before = self.interrupt.status();
        let after = match before.step(value) {
            Ok(after) => after,
            Err(fault) => return self.faults.record(|| fault.to_string()),
        };
        let added = |bit| after.contains(bit) && !before.contains(bit);
        if added(DeviceStatus::FEATURES_OK) && !self.features_acceptable(registers) {
            // §2.2.2: the driver reads the status back and finds FEATURES_OK missing.
            return;
        }
        self.interrupt.set_status(after);
        if added(DeviceStatus::DRIVER_OK) && !after.contains(DeviceStatus::FAILED) {
            self.activate(registers);
        }
    }

    fn features_acceptable(&self, registers: &Registers) -> bool {
        let wanted = registers.driver_features;
        let acceptable = wanted & !self.offered_features() == 0 && wanted & VIRTIO_F_VERSION_1 != 0;
        if !acceptable {
            self.faults
                .record(|| format!("features {wanted:#x} are not acceptable"));
        }
        acceptable
    }

    /// Hands the queues to the device, unless one of them is malformed.
    fn activate(&self, registers: &Registers) {
        let mut queues = Vec::with_capacity(registers.queues.len());
        for (index, setup) in registers.queues.iter().enumerate() {
            match setup.validate(&self.memory) {
                Ok(queue) => queues.push(queue),
                Err(error) => {
                    self.faults
                        .record(|| format!("queue {index} is unusable: {error}"));
                    self.interrupt.needs_reset();
                    return;
                }
            }
        }
        if let Err(error) = (self.before_activation)() {
            self.faults
                .record(|| format!("the device cannot be used: {error}"));
            self.interrupt.needs_reset();
            return;
        }
        self.device.activate(registers.driver_features, queues);
    }

    /// A notification that the hypervisor has not taken.
    fn notify(&self, registers: &Registers, queue: u32) {
        match usize::try_from(queue) {
            Ok(index) if index < registers.queues.len() => self.device.notify(index),
            _ => self.faults.record(|| format!("there is no queue {queue}")),
        }
    }

    /// Resets device and transport, as a machine reset does.
    pub fn reset(&self) {
        self.reset_locked(
            &mut self
                .registers
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn reset_locked(&self, registers: &mut Registers) {
        self.device.reset();
        registers.device_features_sel = 0;
        registers.driver_features_sel = 0;
        registers.driver_features = 0;
        registers.queue_sel = 0;
        registers
            .queues
            .iter_mut()
            .for_each(|queue| *queue = QueueSetup::new(queue.max_size));
        self.interrupt.set_status(DeviceStatus::RESET);
    }
}

impl Registers {
    fn selected(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    fn selected_mut(&mut self) -> Option<&mut QueueSetup> {
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }
}

/// The 32 bits of `features` that `sel` selects; words that do not exist are 0.
fn half(features: u64, sel: u32) -> u32 {
    let word = match sel {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(word).unwrap_or(0)
}

impl BusDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if offset >= CONFIG_OFFSET {
            data.fill(0);
            self.device.read_config(offset - CONFIG_OFFSET, data);
            return;
        }
        data.fill(0);
        // §4.2.2.2: registers are accessed 32 bits wide and aligned.
        match <&mut [u8; 4]>::try_from(data) {
            Ok(word) if offset.is_multiple_of(4) => {
                *word = self.read_register(offset).to_le_bytes()
            }
            _ => self
                .faults
                .record(|| format!("misaligned or narrow read at {offset:#x}")),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset >= CONFIG_OFFSET {
            self.device.write_config(offset - CONFIG_OFFSET, data);
            return;
        }
        match <[u8; 4]>::try_from(data) {
            Ok(word) if offset.is_multiple_of(4) => {
                self.write_register(offset, u32::from_le_bytes(word))
            }
            _ => self
                .faults
                .record(|| format!("misaligned or narrow write at {offset:#x}")),
        }
    }
}

#[cfg(test)]
mod tests;
