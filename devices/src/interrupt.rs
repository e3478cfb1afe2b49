//! Interrupt lines: what a device pulls when it wants the guest's attention.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use vm_superio::Trigger;
use vmm_sys_util::eventfd::EventFd;

/// One edge-triggered interrupt line; clones are the same line.
#[derive(Clone)]
pub struct InterruptLine(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for InterruptLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InterruptLine")
    }
}

impl InterruptLine {
    /// A line with something at its end that is told of each edge, on any thread, and must not
    /// block.
    #[must_use]
    pub fn new(edge: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(edge))
    }

    /// Sends one edge. Never blocks.
    pub fn raise(&self) {
        (self.0)();
    }
}

/// A line whose edges are counted by an event, for a driver that is no guest.
impl From<EventFd> for InterruptLine {
    fn from(event: EventFd) -> Self {
        Self::new(move || {
            // Only a counter at its maximum refuses, and then the interrupt is pending anyway.
            let _ = event.write(1);
        })
    }
}

impl Trigger for InterruptLine {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.raise();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[test]
    fn clones_are_one_line() {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let line = InterruptLine::from(event.try_clone().unwrap());
        line.clone().raise();
        line.raise();
        assert_eq!(event.read().unwrap(), 2);
    }
}
