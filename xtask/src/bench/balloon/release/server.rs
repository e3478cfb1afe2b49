//! Who serves the queue of the device: the driver's own thread while it waits, or one of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aerostat_devices::balloon::BalloonEvents;
use event_manager::{EventManager, SubscriberOps};
use rustix::event::Timespec;

use crate::error::{Error, Result};

/// After this the device is taken for hanging.
pub const LIMIT: Timespec = Timespec {
    tv_sec: 60,
    tv_nsec: 0,
};
/// How often the device thread looks whether it shall end.
const STOP_PAUSE_MS: i32 = 100;

/// Who serves the queue.
pub enum Server {
    /// This thread, whenever the driver waits; the time that it has taken for that.
    Here {
        /// The device's loop.
        events: EventManager<BalloonEvents>,
        /// Time that was taken.
        took: Duration,
    },
    /// A thread of its own, until this is dropped.
    Thread {
        /// The thread.
        _thread: DeviceThread,
    },
}

/// The thread of a device.
pub struct DeviceThread {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DeviceThread {
    /// The loop that the machine's device thread runs, for one device.
    pub fn spawn(events: BalloonEvents) -> Result<Self> {
        let mut manager = event_loop(events)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let end = is_over.clone();
        let run = move || {
            while !end.load(Ordering::Acquire) && manager.run_with_timeout(STOP_PAUSE_MS).is_ok() {}
        };
        let named = thread::Builder::new().name(super::DEVICE_THREAD.to_owned());
        let thread = Some(named.spawn(run).map_err(refused)?);
        Ok(Self { is_over, thread })
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// A loop that serves one device.
pub fn event_loop(events: BalloonEvents) -> Result<EventManager<BalloonEvents>> {
    let mut manager = EventManager::new()
        .map_err(|error| Error::Check(format!("There is no event loop: {error}")))?;
    manager.add_subscriber(events);
    Ok(manager)
}

/// Waits for what there is to do, and does it.
pub fn serve(events: &mut EventManager<BalloonEvents>) -> Result<()> {
    let limit = i32::try_from(LIMIT.tv_sec * 1000).unwrap_or(i32::MAX);
    match events.run_with_timeout(limit) {
        Ok(0) => Err(hangs()),
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Check(format!("The event loop fails: {error}"))),
    }
}

/// What is wrong when it does not.
pub fn hangs() -> Error {
    Error::Check(format!(
        "The balloon returned no buffer within {} s",
        LIMIT.tv_sec
    ))
}

/// The host gives less than is needed.
pub fn refused(source: io::Error) -> Error {
    Error::System {
        action: "set up a balloon",
        source,
    }
}
