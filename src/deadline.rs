//! The time after which a machine is ended, if the user gave one (`--timeout`).

use std::io;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::timerfd::TimerFd;

use crate::machine::MachineHandle;
use crate::timer;

/// The subscriber that ends the machine.
pub struct Deadline {
    timer: TimerFd,
    limit: Duration,
    machine: MachineHandle,
}

impl Deadline {
    /// Ends `machine` after `limit`, from now on.
    ///
    /// # Errors
    /// When no timer can be had.
    pub fn new(limit: Duration, machine: MachineHandle) -> io::Result<Self> {
        Ok(Self {
            timer: timer::once(limit)?,
            limit,
            machine,
        })
    }
}

impl MutEventSubscriber for Deadline {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        let _ = self.timer.wait();
        self.machine.time_out(self.limit);
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(&self.timer, EventSet::IN)) {
            log::error!("The machine will not be ended in time: {error}");
        }
    }
}
