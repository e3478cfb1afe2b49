//! The control thread's loop: QMP, signals, console input and what the guest does.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use aerostat_qmp::Server;
use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};

use crate::machine::{Ending, MachineHandle};

/// The QMP server, which the loop serves and whose clients hear of the end.
pub type SharedServer = Rc<RefCell<Server<MachineHandle>>>;

/// The loop.
pub struct EventLoop {
    manager: EventManager<Box<dyn MutEventSubscriber>>,
    machine: MachineHandle,
}

impl fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop").finish_non_exhaustive()
    }
}

impl EventLoop {
    /// A loop that lasts until `machine` ends.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub fn new(machine: MachineHandle) -> Result<Self, event_manager::Error> {
        Ok(Self {
            manager: EventManager::new()?,
            machine,
        })
    }

    /// Adds what is to be served.
    pub fn add(&mut self, subscriber: impl MutEventSubscriber + 'static) {
        self.manager.add_subscriber(Box::new(subscriber));
    }

    /// Serves until the machine ends.
    pub fn run(&mut self) -> Ending {
        loop {
            if let Some(ending) = self.machine.take_ending() {
                return ending;
            }
            match self.manager.run() {
                Ok(_) => {}
                Err(error) if interrupted(&error) => {}
                Err(error) => return Ending::Failed(format!("The event loop fails: {error}")),
            }
        }
    }
}

fn interrupted(error: &event_manager::Error) -> bool {
    matches!(error, event_manager::Error::Epoll(errno) if errno.errno() == libc::EINTR)
}
