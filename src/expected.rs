//! The text after which a machine is ended, if the user gave one (`--expect`).

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use crate::console::Console;
use crate::machine::MachineHandle;

/// The subscriber that ends the machine.
pub struct Expected {
    console: Console,
    machine: MachineHandle,
}

impl Expected {
    /// Ends `machine` when `console` shows what is expected of it.
    pub fn new(console: Console, machine: MachineHandle) -> Self {
        Self { console, machine }
    }

    /// Whether `console` has shown what was expected. To be asked once, at the end.
    pub fn was_shown(console: &Console) -> bool {
        console.expected().is_some_and(|event| event.read().is_ok())
    }
}

impl MutEventSubscriber for Expected {
    /// The event is left to be read at the end: the guest may have ended at the same time.
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        self.machine.quit_from_console();
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let Some(event) = self.console.expected() else {
            return;
        };
        if let Err(error) = ops.add(Events::new(event, EventSet::IN)) {
            log::error!("The expected text will not be noticed: {error}");
        }
    }
}
