//! The port through which a guest ends its machine with an exit status: a test's result becomes
//! that of the process.
//!
//! As QEMU's `isa-debug-exit`: what is written, shifted left by one, with bit 0 set, so that no
//! guest can make its machine look like one that ended by itself.

use std::fmt;

use crate::bus::BusDevice;

/// Takes the exit status on a vCPU thread; must not block.
pub type ExitSink = Box<dyn Fn(u8) + Send + Sync>;

/// The port, four bytes wide.
pub struct DebugExit(ExitSink);

impl DebugExit {
    /// Ports that the device needs.
    pub const LENGTH: u64 = 4;

    /// A port that reports to `sink`.
    #[must_use]
    pub fn new(sink: ExitSink) -> Self {
        Self(sink)
    }
}

impl fmt::Debug for DebugExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DebugExit")
    }
}

impl BusDevice for DebugExit {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    /// A process has eight bits of exit status: bits 7 and up of what is written are lost.
    fn write(&self, _offset: u64, data: &[u8]) {
        if let Some(&value) = data.first() {
            (self.0)(value << 1 | 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn written_value_becomes_an_odd_status() {
        let (sender, statuses) = channel();
        let port = DebugExit::new(Box::new(move |status| sender.send(status).unwrap()));
        port.write(0, &[0]);
        port.write(0, &[0x10]);
        port.write(0, &[1, 0, 0, 0]);
        port.write(3, &[0xff]);
        let told: Vec<_> = statuses.try_iter().collect();
        assert_eq!(told, [1, 33, 3, 255]);
    }
}
