//! Sizes: a decimal number with a suffix; a bare number counts MiB, as with QEMU's `-m`.

use std::fmt;

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSizeError {
    /// Not a number with a suffix.
    #[error("not a size: write a number and K, M, G or T, for example 512M or 2G")]
    NotANumber,
    /// More than 64 bits.
    #[error("too large for any machine")]
    TooLarge,
}

/// A number of bytes that prints with the largest suffix that leaves a whole number.
///
/// ```
/// use aerostat_units::Size;
/// assert_eq!(Size(3 << 29).to_string(), "1536M");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
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

/// Bytes in a decimal number with a suffix, without floating point; a part of a byte does not count.
///
/// # Errors
///
/// When the text is no size, or one of more than 64 bits.
///
/// ```
/// use aerostat_units::parse_size;
/// assert_eq!(parse_size("1.5G"), Ok(3 << 29));
/// assert_eq!(parse_size("512"), Ok(512 << 20));
/// ```
pub fn parse_size(text: &str) -> Result<u64, ParseSizeError> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let unit = unit_bytes(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !is_number(fraction) || number.ends_with('.') {
        return Err(ParseSizeError::NotANumber);
    }
    let whole: u128 = whole.parse().map_err(|_| ParseSizeError::TooLarge)?;
    // What stands behind the 18th digit is less than a byte, even of a TiB.
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
        .ok_or(ParseSizeError::TooLarge)?;
    u64::try_from(bytes).map_err(|_| ParseSizeError::TooLarge)
}

fn unit_bytes(suffix: &str) -> Result<u128, ParseSizeError> {
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" | "kb" | "kib" => 10,
        "" | "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(ParseSizeError::NotANumber),
    };
    Ok(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(parse_size(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn bare_number_counts_mebibytes() {
        assert_eq!(parse_size("128"), Ok(128 << 20));
    }

    #[test]
    fn text_that_is_no_number_is_refused() {
        for text in [
            "", "G", "2X", "-1G", "1.G", ".5G", "1.2.3G", "2 G", "0x10M", "2GiBs", "½G",
        ] {
            assert_eq!(parse_size(text), Err(ParseSizeError::NotANumber), "{text}");
        }
    }

    #[test]
    fn more_than_64_bits_are_refused() {
        assert_eq!(parse_size("17179869184G"), Err(ParseSizeError::TooLarge));
        assert_eq!(parse_size(&"9".repeat(60)), Err(ParseSizeError::TooLarge));
    }

    #[test]
    fn sizes_print_as_they_are_written() {
        for text in ["512M", "2G", "1536M", "65540K", "1T", "4097B"] {
            assert_eq!(Size(parse_size(text).unwrap()).to_string(), text);
        }
    }
}
