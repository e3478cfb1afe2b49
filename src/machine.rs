//! The machine as QMP, signals and the console see it: the only place that knows both sides.
//!
//! Runs on the control thread.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use aerostat_devices::PAGE_SIZE;
use aerostat_devices::balloon::{Balloon, BalloonSink};
use aerostat_qmp::{Backend, CommandError, Event, EventSender, KvmInfo, RunState, ShutdownReason};
use aerostat_vmm::machine::GuestEvents;
use aerostat_vmm::units::MemorySize;
use aerostat_vmm::{GuestEvent, Machine, RunState as VmState, StateError};
use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

/// How the machine ended.
#[derive(Debug)]
pub enum Ending {
    /// The guest, a client, a signal or the user ended it.
    InOrder,
    /// It failed, for this reason.
    Failed(String),
}

struct Controlled {
    machine: Machine,
    events: EventSender,
    ending: Option<Ending>,
}

/// A handle to the machine; clones are the same machine.
#[derive(Clone)]
pub struct MachineHandle(Rc<RefCell<Controlled>>);

impl MachineHandle {
    /// Takes the machine; what happens to it is sent to `events`.
    pub fn new(machine: Machine, events: EventSender) -> Self {
        Self(Rc::new(RefCell::new(Controlled {
            machine,
            events,
            ending: None,
        })))
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
        self.0.borrow_mut().ending.take()
    }

    /// Ends the machine at the user's wish.
    pub fn quit_from_console(&self) {
        self.end(false, ShutdownReason::HostUi, Ending::InOrder);
    }

    /// Ends the machine because of a signal.
    pub fn quit_on_signal(&self) {
        self.end(false, ShutdownReason::HostSignal, Ending::InOrder);
    }

    /// Ends the machine because of what the guest did.
    fn guest_ended(&self, event: &GuestEvent) {
        self.0.borrow_mut().machine.end(event);
        match event {
            GuestEvent::PowerOff => {
                self.end(true, ShutdownReason::GuestShutdown, Ending::InOrder);
            }
            GuestEvent::Reset => self.end(true, ShutdownReason::GuestReset, Ending::InOrder),
            GuestEvent::VcpuFailed { index, failure } => {
                let reason = format!("vCPU {index} failed: {failure}");
                self.end(false, ShutdownReason::HostError, Ending::Failed(reason));
            }
        }
    }

    /// The first ending counts.
    fn end(&self, guest: bool, reason: ShutdownReason, ending: Ending) {
        let mut controlled = self.0.borrow_mut();
        if controlled.ending.is_none() {
            log::info!("The machine ends: {reason:?}");
            controlled.events.send(Event::Shutdown { guest, reason });
            controlled.ending = Some(ending);
        }
    }

    fn with_balloon<T>(
        &self,
        act: impl FnOnce(&Balloon, MemorySize) -> T,
    ) -> Result<T, CommandError> {
        let controlled = self.0.borrow();
        let machine = &controlled.machine;
        if !machine.has_sync_mmu() {
            return Err(CommandError::no_sync_mmu());
        }
        let balloon = machine.balloon().ok_or_else(CommandError::no_balloon)?;
        Ok(act(balloon, machine.memory()))
    }
}

impl Backend for MachineHandle {
    fn name(&self) -> Option<String> {
        None
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
            VmState::InternalError => RunState::InternalError,
        }
    }

    fn stop(&mut self) -> Result<(), CommandError> {
        let mut controlled = self.0.borrow_mut();
        match controlled.machine.pause() {
            Ok(true) => controlled.events.send(Event::Stop),
            Ok(false) => {}
            Err(error) => return Err(CommandError::Generic(error.to_string())),
        }
        Ok(())
    }

    fn cont(&mut self) -> Result<(), CommandError> {
        let mut controlled = self.0.borrow_mut();
        match controlled.machine.resume() {
            Ok(true) => controlled.events.send(Event::Resume),
            Ok(false) => {}
            Err(StateError::Ended) => {
                let text = "Resetting the Virtual Machine is required";
                return Err(CommandError::Generic(text.to_owned()));
            }
            Err(error) => return Err(CommandError::Generic(error.to_string())),
        }
        Ok(())
    }

    fn quit(&mut self) {
        self.end(false, ShutdownReason::HostQmpQuit, Ending::InOrder);
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

/// What turns a guest's word about its balloon into BALLOON_CHANGE.
pub fn balloon_sink(memory: MemorySize, events: EventSender) -> BalloonSink {
    Box::new(move |pages| {
        events.send(Event::BalloonChange {
            actual_bytes: guest_bytes(memory, pages),
        });
    })
}

/// The subscriber for what the guest does.
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
            self.machine.guest_ended(&event);
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(self.events.wake(), EventSet::IN)) {
            log::error!("The guest's end will not be noticed: {error}");
        }
    }
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
