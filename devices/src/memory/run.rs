//! Neighbouring pages of guest memory.

use super::{PAGE_SIZE, Pfn};

/// Neighbouring pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// The first of them.
    pub first: Pfn,
    /// How many they are. What is past the last page number is no memory.
    pub count: u64,
}

impl PageRun {
    /// The number behind the last page's.
    pub(crate) fn end(self) -> u64 {
        u64::from(self.first.0).saturating_add(self.count)
    }

    /// The pages from number `from` up to, but without, number `to`, if there are any.
    pub(crate) fn of_numbers(from: u64, to: u64) -> Option<Self> {
        let first = Pfn(u32::try_from(from).ok()?);
        let count = to.checked_sub(from).filter(|&count| count > 0)?;
        Some(Self { first, count })
    }

    /// What it has in common with the pages of the range of memory from `start` to `end`, in bytes.
    pub(crate) fn within(self, start: u64, end: u64) -> Option<Self> {
        let from = u64::from(self.first.0).max(start.div_ceil(PAGE_SIZE));
        Self::of_numbers(from, self.end().min(end / PAGE_SIZE))
    }

    /// The whole huge pages of `size` pages in it.
    pub(crate) fn whole(self, size: u32) -> Option<Self> {
        let size = u64::from(size);
        let from = u64::from(self.first.0).div_ceil(size) * size;
        Self::of_numbers(from, self.end() / size * size)
    }

    /// All pages of `runs`, each of them once, in ascending order.
    pub(crate) fn merged(mut runs: Vec<Self>) -> Vec<Self> {
        runs.sort_unstable_by_key(|run| run.first);
        runs.dedup_by(|next, run| {
            let follows = u64::from(next.first.0) <= run.end();
            if follows {
                run.count = run.end().max(next.end()) - u64::from(run.first.0);
            }
            follows
        });
        runs
    }

    /// It in pieces of at most `limit` pages, which is not 0.
    pub(crate) fn pieces(self, limit: u64) -> impl Iterator<Item = Self> {
        let mut from = u64::from(self.first.0);
        let end = self.end();
        std::iter::from_fn(move || {
            let piece = Self::of_numbers(from, end.min(from.saturating_add(limit)))?;
            from = piece.end();
            Some(piece)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u32, count: u64) -> PageRun {
        PageRun {
            first: Pfn(first),
            count,
        }
    }

    #[test]
    fn pieces_are_the_run_and_none_is_longer_than_allowed() {
        for (first, count) in [(0, 1), (7, 10), (7, 11), (0, 35), (u32::MAX, 1)] {
            let pieces: Vec<_> = run(first, count).pieces(10).collect();
            assert_eq!(pieces.iter().map(|piece| piece.count).sum::<u64>(), count);
            assert!(pieces.iter().all(|piece| piece.count <= 10));
            assert!(
                pieces
                    .windows(2)
                    .all(|two| two[0].end() == u64::from(two[1].first.0))
            );
        }
    }

    #[test]
    fn pieces_end_with_the_last_page_number() {
        let pieces: Vec<_> = run(u32::MAX - 4, u64::MAX).pieces(10).collect();
        assert_eq!(pieces, [run(u32::MAX - 4, 10)]);
    }

    #[test]
    fn whole_huge_pages_are_those_that_lack_nothing() {
        assert_eq!(run(512, 512).whole(512), Some(run(512, 512)));
        assert_eq!(run(511, 1025).whole(512), Some(run(512, 1024)));
        assert_eq!(run(511, 1024).whole(512), Some(run(512, 512)));
        for (first, count) in [(0, 511), (1, 511), (513, 1022)] {
            assert_eq!(run(first, count).whole(512), None, "{first}");
        }
    }

    #[test]
    fn merged_runs_have_each_page_once() {
        let runs = vec![
            run(9, 2),
            run(0, 3),
            run(1, 1),
            run(3, 2),
            run(9, 4),
            run(20, 1),
        ];
        assert_eq!(PageRun::merged(runs), [run(0, 5), run(9, 4), run(20, 1)]);
        let all = run(0, u64::MAX);
        assert_eq!(PageRun::merged(vec![run(5, u64::MAX), all]), [all]);
        assert_eq!(PageRun::merged(Vec::new()), []);
    }

    #[test]
    fn part_in_a_range_of_memory_has_whole_pages_only() {
        let pages = run(0, u64::MAX);
        assert_eq!(pages.within(0x1000, 0x3000), Some(run(1, 2)));
        assert_eq!(pages.within(0x1001, 0x3fff), Some(run(2, 1)));
        assert_eq!(run(3, 1).within(0x1000, 0x3000), None);
    }
}
