//! What a guest does, as an event of the control thread's loop.

use std::sync::Arc;

use aerostat_vmm::GuestEvents;
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::MachineHandle;

/// The subscriber for what the guest does.
#[derive(Debug)]
pub struct GuestWatch {
    events: Arc<GuestEvents>,
    machine: MachineHandle,
}

impl GuestWatch {
    /// Tells `machine` what its guest does.
    pub fn new(machine: MachineHandle) -> Self {
        let events = machine.0.borrow().machine.events().clone();
        Self { events, machine }
    }
}

impl MutEventSubscriber for GuestWatch {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        if let Some(event) = self.events.take() {
            self.machine.0.borrow_mut().guest_did(&event);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(self.events.wake(), EventSet::IN)) {
            log::error!("The guest's end will not be noticed: {error}");
        }
    }
}
