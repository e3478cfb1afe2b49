//! What a guest does that concerns its whole machine, on the way from vCPU threads to the control
//! thread.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::vcpu::{RegisterDump, VcpuFailure};

/// What a guest did, or what happened to it, that its vCPUs may not run past.
#[derive(Debug)]
pub enum GuestEvent {
    /// It powered the machine off.
    PowerOff,
    /// It reset the machine.
    Reset,
    /// It faulted three times over, which resets a PC.
    TripleFault {
        /// The vCPU that faulted.
        index: u8,
        /// Where it was.
        registers: RegisterDump,
    },
    /// It has panicked.
    Panicked,
    /// It ended the machine with this exit status for the process.
    Exit(u8),
    /// One of its vCPUs cannot go on.
    VcpuFailed {
        /// Which one.
        index: u8,
        /// Why.
        failure: VcpuFailure,
    },
}

/// The way from vCPU threads to the control thread. The first event halts the guest; what other
/// vCPUs, or the same one a few instructions later, add to it is not heard.
#[derive(Debug)]
pub struct GuestEvents {
    wake: EventFd,
    halted: AtomicBool,
    event: Mutex<Option<GuestEvent>>,
}

impl GuestEvents {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            wake: EventFd::new(EFD_NONBLOCK)?,
            halted: AtomicBool::new(false),
            event: Mutex::new(None),
        })
    }

    pub(crate) fn send(&self, event: GuestEvent) {
        if !self.halted.swap(true, Ordering::AcqRel) {
            *self.lock() = Some(event);
            let _ = self.wake.write(1);
        }
    }

    /// Whether no vCPU may enter the guest, because of an event.
    pub(crate) fn halted(&self) -> bool {
        self.halted.load(Ordering::Acquire)
    }

    /// Lets vCPUs enter the guest again, and forgets an event that nobody has heard of. To be
    /// called while all of them are parked.
    pub(crate) fn rearm(&self) {
        let _ = self.wake.read();
        *self.lock() = None;
        self.halted.store(false, Ordering::Release);
    }

    /// Becomes readable when there is an event.
    #[must_use]
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// The event, once.
    pub fn take(&self) -> Option<GuestEvent> {
        let _ = self.wake.read();
        self.lock().take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<GuestEvent>> {
        self.event.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_event_halts_and_is_the_one_that_is_told() {
        let events = GuestEvents::new().unwrap();
        assert!(!events.halted());
        events.send(GuestEvent::PowerOff);
        events.send(GuestEvent::Reset);
        assert!(events.halted());
        assert!(matches!(events.take(), Some(GuestEvent::PowerOff)));
        assert!(events.take().is_none());
        assert!(events.halted());
    }

    #[test]
    fn rearmed_way_has_no_event_and_takes_the_next() {
        let events = GuestEvents::new().unwrap();
        events.send(GuestEvent::PowerOff);
        events.rearm();
        assert!(!events.halted());
        assert!(events.take().is_none());
        events.send(GuestEvent::Reset);
        assert!(matches!(events.take(), Some(GuestEvent::Reset)));
    }
}
