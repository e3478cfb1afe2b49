//! What the host says of its huge pages (Documentation/admin-guide/mm/hugetlbpage.rst).

use super::HugePageSize;

/// The pool of huge pages of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How many there are.
    pub all: u64,
    /// How many of them nobody uses.
    pub free: u64,
    /// How many of these are promised to somebody.
    pub reserved: u64,
    /// The file that sets how many there are.
    pub setting: String,
}

impl Pool {
    /// The pool now; `None` when the host has no huge pages of this size.
    pub(super) fn of(size: HugePageSize) -> Option<Self> {
        let directory = directory(size);
        let number = |name| {
            let text = std::fs::read_to_string(format!("{directory}/{name}")).ok()?;
            text.trim().parse().ok()
        };
        Some(Self {
            all: number("nr_hugepages")?,
            free: number("free_hugepages")?,
            reserved: number("resv_hugepages")?,
            setting: format!("{directory}/nr_hugepages"),
        })
    }

    /// How many huge pages somebody who asks now can have.
    pub(super) fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserved)
    }
}

fn directory(size: HugePageSize) -> String {
    let kib = size.bytes() >> 10;
    format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB")
}
