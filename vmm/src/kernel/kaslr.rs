//! Where a kernel that can be moved goes: KASLR, as the kernel's own decompressor would do it.
//!
//! Linux, `arch/x86/boot/compressed/kaslr.c`: the physical address is any multiple of the kernel's
//! alignment in usable memory, not below the smaller of where it would lie otherwise and 512 MiB, and
//! clear of what the kernel still needs. The virtual address is chosen on its own, in the GiB that
//! kernels have for themselves.

use std::io;
use std::ops::Range;

/// The lowest physical address is at most this (`choose_random_location`).
const LOWEST_MAX: u64 = 512 << 20;
/// Virtual addresses for a kernel's image where it can be moved (`KERNEL_IMAGE_SIZE` with
/// `CONFIG_RANDOMIZE_BASE`, without which there is no relocation table).
const IMAGE_SPACE: u64 = 1 << 30;

/// Options by which the user limits the memory that the kernel may use, or divides it up for huge
/// pages: what the kernel makes of them is its own affair, so that its physical address stays.
const MEMORY_OPTIONS: [&str; 3] = ["mem=", "memmap=", "hugepages="];

/// What of it the command line leaves to chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kaslr {
    /// Nothing: `nokaslr`.
    Off,
    /// The virtual address alone.
    Virtual,
    /// Both.
    Full,
}

impl Kaslr {
    /// As the kernel would read its command line.
    pub(super) fn of(cmdline: &str) -> Self {
        let mut words = cmdline.split_ascii_whitespace();
        if words.clone().any(|word| word == "nokaslr") {
            return Self::Off;
        }
        let is_of_memory = |word: &str| MEMORY_OPTIONS.iter().any(|it| word.starts_with(it));
        if words.any(is_of_memory) {
            Self::Virtual
        } else {
            Self::Full
        }
    }
}

/// A source of numbers that nobody can guess.
pub(super) type Random<'a> = &'a mut dyn FnMut() -> io::Result<u64>;

/// A kernel that looks for a place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    /// Where it was linked to be, physically.
    pub(super) preferred: u64,
    /// Bytes that it needs from its first on.
    pub(super) bytes: u64,
    /// Bytes before its first that are needed as well until it is in place.
    pub(super) before: u64,
    /// What its address is a multiple of; a power of two.
    pub(super) alignment: u64,
}

impl Moved {
    /// A physical address in one of `usable`, which ascend; where there is none, the preferred one.
    ///
    /// # Errors
    /// Those of `random`.
    pub(super) fn physical(&self, usable: &[Range<u64>], random: Random<'_>) -> io::Result<u64> {
        let places: Vec<_> = usable.iter().map(|range| self.places_in(range)).collect();
        let count = places.iter().map(|(_, count)| count).sum::<u64>();
        if count == 0 {
            return Ok(self.preferred);
        }
        let mut chosen = random()? % count;
        for (first, count) in places {
            if chosen < count {
                return Ok(first + chosen * self.alignment);
            }
            chosen -= count;
        }
        Ok(self.preferred)
    }

    /// The first place in `range`, and how many there are.
    fn places_in(&self, range: &Range<u64>) -> (u64, u64) {
        let lowest = self.preferred.min(LOWEST_MAX);
        let start = range.start.saturating_add(self.before).max(lowest);
        let Some(first) = start.checked_next_multiple_of(self.alignment) else {
            return (0, 0);
        };
        let last = range.end.checked_sub(self.bytes);
        match last.and_then(|last| last.checked_sub(first)) {
            Some(rest) => (first, rest / self.alignment + 1),
            None => (first, 0),
        }
    }

    /// How far the kernel's virtual addresses are moved.
    ///
    /// # Errors
    /// Those of `random`.
    pub(super) fn virtual_offset(&self, random: Random<'_>) -> io::Result<u64> {
        let rest = IMAGE_SPACE.checked_sub(self.preferred.saturating_add(self.bytes));
        match rest {
            Some(rest) => Ok(random()? % (rest / self.alignment + 1) * self.alignment),
            None => Ok(0),
        }
    }
}

/// What is left of `ranges` without `taken`.
pub(super) fn without(ranges: &[Range<u64>], taken: &Range<u64>) -> Vec<Range<u64>> {
    let parts = ranges.iter().flat_map(|range| {
        let below = range.start..range.end.min(taken.start);
        let above = range.start.max(taken.end)..range.end;
        [below, above]
    });
    parts.filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    const MIB: u64 = 1 << 20;
    const KERNEL: Moved = Moved {
        preferred: 16 * MIB,
        bytes: 50 * MIB,
        before: 2 * MIB,
        alignment: 2 * MIB,
    };

    fn physical(usable: &[Range<u64>], number: u64) -> u64 {
        KERNEL.physical(usable, &mut || Ok(number)).unwrap()
    }

    #[test]
    fn command_line_says_what_is_left_to_chance() {
        assert_eq!(Kaslr::of("console=ttyS0 panic=-1"), Kaslr::Full);
        assert_eq!(Kaslr::of("quiet nokaslr\tpanic=1"), Kaslr::Off);
        assert_eq!(Kaslr::of("nokaslr=1 xnokaslr"), Kaslr::Full);
        assert_eq!(Kaslr::of("mem=1G"), Kaslr::Virtual);
        assert_eq!(Kaslr::of("memmap=1M$16M nokaslr"), Kaslr::Off);
    }

    #[test]
    fn physical_places_are_all_multiples_between_the_preferred_one_and_the_end() {
        let range = MIB..256 * MIB;
        let usable = from_ref(&range);
        let places = (256 - 50 - 16) / 2 + 1;
        assert_eq!(physical(usable, 0), 16 * MIB);
        assert_eq!(physical(usable, places - 1), 206 * MIB);
        assert_eq!(physical(usable, places), 16 * MIB);
    }

    #[test]
    fn physical_places_go_on_in_the_next_range_with_room_before_the_kernel() {
        let usable = [MIB..64 * MIB, 4096 * MIB..4200 * MIB];
        assert_eq!(physical(&usable, 0), 4098 * MIB);
        assert_eq!(physical(&usable, 26), 4150 * MIB);
        assert_eq!(physical(&usable, 27), 4098 * MIB);
    }

    #[test]
    fn memory_without_a_place_leaves_the_kernel_where_it_was_linked_to_be() {
        assert_eq!(physical(from_ref(&(MIB..60 * MIB)), 5), 16 * MIB);
        assert_eq!(physical(&[], 5), 16 * MIB);
    }

    #[test]
    fn virtual_places_end_with_the_kernels_gib() {
        let offset = |number| KERNEL.virtual_offset(&mut || Ok(number)).unwrap();
        let places = (1024 - 50 - 16) / 2 + 1;
        assert_eq!(offset(0), 0);
        assert_eq!(offset(places - 1), (1024 - 50 - 16) * MIB);
        assert_eq!(offset(places), 0);
    }

    #[test]
    fn kernel_larger_than_its_gib_is_not_moved() {
        let huge = Moved {
            bytes: 1 << 30,
            ..KERNEL
        };
        assert_eq!(huge.virtual_offset(&mut || Ok(7)).unwrap(), 0);
    }

    #[test]
    fn taken_range_divides_what_it_is_in() {
        assert_eq!(without(from_ref(&(0..10)), &(3..5)), [0..3, 5..10]);
        assert_eq!(without(&[0..10, 20..30], &(8..22)), [0..8, 22..30]);
        let ten = from_ref(&(0..10));
        assert_eq!(without(ten, &(10..12)), ten);
    }
}
