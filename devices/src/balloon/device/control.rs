//! The balloon in the hands of the machine: what is asked of it, and what is known of it. Nothing
//! here waits for the guest or for the device thread, but for [`Balloon::stop`], which has the
//! batch that is under way given up.

use std::sync::atomic::Ordering;

use super::{Balloon, Statistics};

impl Balloon {
    /// Asks the guest to have `pages` pages in the balloon, now or when a driver comes. A target
    /// that is set already is announced again, as QEMU does.
    pub fn set_target_pages(&self, pages: u32) {
        self.config.set_target_pages(pages);
        self.interrupt.config_changed();
    }

    /// Pages that the host wants in the balloon.
    #[must_use]
    pub fn target_pages(&self) -> u32 {
        self.config.target_pages()
    }

    /// Pages that the guest says are in the balloon: its word, nothing that was checked.
    #[must_use]
    pub fn actual_pages(&self) -> u32 {
        self.config.actual_pages()
    }

    /// Pages that the driver that is there says are in the balloon: 0 before it has said so.
    #[must_use]
    pub fn given_pages(&self) -> u32 {
        self.config.given_pages()
    }

    /// Pages given back to the host since the start. A page counts each time that the guest puts
    /// it into the balloon, or reports it as free; one that it has touched again since is not
    /// subtracted.
    #[must_use]
    pub fn released_pages(&self) -> u64 {
        self.released_pages.load(Ordering::Relaxed)
    }

    /// Those of the released pages that the guest had reported as free.
    #[must_use]
    pub fn reported_pages(&self) -> u64 {
        self.reported_pages.load(Ordering::Relaxed)
    }

    /// Whether memory that the guest reports as free is given back to the host.
    #[must_use]
    pub fn is_reporting(&self) -> bool {
        self.reporting.is_on()
    }

    /// Switches that on or off. What is reported while it is off keeps its memory until the guest
    /// has used it and reports it again.
    pub fn switch_reporting(&self, is_on: bool) {
        self.reporting.switch(is_on);
        self.kick_all();
    }

    /// How fast reported memory is given back, in bytes per second; 0 for as fast as it comes.
    #[must_use]
    pub fn reporting_rate(&self) -> u64 {
        self.reporting.max_rate()
    }

    /// Chooses how fast reported memory is given back at most: bytes per second, no less than
    /// [`MIN_REPORTING_RATE`](crate::balloon::MIN_REPORTING_RATE), or 0 for as fast as it comes.
    pub fn set_reporting_rate(&self, bytes_per_second: u64) {
        self.reporting.set_max_rate(bytes_per_second);
        self.kick_all();
    }

    /// The features on offer.
    #[must_use]
    pub fn offered_features(&self) -> u64 {
        self.features
    }

    /// The features that the guest's driver uses; `None` while there is no driver.
    #[must_use]
    pub fn negotiated_features(&self) -> Option<u64> {
        let features = self.negotiated.load(Ordering::Acquire);
        (features != 0).then_some(features)
    }

    /// How many drivers there have been, the one that is there now among them.
    #[must_use]
    pub fn drivers(&self) -> u64 {
        self.drivers.load(Ordering::Acquire)
    }

    /// What the guest said of its memory last.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        *self.lock_statistics()
    }

    /// How often the guest is asked for its statistics, in seconds; 0 for never.
    #[must_use]
    pub fn polling_interval(&self) -> u32 {
        self.polling.interval()
    }

    /// Chooses how often the guest is asked for its statistics: at once, and then each time when
    /// so many seconds have passed since its answer. With 0 it is not asked any more, and what it
    /// said last stays.
    pub fn set_polling_interval(&self, seconds: u32) {
        self.polling.set_interval(seconds);
        if seconds > 0 {
            self.request_statistics();
        }
    }

    /// Has the guest asked for its statistics now.
    pub fn request_statistics(&self) {
        let _ = self.ask.write(1);
    }

    /// Stops with the machine: when this returns, the device leaves guest memory and queues alone,
    /// and the time between two polls stands still.
    pub fn stop(&self) {
        self.polling.stop();
        self.kept.stop();
        self.halt().is_stopped = true;
    }

    /// Goes on with the machine.
    pub fn resume(&self) {
        let is_asked = {
            let mut service = self.lock_service();
            service.is_stopped = false;
            std::mem::take(&mut service.is_asked)
        };
        if is_asked {
            self.request_statistics();
        }
        self.polling.resume();
        self.kept.resume();
        self.kick_all();
    }
}
