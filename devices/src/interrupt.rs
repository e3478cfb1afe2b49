//! Interrupt lines: an eventfd that the hypervisor turns into an edge on a GSI (KVM's irqfd).

use std::io;

use vm_superio::Trigger;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// One edge-triggered interrupt line.
#[derive(Debug)]
pub struct InterruptLine(EventFd);

impl InterruptLine {
    /// A line that nobody listens to yet; the hypervisor is given [`Self::eventfd`].
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub fn new() -> io::Result<Self> {
        EventFd::new(EFD_NONBLOCK).map(Self)
    }

    /// A second handle to the same line.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// The event to register with the hypervisor.
    #[must_use]
    pub fn eventfd(&self) -> &EventFd {
        &self.0
    }

    /// Sends one edge. Never blocks; an edge that is pending already is not counted twice.
    pub fn raise(&self) {
        // Only a counter at its maximum refuses, and then the interrupt is pending anyway.
        let _ = self.0.write(1);
    }
}

impl Trigger for InterruptLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.raise();
        Ok(())
    }
}
