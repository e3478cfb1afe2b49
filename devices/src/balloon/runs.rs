//! Page numbers to runs of neighbouring pages: one system call per run instead of per page.
//!
//! Linux hands pages out mostly downwards and next to each other, so whole buffers, and
//! neighbouring buffers, usually melt into few runs.

use crate::Pfn;
use crate::memory::PageRun;

/// Sorts `pages`, drops repeated ones, and yields maximal runs in ascending order.
pub(super) fn runs(pages: &mut Vec<Pfn>) -> impl Iterator<Item = PageRun> + '_ {
    pages.sort_unstable();
    pages.dedup();
    pages.chunk_by(|a, b| b.0 - a.0 == 1).map(|chunk| PageRun {
        first: chunk[0],
        count: u64::try_from(chunk.len()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn runs_of(pages: &[u32]) -> Vec<(u32, u64)> {
        let mut pages: Vec<_> = pages.iter().copied().map(Pfn).collect();
        runs(&mut pages)
            .map(|run| (run.first.0, run.count))
            .collect()
    }

    #[test]
    fn descending_neighbours_become_one_run() {
        assert_eq!(runs_of(&[9, 8, 7, 6]), [(6, 4)]);
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
            pages in proptest::collection::vec(0u32..300, 0..400)
        ) {
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
