//! The balloon's configuration space (virtio 1.2 §5.5.4), shared by all threads without a lock.
//!
//! Counts are pages of 4 KiB, as everywhere in the balloon's interface.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Bytes in the configuration space without optional features: `num_pages` and `actual`.
const BASE_SIZE: usize = 8;
/// Bytes in it with all features: `free_page_hint_cmd_id`, which is 0 as hinting is not offered,
/// and `poison_val` come behind.
const FULL_SIZE: usize = 16;
/// Where `actual` stands.
const ACTUAL_OFFSET: u64 = 4;
/// Where `poison_val` stands.
const POISON_OFFSET: u64 = 12;

/// What host and guest tell each other.
#[derive(Debug, Default)]
pub(super) struct BalloonConfig {
    num_pages: AtomicU32,
    actual: AtomicU32,
    /// The driver that is there has written `actual`.
    has_told: AtomicBool,
    poison: AtomicU32,
    /// Whether `poison_val` is there.
    has_poison: bool,
    generation: AtomicU32,
}

/// What a write has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// `actual`, to another value than before.
    Actual,
    /// `actual`, to the value that another driver had left there: the first word of this one.
    FirstWord,
    /// Nothing that anybody has to be told.
    Nothing,
}

impl BalloonConfig {
    /// An empty balloon's; `has_poison` tells whether the guest can say what it fills free pages
    /// with.
    pub(super) fn new(has_poison: bool) -> Self {
        Self {
            has_poison,
            ..Self::default()
        }
    }

    /// What the guest fills free pages with, if it has said so.
    pub(super) fn poison(&self) -> u32 {
        self.poison.load(Ordering::Acquire)
    }

    /// Forgets what the driver said of its pages. Target and `actual` outlive drivers.
    pub(super) fn reset(&self) {
        self.has_told.store(false, Ordering::Release);
        self.poison.store(0, Ordering::Release);
    }

    /// Pages the host wants in the balloon.
    pub(super) fn target_pages(&self) -> u32 {
        self.num_pages.load(Ordering::Acquire)
    }

    /// Pages the guest says are in the balloon.
    pub(super) fn actual_pages(&self) -> u32 {
        self.actual.load(Ordering::Acquire)
    }

    /// Pages in the balloon by the word of the driver that is there; none before it has said so.
    pub(super) fn given_pages(&self) -> u32 {
        match self.has_told.load(Ordering::Acquire) {
            true => self.actual_pages(),
            false => 0,
        }
    }

    /// Changes with each new target (§2.5.1).
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn set_target_pages(&self, pages: u32) {
        self.num_pages.store(pages, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Fills `data` with what stands from `offset`; bytes past the end stay as they are.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; FULL_SIZE];
        space[..4].copy_from_slice(&self.target_pages().to_le_bytes());
        space[4..8].copy_from_slice(&self.actual_pages().to_le_bytes());
        space[12..].copy_from_slice(&self.poison().to_le_bytes());
        let size = if self.has_poison {
            FULL_SIZE
        } else {
            BASE_SIZE
        };
        let offset = usize::try_from(offset).unwrap_or(size).min(size);
        for (to, from) in data.iter_mut().zip(&space[offset..size]) {
            *to = *from;
        }
    }

    /// Takes a driver's write of `actual` or `poison_val`, all four bytes at once.
    ///
    /// # Errors
    /// Any other write: nothing else in the space is the driver's.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<Change, ReadOnly> {
        match (offset, <[u8; 4]>::try_from(data)) {
            (ACTUAL_OFFSET, Ok(bytes)) => {
                let pages = u32::from_le_bytes(bytes);
                let changed = self.actual.swap(pages, Ordering::AcqRel) != pages;
                let is_first = !self.has_told.swap(true, Ordering::AcqRel);
                Ok(match (changed, is_first) {
                    (true, _) => Change::Actual,
                    (false, true) => Change::FirstWord,
                    (false, false) => Change::Nothing,
                })
            }
            (POISON_OFFSET, Ok(bytes)) if self.has_poison => {
                self.poison
                    .store(u32::from_le_bytes(bytes), Ordering::Release);
                Ok(Change::Nothing)
            }
            _ => Err(ReadOnly),
        }
    }
}

/// The driver wrote to a part of the configuration space that it may not write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReadOnly;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn target_and_actual_read_as_little_endian_words() {
        let config = BalloonConfig::default();
        config.set_target_pages(0x0102_0304);
        config.write(4, &[1, 0, 0, 0]).unwrap();
        let mut data = [0; 8];
        config.read(0, &mut data);
        assert_eq!(data, [4, 3, 2, 1, 1, 0, 0, 0]);
    }

    #[test]
    fn read_past_the_end_leaves_the_rest_untouched() {
        let config = BalloonConfig::default();
        config.write(4, &[0, 0, 9, 8]).unwrap();
        let mut data = [7; 4];
        config.read(6, &mut data);
        assert_eq!(data, [9, 8, 7, 7]);
        config.read(u64::MAX, &mut data);
        assert_eq!(data, [9, 8, 7, 7]);
    }

    #[test]
    fn writing_actual_says_whether_it_changed() {
        let config = BalloonConfig::default();
        assert_eq!(config.write(4, &[5, 0, 0, 0]), Ok(Change::Actual));
        assert_eq!(config.write(4, &[5, 0, 0, 0]), Ok(Change::Nothing));
        assert_eq!(config.actual_pages(), 5);
    }

    #[test]
    fn what_a_former_driver_said_is_nothing_that_this_one_has_given() {
        let config = BalloonConfig::default();
        config.write(4, &[5, 0, 0, 0]).unwrap();
        assert_eq!(config.given_pages(), 5);
        config.reset();
        assert_eq!((config.actual_pages(), config.given_pages()), (5, 0));
        assert_eq!(config.write(4, &[5, 0, 0, 0]), Ok(Change::FirstWord));
        assert_eq!(config.given_pages(), 5);
    }

    #[test]
    fn the_target_and_narrow_or_wide_writes_are_refused() {
        let config = BalloonConfig::default();
        for (offset, length) in [(0, 4), (4, 1), (4, 2), (4, 8), (5, 4), (8, 4)] {
            assert_eq!(config.write(offset, &[0xff; 8][..length]), Err(ReadOnly));
        }
        assert_eq!((config.target_pages(), config.actual_pages()), (0, 0));
    }

    #[test]
    fn poison_is_there_only_when_it_is_offered_and_forgotten_by_a_reset() {
        let without = BalloonConfig::new(false);
        assert_eq!(without.write(12, &[1, 2, 3, 4]), Err(ReadOnly));
        let config = BalloonConfig::new(true);
        assert_eq!(config.write(12, &[1, 2, 3, 4]), Ok(Change::Nothing));
        assert_eq!(config.write(8, &[1, 2, 3, 4]), Err(ReadOnly));
        let mut data = [7; 9];
        config.read(8, &mut data);
        assert_eq!(data, [0, 0, 0, 0, 1, 2, 3, 4, 7]);
        config.reset();
        assert_eq!(config.poison(), 0);
    }

    #[test]
    fn each_new_target_has_a_new_generation() {
        let config = BalloonConfig::default();
        config.set_target_pages(1);
        let first = config.generation();
        config.set_target_pages(1);
        assert_ne!(config.generation(), first);
    }
}
