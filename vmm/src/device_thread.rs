//! The device thread: an event loop that serves virtio queues.

use std::fmt;
use std::io;
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What the thread serves.
pub(crate) type Subscriber = Box<dyn MutEventSubscriber + Send>;

/// Ends the loop.
struct Stop(EventFd);

impl MutEventSubscriber for Stop {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {}

    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new(&self.0, EventSet::IN)) {
            log::error!("The device thread will not end in order: {error}");
        }
    }
}

/// The thread; it ends when this is dropped.
pub(crate) struct DeviceThread {
    stop: EventFd,
    /// What the thread does, until it starts.
    work: Option<Box<dyn FnOnce() + Send>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for DeviceThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceThread")
            .field("thread", &self.thread)
            .finish_non_exhaustive()
    }
}

impl DeviceThread {
    /// A loop that will serve `subscribers`. What they are told before it starts waits for it.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub(crate) fn new(subscribers: Vec<Subscriber>) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let stopped = stop.try_clone()?;
        let mut manager = EventManager::<Subscriber>::new().map_err(io::Error::other)?;
        manager.add_subscriber(Box::new(Stop(stop.try_clone()?)));
        for subscriber in subscribers {
            manager.add_subscriber(subscriber);
        }
        let work = move || {
            while stopped.read().is_err() {
                if let Err(error) = manager.run() {
                    log::error!("The device thread's event loop fails: {error}");
                    return;
                }
            }
        };
        Ok(Self {
            stop,
            work: Some(Box::new(work)),
            thread: None,
        })
    }

    /// Starts the loop, if it has not started yet.
    ///
    /// # Errors
    /// When no thread can be had; it cannot start any more then.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        if let Some(work) = self.work.take() {
            let builder = thread::Builder::new().name("device".to_owned());
            self.thread = Some(builder.spawn(work)?);
        }
        Ok(())
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
