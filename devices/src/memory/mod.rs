//! Guest memory: where it comes from, and how its pages go back to the host.
//!
//! `backing` is what users choose, `mapping` the host's side of it, `part` a mapping where the guest
//! has it, `pool` what the host says of its huge pages, `populate` takes memory before the guest
//! touches it, `release` and `vector` give `run`s of it back, and `ram` joins them: the one owner of
//! guest memory. `error` is why there is none. The unit is the balloon's page of 4 KiB (virtio 1.2
//! §5.5.6), whatever the host's page size is.

mod backing;
mod error;
mod mapping;
mod part;
mod pool;
mod populate;
mod ram;
mod release;
mod run;
mod vector;

pub use backing::{Backing, Granularity, HugePageSize, RamOptions};
pub use error::RamError;
pub use mapping::Keeper;
pub use populate::Progress;
pub use ram::GuestRam;
pub use release::{GivenUp, PageRelease};
pub use run::PageRun;

use vm_memory::GuestAddress;

/// Bytes in a balloon page.
pub const PAGE_SIZE: u64 = 4096;

/// The number of a 4 KiB page of guest-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pfn(pub u32);

impl Pfn {
    /// The address of the page's first byte.
    #[must_use]
    pub fn address(self) -> GuestAddress {
        GuestAddress(u64::from(self.0) * PAGE_SIZE)
    }
}
