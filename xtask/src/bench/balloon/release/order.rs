//! The orders in which a guest gives its pages, and the runs that they make together.

/// Pages that a guest gives: 1 GiB.
pub const PAGES: u32 = 1 << 18;
/// Page numbers in one buffer, as Linux sends them.
pub const BUFFER_PAGES: usize = 256;
/// The largest block of Linux's page allocator: 4 MiB.
const BLOCK_PAGES: u32 = 1024;
/// Where the generator begins: each run of the benchmark gives the same pages in the same order.
const SEED: u64 = 0x5eed;

/// How the pages of a guest lie, and how it gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As Linux's allocator gives them when much is free: downwards within a block of 4 MiB, the
    /// blocks in any order.
    Neighbours,
    /// In random order: a guest whose free memory is in pieces.
    Scattered,
    /// As neighbours, where the host has huge pages behind them.
    Huge,
}

impl Order {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Neighbours, Self::Scattered, Self::Huge];

    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Neighbours => "neighbours",
            Self::Scattered => "scattered",
            Self::Huge => "huge",
        }
    }

    /// `count` pages from 0 on, each once; `count` is a multiple of 1024.
    pub fn pages(self, count: u32) -> Vec<u32> {
        let mut random = Random::default();
        match self {
            Self::Neighbours | Self::Huge => {
                let mut blocks: Vec<u32> = (0..count / BLOCK_PAGES).collect();
                random.shuffle(&mut blocks);
                let pages = |block| (block * BLOCK_PAGES..(block + 1) * BLOCK_PAGES).rev();
                blocks.into_iter().flat_map(pages).collect()
            }
            Self::Scattered => {
                let mut pages: Vec<u32> = (0..count).collect();
                random.shuffle(&mut pages);
                pages
            }
        }
    }
}

/// A run of neighbouring pages: the first, and how many.
pub type Run = (u32, u32);

/// The longest runs of neighbours that follow one another in `pages`, upwards or downwards.
pub fn runs(pages: &[u32]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &page in pages {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == page => *count += 1,
            Some((first, count)) if page + 1 == *first => (*first, *count) = (page, *count + 1),
            _ => runs.push((page, 1)),
        }
    }
    runs
}

/// The same, in whatever order they are given.
pub fn runs_in_all(pages: &[u32]) -> Vec<Run> {
    let mut sorted = pages.to_vec();
    sorted.sort_unstable();
    runs(&sorted)
}

/// Numbers that look random and are the same each time (Marsaglia's xorshift64).
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(SEED)
    }
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Fisher and Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.next() % (last as u64 + 1);
            // Not more than `last`, which is an index.
            items.swap(last, usize::try_from(other).unwrap_or(last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_order_gives_each_page_once() {
        for order in Order::ALL {
            assert_eq!(runs_in_all(&order.pages(8192)), [(0, 8192)], "{order:?}");
            assert_eq!(order.pages(8192).len(), 8192, "{order:?}");
        }
    }

    #[test]
    fn neighbours_go_down_within_a_block_and_blocks_do_not_follow_one_another() {
        let pages = Order::Neighbours.pages(64 * 1024);
        assert!(runs(&pages).iter().all(|(_, count)| count % 1024 == 0));
        let upwards = pages.windows(2).filter(|pair| pair[1] > pair[0]);
        let downwards_by_one = pages.windows(2).filter(|pair| pair[0] == pair[1] + 1);
        assert!(upwards.count() > 16);
        assert!(downwards_by_one.count() >= 64 * 1023);
    }

    #[test]
    fn scattered_pages_have_hardly_a_neighbour_in_their_buffer() {
        let pages = Order::Scattered.pages(PAGES);
        let all: usize = pages
            .chunks(BUFFER_PAGES)
            .map(|buffer| runs_in_all(buffer).len())
            .sum();
        assert!(all > pages.len() * 99 / 100, "{all} runs");
    }

    #[test]
    fn orders_are_the_same_each_time() {
        assert_eq!(Order::Scattered.pages(4096), Order::Scattered.pages(4096));
    }

    #[test]
    fn runs_end_where_a_page_is_missing() {
        assert_eq!(runs_in_all(&[7, 3, 2, 9, 8, 1]), [(1, 3), (7, 3)]);
        assert_eq!(runs(&[3, 2, 1, 7, 8, 9]), [(1, 3), (7, 3)]);
        assert_eq!(runs(&[7, 3, 2, 9, 8, 1]), [(7, 1), (2, 2), (8, 2), (1, 1)]);
        assert_eq!(runs(&[]), []);
    }
}
