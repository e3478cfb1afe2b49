//! Sizes of memory that a machine can have; how users write them is in [`aerostat_units`].

use std::fmt;
use std::str::FromStr;

use aerostat_units::{ParseSizeError, Size, parse_size};

/// Bytes in a page: every size of memory is a multiple.
pub const PAGE_SIZE: u64 = 4096;
/// The least memory a machine can have: a stock distribution kernel needs about this much to
/// unpack itself.
pub const MIN_MEMORY: u64 = 64 << 20;

/// A size of guest memory: a multiple of 4 KiB, at least [`MIN_MEMORY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemorySize(u64);

impl MemorySize {
    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// A size from its bytes.
    ///
    /// # Errors
    /// When the size is zero, too small, or no multiple of 4 KiB.
    pub fn from_bytes(bytes: u64) -> Result<Self, SizeError> {
        match bytes {
            0 => Err(SizeError::Zero),
            bytes if bytes % PAGE_SIZE != 0 => Err(SizeError::Misaligned(bytes)),
            bytes if bytes < MIN_MEMORY => Err(SizeError::TooSmall(bytes)),
            bytes => Ok(Self(bytes)),
        }
    }
}

/// Prints as users write it.
impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Size(self.0).fmt(f)
    }
}

/// Why a text is no size of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No size at all.
    #[error(transparent)]
    Parse(#[from] ParseSizeError),
    /// The size is 0.
    #[error("a machine needs memory: at least 64M")]
    Zero,
    /// Below [`MIN_MEMORY`].
    #[error("{0} bytes are too little: the minimum is 64M (a bare number counts MiB)")]
    TooSmall(u64),
    /// No multiple of 4 KiB.
    #[error("{0} bytes are not a multiple of 4 KiB, the size of a page")]
    Misaligned(u64),
}

impl FromStr for MemorySize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        Self::from_bytes(parse_size(text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Result<u64, SizeError> {
        text.parse().map(MemorySize::bytes)
    }

    #[test]
    fn sizes_that_make_no_machine_are_refused_with_the_reason() {
        assert_eq!(bytes("0"), Err(SizeError::Zero));
        assert_eq!(bytes("0.0G"), Err(SizeError::Zero));
        assert_eq!(bytes("63M"), Err(SizeError::TooSmall(63 << 20)));
        assert_eq!(
            bytes("67108865B"),
            Err(SizeError::Misaligned((64 << 20) + 1))
        );
        let too_large = SizeError::Parse(ParseSizeError::TooLarge);
        assert_eq!(bytes("17179869184G"), Err(too_large));
    }

    #[test]
    fn sizes_print_as_they_are_written() {
        for text in ["512M", "2G", "1536M"] {
            assert_eq!(text.parse::<MemorySize>().unwrap().to_string(), text);
        }
    }
}
