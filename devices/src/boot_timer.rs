//! The boot timer's port: the guest tells how far its boot has come, with a byte of its own choice.
//!
//! As the boot timer of Firecracker and the debug port of Cloud Hypervisor: what takes the time of an
//! exit to tell, where the console would take one for each letter.

use std::fmt;

use crate::bus::BusDevice;

/// Takes the guest's byte on a vCPU thread; must not block.
pub type CodeSink = Box<dyn Fn(u8) + Send + Sync>;

/// The port, one byte wide.
pub struct BootTimerPort(CodeSink);

impl BootTimerPort {
    /// Ports that the device needs.
    pub const LENGTH: u64 = 1;

    /// A port that reports to `sink`.
    #[must_use]
    pub fn new(sink: CodeSink) -> Self {
        Self(sink)
    }
}

impl fmt::Debug for BootTimerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BootTimerPort")
    }
}

impl BusDevice for BootTimerPort {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if let Some(&code) = data.first() {
            (self.0)(code);
        }
    }
}
