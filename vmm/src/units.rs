//! Sizes of memory, as users write them.
//!
//! Suffixes are powers of 1024; a bare number counts MiB, as with QEMU's `-m`.

use std::fmt;
use std::str::FromStr;

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

/// Prints with the largest suffix that leaves a whole number.
impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffixes = [
            (1u64 << 40, "T"),
            (1 << 30, "G"),
            (1 << 20, "M"),
            (1 << 10, "K"),
        ];
        match suffixes
            .iter()
            .find(|(unit, _)| self.0.is_multiple_of(*unit))
        {
            Some((unit, suffix)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Why a text is no size of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not a number with a suffix.
    #[error("not a size: write a number and K, M, G or T, for example 512M or 2G")]
    NotANumber,
    /// More than 64 bits.
    #[error("too large for any machine")]
    TooLarge,
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
        Self::from_bytes(parse_bytes(text)?)
    }
}

/// Bytes in a decimal number with a suffix: exact, without floating point.
fn parse_bytes(text: &str) -> Result<u64, SizeError> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit = unit_bytes(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !is_number(fraction) || number.ends_with('.') {
        return Err(SizeError::NotANumber);
    }
    let whole: u128 = whole.parse().map_err(|_| SizeError::TooLarge)?;
    // Digits past the 18th cannot make a difference of a byte, even of a TiB.
    let fraction = &fraction[..fraction.len().min(18)];
    let scale = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let fraction: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().unwrap_or(0)
    };
    let bytes = whole
        .checked_mul(unit)
        .and_then(|bytes| bytes.checked_add(fraction * unit / scale))
        .ok_or(SizeError::TooLarge)?;
    u64::try_from(bytes).map_err(|_| SizeError::TooLarge)
}

fn unit_bytes(suffix: &str) -> Result<u128, SizeError> {
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" | "kb" | "kib" => 10,
        "" | "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(SizeError::NotANumber),
    };
    Ok(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Result<u64, SizeError> {
        text.parse().map(MemorySize::bytes)
    }

    #[test]
    fn suffixes_are_powers_of_1024() {
        for (text, expected) in [
            ("512M", 512 << 20),
            ("2G", 2 << 30),
            ("2GiB", 2 << 30),
            ("2gb", 2 << 30),
            ("1.5G", 3 << 29),
            ("1.5g", 3 << 29),
            ("65536k", 64 << 20),
            ("0.25T", 1 << 38),
            ("67108864B", 64 << 20),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn bare_number_counts_mebibytes() {
        assert_eq!(bytes("128"), Ok(128 << 20));
    }

    #[test]
    fn text_that_is_no_number_is_refused() {
        for text in [
            "", "G", "2X", "-1G", "1.G", ".5G", "1.2.3G", "2 G", "0x10M", "2GiBs", "½G",
        ] {
            assert_eq!(bytes(text), Err(SizeError::NotANumber), "{text}");
        }
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
        assert_eq!(bytes("17179869184G"), Err(SizeError::TooLarge));
        assert_eq!(bytes(&"9".repeat(60)), Err(SizeError::TooLarge));
    }

    #[test]
    fn sizes_print_as_they_are_written() {
        for text in ["512M", "2G", "1536M", "65540K", "1T"] {
            assert_eq!(text.parse::<MemorySize>().unwrap().to_string(), text);
        }
    }
}
