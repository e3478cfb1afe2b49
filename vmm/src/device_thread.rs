//! The device thread: an event loop that serves virtio queues.

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

/// The running thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct DeviceThread {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl DeviceThread {
    /// Starts a loop that serves `subscribers`.
    pub(crate) fn spawn(subscribers: Vec<Subscriber>) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let stopped = stop.try_clone()?;
        let mut manager = EventManager::<Subscriber>::new().map_err(io::Error::other)?;
        manager.add_subscriber(Box::new(Stop(stop.try_clone()?)));
        for subscriber in subscribers {
            manager.add_subscriber(subscriber);
        }
        let run = move || {
            while stopped.read().is_err() {
                if let Err(error) = manager.run() {
                    log::error!("The device thread's event loop fails: {error}");
                    return;
                }
            }
        };
        let thread = thread::Builder::new()
            .name("device".to_owned())
            .spawn(run)?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
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
