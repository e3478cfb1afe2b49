//! Why guest memory cannot be had.

use std::io;

use super::HugePageSize;
use super::backing::{Backing, RamOptions};
use super::pool::Pool;

/// Guest memory cannot be had from the host.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The host refused the mapping.
    #[error("This host cannot map {} MiB of guest memory: ask for less with --mem", bytes >> 20)]
    Map {
        /// What was asked for.
        bytes: u64,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The host's pool has too few huge pages.
    #[error(
        "Guest memory needs {needed} huge pages of {size}, of which the host has {} to give \
         ({} in its pool, {} of them free, {} of these promised to others): write a larger number \
         to {}{}",
        pool.available(), pool.all, pool.free, pool.reserved, pool.setting,
        if *size == HugePageSize::Size2M { " or /proc/sys/vm/nr_hugepages" } else { "" }
    )]
    Pool {
        /// How many huge pages the machine needs, less those that it has already.
        needed: u64,
        /// Their size.
        size: HugePageSize,
        /// What the host has.
        pool: Pool,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The host has no huge pages of this size.
    #[error("This host has no huge pages of {0}: choose hugepage=2M, or another backing")]
    NoSuchHugePages(HugePageSize),
    /// The range of memory is not made of whole huge pages.
    #[error(
        "{} KiB of memory from {start:#x} are not a whole number of huge pages of {size}: ask for \
         a multiple of {size} with --mem",
        bytes >> 10
    )]
    NotWhole {
        /// Where the range begins.
        start: u64,
        /// Its size.
        bytes: u64,
        /// The size of a huge page.
        size: HugePageSize,
    },
    /// The memory may not be locked.
    #[error(
        "{} MiB of guest memory cannot be locked: this process may lock {} (RLIMIT_MEMLOCK): \
         raise that with `ulimit -l`, or with LimitMEMLOCK= in a systemd unit, or leave lock=on out",
        bytes >> 20, limit.map_or("any".to_owned(), |limit| format!("{} KiB", limit >> 10))
    )]
    Lock {
        /// What was to be locked.
        bytes: u64,
        /// What the process may lock; `None` for no limit.
        limit: Option<u64>,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// The host would never take locked memory back.
    #[error(
        "This host cannot take back memory of one process that is locked, as Linux can from 5.18 \
         on: choose backing=memfd, or leave lock=on out"
    )]
    LockedForGood(#[source] io::Error),
    /// The host keeps what the next guest must not see; the log says why.
    #[error("The host does not take back {} KiB of guest memory", bytes >> 10)]
    NotTakenBack {
        /// How much of it.
        bytes: u64,
    },
    /// The host has no memory to take in advance.
    #[error("The host cannot give all {} MiB of guest memory in advance (prealloc=on)", bytes >> 20)]
    Populate {
        /// What was asked for.
        bytes: u64,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody wants the machine to end before it has begun.
    #[error("The machine was ended while its memory was taken from the host")]
    Interrupted,
    /// The ranges of guest memory overlap.
    #[error("Guest memory cannot be put together")]
    Ranges(#[from] vm_memory::GuestRegionCollectionError),
}

impl RamError {
    /// Why `bytes` of memory could not be mapped, or huge pages for so many not be reserved.
    pub(super) fn of_map(bytes: u64, options: RamOptions, source: io::Error) -> Self {
        let Backing::HugeTlb(size) = options.backing else {
            return Self::Map { bytes, source };
        };
        let needed = bytes / size.bytes();
        match Pool::of(size) {
            None => Self::NoSuchHugePages(size),
            Some(pool)
                if source.kind() == io::ErrorKind::OutOfMemory && pool.available() < needed =>
            {
                Self::Pool {
                    needed,
                    size,
                    pool,
                    source,
                }
            }
            Some(_) => Self::Map { bytes, source },
        }
    }
}
