//! Which pages of which huge pages are in the balloon, so that huge pages go back to the host as a
//! whole.
//!
//! Linux sends 256 page numbers at a time and waits for the answer: a huge page of 512 comes in two
//! or three buffers. Pages are kept here until their huge page is whole. That is only right with
//! guests that tell before they use a page again (VIRTIO_BALLOON_F_MUST_TELL_HOST, virtio 1.2
//! §5.5.3): such pages leave when the guest tells.
//!
//! There is at most a bit for each page of guest memory (memory divided by 32,768), and with huge pages
//! of 2 MiB about as much again to find it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::Pfn;
use crate::memory::PageRun;

/// Pages in a word of a bitmap.
const WORD_PAGES: u64 = 64;

/// What is in the balloon of a huge page.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// Some of its pages, at least one: a bit for each, and how many are set.
    Part { bits: Box<[u64]>, count: u32 },
    /// All of them.
    Whole,
}

/// The huge pages of which something is in the balloon.
#[derive(Debug)]
pub(super) struct HugePages {
    /// Pages in a huge page: a multiple of [`WORD_PAGES`].
    size: u32,
    /// Whether those that were released are remembered until the guest takes pages back. They
    /// have to be where parts are never released, since they can become whole again.
    remembers: bool,
    known: BTreeMap<u32, Content>,
    /// Those that are whole and were not released yet.
    due: BTreeSet<u32>,
    /// Those that were released, are not whole any more, and for which nothing has been reserved yet.
    broken: BTreeSet<u32>,
    /// Pages in those of which a part is in the balloon.
    kept_pages: u64,
    wait: Wait,
}

/// Whether pages wait for the rest of their huge page, by a timer that is set once for many buffers:
/// setting it costs more than all else that is done for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wait {
    /// No timer is set.
    #[default]
    None,
    /// The timer is set, and no page has come since.
    Begun,
    /// Pages have come since it was set.
    Prolonged,
}

impl HugePages {
    /// None is known, of `size` pages each; whether those that were released are remembered.
    pub(super) fn new(size: u32, remembers: bool) -> Self {
        Self {
            size,
            remembers,
            known: BTreeMap::new(),
            due: BTreeSet::new(),
            broken: BTreeSet::new(),
            kept_pages: 0,
            wait: Wait::None,
        }
    }

    /// Forgets all; whether something that was released is the guest's again.
    pub(super) fn clear(&mut self) -> bool {
        let whole = self
            .known
            .values()
            .filter(|content| **content == Content::Whole);
        let was_released = whole.count() > self.due.len() || !self.broken.is_empty();
        *self = Self::new(self.size, self.remembers);
        was_released
    }

    /// Puts pages, all of which are guest memory, into the balloon. Those that are there already
    /// change nothing.
    pub(super) fn inflate(&mut self, run: PageRun) {
        for (huge, from, to) in parts_of(run, self.size) {
            let content = match self.known.entry(huge) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(Content::none(self.size)),
            };
            let before = content.count(self.size);
            content.set(from, to);
            let now = content.count(self.size);
            self.kept_pages += u64::from(now - before);
            if before < now && now == self.size {
                *content = Content::Whole;
                self.kept_pages -= u64::from(now);
                self.due.insert(huge);
                self.broken.remove(&huge);
            }
        }
    }

    /// Takes pages out of the balloon.
    pub(super) fn deflate(&mut self, run: PageRun) {
        // Whatever the guest says, nothing is looked at but what is known.
        let known: Vec<_> = {
            let first = run.first.0 / self.size;
            let end = run.end().div_ceil(self.size.into());
            let end = u32::try_from(end).unwrap_or(u32::MAX);
            let known = self.known.range(first..end.max(first));
            known.map(|(huge, _)| *huge).collect()
        };
        for huge in known {
            let whole = huge_run(huge, huge + 1, self.size);
            let (start, end) = (u64::from(whole.first.0), whole.end());
            let from = u64::from(run.first.0).max(start) - start;
            let to = run.end().min(end) - start;
            let Some(content) = self.known.get_mut(&huge) else {
                continue;
            };
            if *content == Content::Whole {
                if !self.due.remove(&huge) {
                    self.broken.insert(huge);
                }
                self.kept_pages += u64::from(self.size);
            }
            let before = content.count(self.size);
            content.clear(from, to, self.size);
            let now = content.count(self.size);
            self.kept_pages -= u64::from(before - now);
            if now == 0 {
                self.known.remove(&huge);
            }
        }
    }

    /// The first of the huge pages that were released, are not whole any more, and have to be
    /// reserved, with those that follow it at once.
    pub(super) fn broken(&self) -> Option<PageRun> {
        self.runs_of(&self.broken).next()
    }

    /// Takes note that those that [`Self::broken`] named have been reserved, or cannot be.
    pub(super) fn reserved_broken(&mut self) {
        let first = self.broken.first().copied();
        for huge in first.into_iter().flat_map(|first| first..) {
            if !self.broken.remove(&huge) {
                break;
            }
        }
    }

    /// The huge pages that are whole and were not released yet.
    pub(super) fn due(&self) -> Vec<PageRun> {
        self.runs_of(&self.due).collect()
    }

    /// Huge pages as runs of neighbours.
    fn runs_of(&self, huge_pages: &BTreeSet<u32>) -> impl Iterator<Item = PageRun> {
        let mut rest = huge_pages.iter().copied().peekable();
        let size = self.size;
        std::iter::from_fn(move || {
            let first = rest.next()?;
            let mut end = first + 1;
            while rest.next_if_eq(&end).is_some() {
                end += 1;
            }
            Some(huge_run(first, end, size))
        })
    }

    /// Takes note that those that were due have been released.
    pub(super) fn released_due(&mut self) {
        for huge in std::mem::take(&mut self.due) {
            if !self.remembers {
                self.known.remove(&huge);
            }
        }
    }

    /// Takes note that pages wait from now on; whether a timer has to be set.
    pub(super) fn begin_to_wait(&mut self) -> bool {
        let begins = self.wait == Wait::None;
        self.wait = match self.wait {
            Wait::None => Wait::Begun,
            Wait::Begun | Wait::Prolonged => Wait::Prolonged,
        };
        begins
    }

    /// Takes note that the timer has called; whether pages have waited for so long that they go, or
    /// the timer has to be set again.
    pub(super) fn have_waited(&mut self) -> bool {
        let is_over = self.wait != Wait::Prolonged || self.kept_pages == 0;
        self.wait = match is_over {
            true => Wait::None,
            false => Wait::Begun,
        };
        is_over
    }

    /// Pages that are in the balloon and wait for the rest of their huge page.
    pub(super) fn kept_pages(&self) -> u64 {
        self.kept_pages
    }

    /// The same, in ascending order.
    pub(super) fn kept(&self) -> Vec<PageRun> {
        let mut runs: Vec<PageRun> = Vec::new();
        for (&huge, content) in &self.known {
            let Content::Part { bits, .. } = content else {
                continue;
            };
            let start = u64::from(huge) * u64::from(self.size);
            for (from, to) in ranges(bits) {
                match runs.last_mut() {
                    Some(last) if last.end() == start + from => last.count += to - from,
                    _ => runs.extend(PageRun::of_numbers(start + from, start + to)),
                }
            }
        }
        runs
    }

    /// Takes note that those that were kept have been released page by page.
    pub(super) fn released_kept(&mut self) {
        self.known.retain(|_, content| *content == Content::Whole);
        self.kept_pages = 0;
    }
}

impl Content {
    fn none(size: u32) -> Self {
        let words = usize::try_from(u64::from(size) / WORD_PAGES).unwrap_or(0);
        Self::Part {
            bits: vec![0; words].into(),
            count: 0,
        }
    }

    fn count(&self, size: u32) -> u32 {
        match self {
            Self::Part { count, .. } => *count,
            Self::Whole => size,
        }
    }

    /// Puts the pages from `from` up to, but without, `to` in.
    fn set(&mut self, from: u64, to: u64) {
        if let Self::Part { bits, count } = self {
            for (index, mask) in words(from, to) {
                let word = &mut bits[index];
                *count += (mask & !*word).count_ones();
                *word |= mask;
            }
        }
    }

    /// Takes them out.
    fn clear(&mut self, from: u64, to: u64, size: u32) {
        if *self == Self::Whole {
            *self = Self::none(size);
            self.set(0, size.into());
        }
        if let Self::Part { bits, count } = self {
            for (index, mask) in words(from, to) {
                let word = &mut bits[index];
                *count -= (mask & *word).count_ones();
                *word &= !mask;
            }
        }
    }
}

/// The pages of the huge pages from number `from` up to, but without, number `to`.
fn huge_run(from: u32, to: u32, size: u32) -> PageRun {
    PageRun {
        first: Pfn(from.saturating_mul(size)),
        count: u64::from(to - from) * u64::from(size),
    }
}

/// The huge pages that a run touches, each with what it touches of them: number, first page and
/// the page behind the last, counted from the start of the huge page.
fn parts_of(run: PageRun, size: u32) -> impl Iterator<Item = (u32, u64, u64)> {
    let size = u64::from(size);
    let (start, end) = (u64::from(run.first.0), run.end());
    (start / size..end.div_ceil(size)).filter_map(move |huge| {
        let base = huge * size;
        let from = start.max(base) - base;
        let to = end.min(base + size) - base;
        Some((u32::try_from(huge).ok()?, from, to))
    })
}

/// The words of a bitmap in which the bits from `from` up to `to` are, and which bits of them.
fn words(from: u64, to: u64) -> impl Iterator<Item = (usize, u64)> {
    (from / WORD_PAGES..to.div_ceil(WORD_PAGES)).filter_map(move |index| {
        let base = index * WORD_PAGES;
        let low = from.max(base) - base;
        let high = to.min(base + WORD_PAGES) - base;
        let below = |bit: u64| match bit {
            WORD_PAGES => u64::MAX,
            bit => (1 << bit) - 1,
        };
        Some((usize::try_from(index).ok()?, below(high) & !below(low)))
    })
}

/// The ranges of bits that are set, in ascending order, neighbouring words apart.
fn ranges(bits: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    (0..).step_by(64).zip(bits).flat_map(|(base, &word)| {
        let mut rest = word;
        let mut at = 0;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let gap = rest.trailing_zeros();
            let length = (rest >> gap).trailing_ones();
            rest = rest.checked_shr(gap + length).unwrap_or(0);
            let from = base + u64::from(at + gap);
            at += gap + length;
            Some((from, from + u64::from(length)))
        })
    })
}

#[cfg(test)]
mod tests;
