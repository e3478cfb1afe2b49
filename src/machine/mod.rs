//! The machine as QMP, signals, the console and the clock see it: the only place that knows both
//! sides.
//!
//! Runs on the control thread.

mod backend;
mod description;
mod life;
mod sinks;
mod watch;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use aerostat_devices::balloon::Balloon;
use aerostat_qmp::{CommandError, Event, EventSender, ShutdownCause};
use aerostat_vmm::units::MemorySize;
use aerostat_vmm::{Machine, RunState as VmState, StateError};

use crate::cli::options::TermPolicy;
pub use description::Description;
use life::Life;
pub use life::{Ending, Policy};
pub use sinks::{balloon_sink, crash_loaded_sink};
pub use watch::GuestWatch;

/// A handle to the machine; clones are the same machine.
#[derive(Clone)]
pub struct MachineHandle(Rc<RefCell<Life>>);

impl fmt::Debug for MachineHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineHandle").finish_non_exhaustive()
    }
}

impl MachineHandle {
    /// Takes the machine; what happens to it is sent to `events`.
    pub fn new(
        machine: Machine,
        policy: Policy,
        description: Description,
        events: EventSender,
    ) -> Self {
        let life = Life::new(machine, policy, description, events);
        Self(Rc::new(RefCell::new(life)))
    }

    /// Lets the guest run for the first time.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn start(&self) -> Result<(), StateError> {
        self.0.borrow_mut().machine.resume().map(drop)
    }

    /// Leaves the machine to the end of the process, which has begun.
    pub fn abandon(&self) {
        self.0.borrow().machine.abandon();
    }

    /// How the machine ended, once it has.
    pub fn take_ending(&self) -> Option<Ending> {
        self.0.borrow_mut().take_ending()
    }

    /// Ends the machine at the wish of the console's user: one who types, or one who waited for
    /// a text that has come.
    pub fn quit_from_console(&self) {
        self.end(ShutdownCause::HostUi, Ending::InOrder);
    }

    /// Ends the machine because of a signal.
    pub fn quit_on_signal(&self) {
        self.end(ShutdownCause::HostSignal, Ending::InOrder);
    }

    /// Does what SIGTERM is to do. A guest that does not run could not power off, so it is not
    /// asked to.
    pub fn terminate(&self) {
        let asks_guest = {
            let life = self.0.borrow();
            life.policy.on_term == TermPolicy::PowerDown && life.machine.state() == VmState::Running
        };
        if asks_guest {
            self.press_power_button();
        } else {
            self.quit_on_signal();
        }
    }

    /// Ends the machine because it has run for `limit`: to clients as if somebody had ended it
    /// by a signal then.
    pub fn time_out(&self, limit: Duration) {
        self.end(ShutdownCause::HostSignal, Ending::TimedOut(limit));
    }

    fn press_power_button(&self) {
        let life = self.0.borrow();
        life.machine.press_power_button();
        life.events.send(Event::Powerdown);
    }

    fn end(&self, cause: ShutdownCause, ending: Ending) {
        self.0.borrow_mut().end(cause, ending);
    }

    fn with_balloon<T>(
        &self,
        act: impl FnOnce(&Balloon, MemorySize) -> T,
    ) -> Result<T, CommandError> {
        let life = self.0.borrow();
        let machine = &life.machine;
        if !machine.has_sync_mmu() {
            return Err(CommandError::no_sync_mmu());
        }
        let balloon = machine.balloon().ok_or_else(CommandError::no_balloon)?;
        Ok(act(balloon, machine.memory()))
    }
}
