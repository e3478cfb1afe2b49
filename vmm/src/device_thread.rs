//! The device thread: an event loop that serves virtio queues.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

/// Where the thread is in its life.
enum State {
    /// Nobody has needed it so far.
    Ready,
    /// Until the event is written to.
    Running(JoinHandle<()>, EventFd),
}

/// The thread, once a driver uses a device: a machine whose guest has no such driver has none. It ends
/// when this is dropped.
pub(crate) struct DeviceThread {
    /// What the thread serves, until it takes them.
    subscribers: Arc<Mutex<Vec<Subscriber>>>,
    state: Mutex<State>,
}

impl fmt::Debug for DeviceThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceThread").finish_non_exhaustive()
    }
}

impl DeviceThread {
    /// A thread that serves nothing yet.
    pub(crate) fn new() -> Self {
        Self {
            subscribers: Arc::default(),
            state: Mutex::new(State::Ready),
        }
    }

    /// Has the thread serve `subscriber`. What that is told before the thread starts waits for it.
    pub(crate) fn add(&self, subscriber: Subscriber) {
        lock(&self.subscribers).push(subscriber);
    }

    /// Starts the thread, if it does not run yet.
    ///
    /// # Errors
    /// When it cannot be had now.
    pub(crate) fn start(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        if let State::Running(..) = *state {
            return Ok(());
        }
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let stopped = stop.try_clone()?;
        let watched = Stop(stop.try_clone()?);
        let mut manager = EventManager::<Subscriber>::new().map_err(io::Error::other)?;
        let subscribers = self.subscribers.clone();
        let work = move || {
            manager.add_subscriber(Box::new(watched));
            for subscriber in std::mem::take(&mut *lock(&subscribers)) {
                manager.add_subscriber(subscriber);
            }
            while stopped.read().is_err() {
                if let Err(error) = manager.run() {
                    log::error!("The device thread's event loop fails: {error}");
                    return;
                }
            }
        };
        let thread = thread::Builder::new()
            .name("device".to_owned())
            .spawn(work)?;
        *state = State::Running(thread, stop);
        Ok(())
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *lock(&self.state), State::Ready);
        if let State::Running(thread, stop) = state {
            let _ = stop.write(1);
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Reports each event.
    struct Probe(EventFd, Sender<()>);

    impl MutEventSubscriber for Probe {
        fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
            if self.0.read().is_ok() {
                self.1.send(()).unwrap();
            }
        }

        fn init(&mut self, ops: &mut EventOps<'_>) {
            ops.add(Events::new(&self.0, EventSet::IN)).unwrap();
        }
    }

    #[test]
    fn what_came_before_the_start_is_served_after_it() {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let (sender, events) = channel();
        let thread = DeviceThread::new();
        thread.add(Box::new(Probe(event.try_clone().unwrap(), sender)));
        event.write(1).unwrap();
        assert!(events.try_recv().is_err());
        thread.start().unwrap();
        events.recv().unwrap();
        // There is one already.
        thread.start().unwrap();
        event.write(1).unwrap();
        events.recv().unwrap();
        drop(thread);
        assert!(
            events.recv().is_err(),
            "the subscriber goes with the thread"
        );
    }

    #[test]
    fn thread_that_was_not_needed_ends_at_once() {
        let (sender, events) = channel();
        let thread = DeviceThread::new();
        thread.add(Box::new(Probe(EventFd::new(EFD_NONBLOCK).unwrap(), sender)));
        drop(thread);
        assert!(events.recv().is_err());
    }
}
