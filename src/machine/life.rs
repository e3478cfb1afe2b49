//! What becomes of a machine when its guest ends, fails or is reset: as the user chose it, and as
//! QEMU announces it.

use std::time::{Duration, Instant};

use aerostat_devices::LogLimit;
use aerostat_qmp::{Event, EventSender, PanicAction, ShutdownCause};
use aerostat_vmm::{GuestEvent, Machine, RunState};

use super::Description;
use crate::cli::options::{ErrorPolicy, PanicPolicy, TermPolicy};

/// What the user chose to happen when a guest ends, fails, or is to end.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// A reset ends the machine.
    pub no_reboot: bool,
    /// The process stays when the guest has powered off.
    pub no_shutdown: bool,
    /// When the guest panics.
    pub on_panic: PanicPolicy,
    /// When KVM fails.
    pub on_error: ErrorPolicy,
    /// On SIGTERM.
    pub on_term: TermPolicy,
}

/// How the machine ended.
#[derive(Debug)]
pub enum Ending {
    /// The guest, a client, a signal or the user ended it.
    InOrder,
    /// The guest ended it with an exit status for this process.
    Status(u8),
    /// The guest panicked.
    Panicked,
    /// It failed, for this reason.
    Failed(String),
    /// It did not end within this time.
    TimedOut(Duration),
}

/// A machine, and what becomes of it.
pub(super) struct Life {
    pub(super) machine: Machine,
    pub(super) policy: Policy,
    pub(super) description: Description,
    pub(super) events: EventSender,
    ending: Option<Ending>,
    /// A guest can be reset, and triple-fault, as often as it likes.
    reset_lines: LogLimit,
    fault_lines: LogLimit,
}

impl Life {
    /// Nothing has happened to `machine` yet; what does is sent to `events`.
    pub(super) fn new(
        machine: Machine,
        policy: Policy,
        description: Description,
        events: EventSender,
    ) -> Self {
        Self {
            machine,
            policy,
            description,
            events,
            ending: None,
            reset_lines: LogLimit::new(),
            fault_lines: LogLimit::new(),
        }
    }

    /// How the machine ended, once it has.
    pub(super) fn take_ending(&mut self) -> Option<Ending> {
        self.ending.take()
    }

    /// Announces the end and ends the machine. The first ending counts.
    pub(super) fn end(&mut self, cause: ShutdownCause, ending: Ending) {
        if self.ending.is_none() {
            log::info!("The machine ends: {cause:?}");
            self.events.send(Event::Shutdown(cause));
            self.ending = Some(ending);
        }
    }

    /// The guest's work is done: the machine ends, or stays without running.
    fn shut_down(&mut self, cause: ShutdownCause, event: &GuestEvent, ending: Ending) {
        if self.policy.no_shutdown {
            self.events.send(Event::Shutdown(cause));
            // What a client asks for ends nothing that a stopped guest was at.
            if cause.is_guest() || self.machine.state() == RunState::Running {
                self.halt(event);
            }
        } else {
            self.end(cause, ending);
        }
    }

    /// Stops the guest for what it did, and says so if it ran.
    fn halt(&mut self, event: &GuestEvent) {
        match self.machine.halt(event) {
            Ok(true) => self.events.send(Event::Stop),
            Ok(false) => {}
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn fail(&mut self, reason: String) {
        self.end(ShutdownCause::HostError, Ending::Failed(reason));
    }

    /// Resets the machine, or ends it where a reset is to end it.
    ///
    /// # Errors
    /// Why the machine could not be built again; it ends for that.
    pub(super) fn reset(&mut self, cause: ShutdownCause, ending: Ending) -> Result<(), String> {
        if self.policy.no_reboot {
            self.shut_down(cause, &GuestEvent::Reset, ending);
            return Ok(());
        }
        if self.reset_lines.line_is_due(Instant::now()) {
            log::info!("The machine is reset: {cause:?}");
        } else {
            log::debug!("The machine is reset: {cause:?}");
        }
        let events = &self.events;
        let reset = self.machine.reset(|| events.send(Event::Reset(cause)));
        reset.map_err(|error| {
            let reason = crate::chain(&error);
            self.fail(reason.clone());
            reason
        })
    }

    /// Does what follows from what the guest did.
    pub(super) fn guest_did(&mut self, event: &GuestEvent) {
        match event {
            GuestEvent::PowerOff => {
                self.shut_down(ShutdownCause::GuestShutdown, event, Ending::InOrder);
            }
            GuestEvent::Exit(status) => {
                self.shut_down(ShutdownCause::GuestShutdown, event, Ending::Status(*status));
            }
            GuestEvent::Reset => self.reset_for_guest(ShutdownCause::GuestReset, Ending::InOrder),
            GuestEvent::TripleFault { index, registers } => {
                let reason = format!("The guest triple-faulted on vCPU {index}\n{registers}");
                self.warn_of_fault(&reason);
                self.reset_for_guest(ShutdownCause::GuestReset, Ending::Failed(reason));
            }
            GuestEvent::Panicked => self.guest_panicked(event),
            GuestEvent::VcpuFailed { index, failure } => {
                let reason = format!("vCPU {index} failed: {failure}");
                self.halt(event);
                match self.policy.on_error {
                    ErrorPolicy::Exit => self.fail(reason),
                    ErrorPolicy::Pause => log::error!("{reason}"),
                }
            }
        }
    }

    /// Why a reset fails is in the ending.
    fn reset_for_guest(&mut self, cause: ShutdownCause, ending: Ending) {
        let _ = self.reset(cause, ending);
    }

    fn guest_panicked(&mut self, event: &GuestEvent) {
        let panicked = |action| Event::GuestPanicked { action };
        match self.policy.on_panic {
            PanicPolicy::Reset => {
                self.events.send(panicked(PanicAction::Run));
                self.reset_for_guest(ShutdownCause::GuestPanic, Ending::Panicked);
            }
            // As in QEMU: a process that stays when its guest ends stays for a panic too.
            PanicPolicy::Exit if !self.policy.no_shutdown => {
                self.events.send(panicked(PanicAction::Poweroff));
                self.halt(event);
                self.end(ShutdownCause::GuestPanic, Ending::Panicked);
            }
            PanicPolicy::Exit | PanicPolicy::Pause => {
                self.events.send(panicked(PanicAction::Pause));
                self.halt(event);
            }
        }
    }

    fn warn_of_fault(&self, reason: &str) {
        if self.policy.no_reboot {
            // It will be the process's last words.
        } else if self.fault_lines.line_is_due(Instant::now()) {
            log::warn!("{reason}");
        } else {
            log::debug!("{reason}");
        }
    }
}
