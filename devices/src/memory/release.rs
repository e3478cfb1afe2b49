//! What becomes of pages that are to go back to the host.

/// What became of pages that were to be released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRelease {
    /// Pages handed to the host.
    pub released_pages: u64,
    /// Pages that are no guest memory.
    pub outside_pages: u64,
    /// Pages that the host refused.
    pub refused_pages: u64,
    /// Pages of huge pages that were not to be released as a whole, where they cannot be released
    /// otherwise.
    pub partial_pages: u64,
    /// System calls made.
    pub calls: u64,
}

impl PageRelease {
    /// All pages that were to be released.
    pub(super) fn pages(&self) -> u64 {
        self.released_pages + self.outside_pages + self.refused_pages + self.partial_pages
    }
}

/// A release was ended before its time, at the wish of whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the release was given up")]
pub struct GivenUp;
