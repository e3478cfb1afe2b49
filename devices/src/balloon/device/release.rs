//! How pages of the balloon go back to the host: at once, or with the rest of their huge page.
//!
//! Runs on the device thread, with the lock of the queues held.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use super::{Balloon, HugePages};
use crate::Granularity;
use crate::balloon::features::F_MUST_TELL_HOST;
use crate::balloon::{KEPT_FOR, MAX_KEPT_PAGES};
use crate::memory::PageRun;

impl Balloon {
    /// Takes pages into the balloon; false if that was given up, since somebody halts the device.
    /// The same pages may be taken again then.
    pub(super) fn inflate(&self, runs: &[PageRun]) -> bool {
        // A kick alone is no reason to wait any longer for what has not come.
        if runs.is_empty() {
            return true;
        }
        let Some(mut huge_pages) = self.huge_pages_that_are_told_of() else {
            return self.release(runs).is_some();
        };
        let mut inside = 0;
        for run in runs.iter().flat_map(|run| self.ram.inside(*run)) {
            inside += run.count;
            huge_pages.inflate(run);
        }
        self.record_outside(runs.iter().map(|run| run.count).sum::<u64>() - inside);
        if self.release(&huge_pages.due()).is_none() {
            return false;
        }
        huge_pages.released_due();
        if let Granularity::BetterWhole(_) = self.ram.granularity() {
            if huge_pages.kept_pages() > MAX_KEPT_PAGES && !self.release_all_kept(&mut huge_pages) {
                return false;
            }
            if huge_pages.kept_pages() > 0 && huge_pages.begin_to_wait() {
                self.kept.set(Some(KEPT_FOR));
            }
        }
        true
    }

    /// Takes pages out of the balloon, before the guest hears that it may use them; false if that was
    /// given up, since somebody halts the device. They need nothing but, where the host may have given
    /// their huge pages to others, its promise: the guest finds their memory by touching it.
    pub(super) fn deflate(&self, runs: &[PageRun]) -> bool {
        let Some(mut huge_pages) = self.huge_pages_that_are_told_of() else {
            return true;
        };
        for run in runs {
            huge_pages.deflate(*run);
        }
        while let Some(broken) = huge_pages.broken() {
            if self.is_halting() {
                return false;
            }
            self.ram.reserve(broken);
            huge_pages.reserved_broken();
        }
        true
    }

    /// Releases what has waited for the rest of its huge page for long enough; the timer has called.
    pub(in crate::balloon) fn release_kept(&self) {
        // Whoever halts the device has the lock first: it is not fair.
        if self.is_halting() {
            self.kept.set(Some(KEPT_FOR));
            return;
        }
        let service = self.lock_service();
        let Some(mut huge_pages) = self.huge_pages_that_are_told_of() else {
            return;
        };
        if !huge_pages.have_waited() {
            self.kept.set(Some(KEPT_FOR));
        } else if service.is_stopped || !self.release_all_kept(&mut huge_pages) {
            // At once, when the machine goes on.
            self.kept.set(Some(Duration::ZERO));
        }
    }

    /// Forgets what is in the balloon, since there is no driver any more that could tell of it: all
    /// memory is the guest's.
    pub(super) fn forget_pages(&self) {
        self.kept.set(None);
        if let Some(mut huge_pages) = self.lock_huge_pages()
            && huge_pages.clear()
        {
            self.ram.reserve_all();
        }
    }

    /// Releases the runs; how many pages that were. `None` if it was given up, since somebody halts
    /// the device; the same pages may be released again.
    pub(super) fn release(&self, runs: &[PageRun]) -> Option<u64> {
        let release = self.ram.release(runs, &|| self.is_halting()).ok()?;
        self.released_pages
            .fetch_add(release.released_pages, Ordering::Relaxed);
        self.record_outside(release.outside_pages);
        log::trace!("Balloon: {release:?}");
        Some(release.released_pages)
    }

    fn release_all_kept(&self, huge_pages: &mut HugePages) -> bool {
        let is_done = self.release(&huge_pages.kept()).is_some();
        if is_done {
            huge_pages.released_kept();
        }
        is_done
    }

    fn record_outside(&self, pages: u64) {
        if pages > 0 {
            self.faults
                .record(|| format!("{pages} pages are not guest memory"));
        }
    }

    /// The pages that wait, where the guest tells of what it uses again.
    fn huge_pages_that_are_told_of(&self) -> Option<MutexGuard<'_, HugePages>> {
        let negotiated = self.negotiated.load(Ordering::Acquire);
        let tells = negotiated & F_MUST_TELL_HOST != 0;
        tells.then(|| self.lock_huge_pages())?
    }

    fn lock_huge_pages(&self) -> Option<MutexGuard<'_, HugePages>> {
        let huge_pages = self.huge_pages.as_ref()?;
        Some(huge_pages.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
