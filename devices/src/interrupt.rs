//! Interrupt lines: an eventfd that the hypervisor turns into an edge on a GSI (KVM's irqfd).

use std::io;
use std::sync::Arc;

use vm_superio::Trigger;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// One edge-triggered interrupt line; clones are the same line.
#[derive(Clone, Debug)]
pub struct InterruptLine(Arc<EventFd>);

impl InterruptLine {
    /// A line that nobody listens to yet; the hypervisor is given [`Self::eventfd`].
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub fn new() -> io::Result<Self> {
        EventFd::new(EFD_NONBLOCK).map(|event| Self(Arc::new(event)))
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

    /// Forgets an edge that nobody has taken: a hypervisor that is connected later would.
    pub fn clear(&self) {
        // Nothing to read is what we want.
        let _ = self.0.read();
    }
}

impl Trigger for InterruptLine {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.raise();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleared_line_has_no_edge_pending() {
        let line = InterruptLine::new().unwrap();
        line.raise();
        line.clear();
        assert!(line.eventfd().read().is_err());
    }

    #[test]
    fn clones_are_one_line() {
        let line = InterruptLine::new().unwrap();
        line.clone().raise();
        assert_eq!(line.eventfd().read().unwrap(), 1);
    }
}
