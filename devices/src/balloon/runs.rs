//! Page numbers to runs of neighbouring pages: one system call per run instead of per page.
//!
//! Linux hands pages out mostly downwards and next to each other, so whole buffers, and
//! neighbouring buffers, usually melt into few runs.

use crate::Pfn;
use crate::memory::PageRun;

/// Pages in the order in which they came, put together where one is the neighbour of the last.
#[derive(Debug, Default)]
pub(super) struct Pages {
    runs: Vec<PageRun>,
    count: usize,
}

impl Pages {
    /// How many have come, those that came twice included.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Takes pages that have come.
    pub(super) fn append(&mut self, mut pages: impl ExactSizeIterator<Item = Pfn>) {
        self.count += pages.len();
        // The run that grows is no part of the list meanwhile, so that it can be in registers:
        // reading a buffer takes half the time.
        let Some(mut last) = self.runs.pop().or_else(|| pages.next().map(one)) else {
            return;
        };
        for page in pages {
            if page.0.checked_add(1) == Some(last.first.0) {
                last.first = page;
                last.count += 1;
            } else if u64::from(page.0) == last.end() {
                last.count += 1;
            } else {
                self.runs.push(last);
                last = one(page);
            }
        }
        self.runs.push(last);
    }

    /// All of them, each once, as maximal runs in ascending order.
    pub(super) fn into_runs(self) -> Vec<PageRun> {
        PageRun::merged(self.runs)
    }
}

fn one(page: Pfn) -> PageRun {
    PageRun {
        first: page,
        count: 1,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn runs_of(pages: &[u32]) -> Vec<(u32, u64)> {
        let mut taken = Pages::default();
        taken.append(pages.iter().copied().map(Pfn));
        assert_eq!(taken.count(), pages.len());
        let runs = taken.into_runs().into_iter();
        runs.map(|run| (run.first.0, run.count)).collect()
    }

    #[test]
    fn descending_neighbours_become_one_run() {
        assert_eq!(runs_of(&[9, 8, 7, 6]), [(6, 4)]);
    }

    #[test]
    fn pages_on_either_side_of_a_run_join_it() {
        assert_eq!(runs_of(&[7, 6, 8, 5, 9]), [(5, 5)]);
    }

    #[test]
    fn scattered_pages_stay_apart() {
        assert_eq!(runs_of(&[10, 30, 20]), [(10, 1), (20, 1), (30, 1)]);
    }

    #[test]
    fn repeated_pages_count_once() {
        assert_eq!(runs_of(&[5, 6, 5, 6, 5]), [(5, 2)]);
    }

    #[test]
    fn the_last_page_number_makes_a_run() {
        assert_eq!(runs_of(&[u32::MAX, u32::MAX - 1]), [(u32::MAX - 1, 2)]);
    }

    #[test]
    fn no_pages_make_no_run() {
        assert_eq!(runs_of(&[]), []);
    }

    proptest! {
        #[test]
        fn runs_cover_exactly_the_pages_and_never_touch(
            pages in proptest::collection::vec((0u32..300, 1u32..20, any::<bool>()), 0..40)
        ) {
            let run = |&(first, count, ascends): &(u32, u32, bool)| {
                (0..count).map(move |at| if ascends { first + at } else { first + count - at })
            };
            let pages: Vec<u32> = pages.iter().flat_map(run).collect();
            let result = runs_of(&pages);
            let covered: Vec<_> = result
                .iter()
                .flat_map(|&(first, count)| u64::from(first)..u64::from(first) + count)
                .collect();
            let expected: BTreeSet<_> = pages.iter().copied().map(u64::from).collect();
            prop_assert!(covered.iter().copied().eq(expected));
            prop_assert!(result.windows(2).all(|w| u64::from(w[0].0) + w[0].1 < w[1].0.into()));
        }
    }
}
