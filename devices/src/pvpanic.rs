//! The port through which a guest says that it has panicked.
//!
//! QEMU's "pvpanic ISA device" (`docs/specs/pvpanic.rst`): one byte, which reads as the events
//! that are understood, and to which the guest writes those that happened. Linux finds it through
//! ACPI (`QEMU0001`).

use std::fmt;

use crate::bus::BusDevice;

/// What happened in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicNotice {
    /// It has panicked, and leaves the rest to its host.
    Panicked,
    /// It has panicked, and goes on with a crash kernel of its own.
    CrashLoaded,
}

/// Takes notices on a vCPU thread; must not block.
pub type PanicSink = Box<dyn Fn(PanicNotice) + Send + Sync>;

/// PVPANIC_PANICKED.
const PANICKED_BIT: u8 = 1;
/// PVPANIC_CRASH_LOADED.
const CRASH_LOADED_BIT: u8 = 1 << 1;

/// The port.
pub struct PanicPort(PanicSink);

impl PanicPort {
    /// Ports that the device needs.
    pub const LENGTH: u64 = 1;

    /// A port that reports to `sink`.
    #[must_use]
    pub fn new(sink: PanicSink) -> Self {
        Self(sink)
    }
}

impl fmt::Debug for PanicPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PanicPort")
    }
}

impl BusDevice for PanicPort {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(PANICKED_BIT | CRASH_LOADED_BIT);
    }

    /// As in QEMU, a guest that says both is taken to have panicked.
    fn write(&self, _offset: u64, data: &[u8]) {
        let &[events] = data else { return };
        if events & PANICKED_BIT != 0 {
            (self.0)(PanicNotice::Panicked);
        } else if events & CRASH_LOADED_BIT != 0 {
            (self.0)(PanicNotice::CrashLoaded);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn port() -> (PanicPort, Receiver<PanicNotice>) {
        let (sender, notices) = channel();
        let sink = Box::new(move |notice| sender.send(notice).unwrap());
        (PanicPort::new(sink), notices)
    }

    #[test]
    fn read_tells_the_events_that_are_understood() {
        let mut data = [0];
        port().0.read(0, &mut data);
        assert_eq!(data, [3]);
    }

    #[test]
    fn each_event_is_told_and_a_panic_wins() {
        let (port, notices) = port();
        for events in [1, 2, 3] {
            port.write(0, &[events]);
        }
        let told: Vec<_> = notices.try_iter().collect();
        assert_eq!(
            told,
            [
                PanicNotice::Panicked,
                PanicNotice::CrashLoaded,
                PanicNotice::Panicked
            ]
        );
    }

    #[test]
    fn unknown_events_tell_nothing() {
        let (port, notices) = port();
        port.write(0, &[0]);
        port.write(0, &[0xfc]);
        assert_eq!(notices.try_iter().count(), 0);
    }
}
