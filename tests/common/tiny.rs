//! The places in the bare-metal guest's memory that its scripts share.

/// The first virtio-mmio device, as the DSDT announces it.
pub const DEVICE: u64 = 0xd000_0000;

/// Where the rings of a balloon driver are: above what the scripts give away.
pub const RINGS: u64 = 0x200_0000;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
