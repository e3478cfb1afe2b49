//! The machine as QMP, signals, the console and the clock see it: the only place that knows both
//! sides.
//!
//! Runs on the control thread.

mod identity;
mod life;
mod sinks;
mod watch;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use aerostat_devices::PAGE_SIZE;
use aerostat_devices::balloon::Balloon;
use aerostat_qmp::{
    Backend, CommandError, CpuInfo, Event, EventSender, KvmInfo, RunState, ShutdownCause,
};
use aerostat_vmm::units::MemorySize;
use aerostat_vmm::{Machine, RunState as VmState, StateError};

use crate::cli::options::TermPolicy;
pub use identity::Identity;
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
    pub fn new(machine: Machine, policy: Policy, identity: Identity, events: EventSender) -> Self {
        let life = Life::new(machine, policy, identity, events);
        Self(Rc::new(RefCell::new(life)))
    }

    /// Lets the guest run for the first time.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn start(&self) -> Result<(), StateError> {
        self.0.borrow_mut().machine.resume().map(drop)
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

impl Backend for MachineHandle {
    fn name(&self) -> Option<String> {
        self.0.borrow().identity.name.clone()
    }

    fn kvm(&self) -> KvmInfo {
        KvmInfo {
            enabled: true,
            present: true,
        }
    }

    fn status(&self) -> RunState {
        match self.0.borrow().machine.state() {
            VmState::Prelaunch => RunState::Prelaunch,
            VmState::Running => RunState::Running,
            VmState::Paused => RunState::Paused,
            VmState::Shutdown => RunState::Shutdown,
            VmState::GuestPanicked => RunState::GuestPanicked,
            VmState::InternalError => RunState::InternalError,
        }
    }

    fn cpus(&self) -> Vec<CpuInfo> {
        let ids = self.0.borrow().machine.vcpu_thread_ids();
        ids.into_iter()
            .map(|thread_id| CpuInfo { thread_id })
            .collect()
    }

    fn stop(&mut self) -> Result<(), CommandError> {
        let mut life = self.0.borrow_mut();
        match life.machine.pause() {
            Ok(true) => life.events.send(Event::Stop),
            Ok(false) => {}
            Err(error) => return Err(CommandError::Generic(error.to_string())),
        }
        Ok(())
    }

    fn cont(&mut self) -> Result<(), CommandError> {
        let mut life = self.0.borrow_mut();
        match life.machine.resume() {
            Ok(true) => life.events.send(Event::Resume),
            Ok(false) => {}
            Err(error) => return Err(CommandError::Generic(error.to_string())),
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), CommandError> {
        let mut life = self.0.borrow_mut();
        let reset = life.reset(ShutdownCause::HostQmpSystemReset, Ending::InOrder);
        reset.map_err(CommandError::Generic)
    }

    fn power_down(&mut self) {
        self.press_power_button();
    }

    fn quit(&mut self) {
        self.end(ShutdownCause::HostQmpQuit, Ending::InOrder);
    }

    fn set_balloon(&mut self, guest_bytes: u64) -> Result<(), CommandError> {
        self.with_balloon(|balloon, memory| {
            balloon.set_target_pages(pages_to_balloon(memory, guest_bytes));
        })
    }

    fn balloon_actual(&self) -> Result<u64, CommandError> {
        self.with_balloon(|balloon, memory| guest_bytes(memory, balloon.actual_pages()))
    }
}

/// The balloon's size that leaves `guest_bytes` to the guest, which thus gets its wish rounded
/// up to a page.
fn pages_to_balloon(memory: MemorySize, guest_bytes: u64) -> u32 {
    let pages = memory.bytes().saturating_sub(guest_bytes) / PAGE_SIZE;
    u32::try_from(pages).unwrap_or(u32::MAX)
}

/// What `pages` in the balloon leave to the guest. A guest that claims more than it has leaves
/// nothing.
fn guest_bytes(memory: MemorySize, pages: u32) -> u64 {
    memory.bytes().saturating_sub(u64::from(pages) * PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> MemorySize {
        "256M".parse().unwrap()
    }

    #[test]
    fn target_is_what_the_guest_shall_have_rounded_up_to_a_page() {
        assert_eq!(pages_to_balloon(memory(), 128 << 20), 32768);
        assert_eq!(pages_to_balloon(memory(), 200_000_001), 16707);
        assert_eq!(guest_bytes(memory(), 16707), 200_003_584);
    }

    #[test]
    fn target_of_all_memory_or_more_empties_the_balloon() {
        assert_eq!(pages_to_balloon(memory(), 256 << 20), 0);
        assert_eq!(pages_to_balloon(memory(), u64::MAX), 0);
    }

    #[test]
    fn target_of_one_byte_leaves_one_page() {
        assert_eq!(pages_to_balloon(memory(), 1), 65535);
    }

    #[test]
    fn guest_that_claims_more_than_it_has_leaves_nothing() {
        assert_eq!(guest_bytes(memory(), u32::MAX), 0);
    }
}
