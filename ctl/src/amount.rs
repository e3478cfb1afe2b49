//! Amounts of memory for people's eyes.

/// An amount of bytes with a unit that keeps it short; amounts that are no whole MiB are rounded to
/// a tenth of one.
pub fn amount(bytes: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB")];
    let whole = units.iter().find(|(unit, _)| bytes.is_multiple_of(*unit));
    match whole {
        _ if bytes == 0 => "0 MiB".to_owned(),
        Some((unit, name)) => format!("{} {name}", bytes / unit),
        None => {
            let tenths = (u128::from(bytes) * 10 + (1 << 19)) >> 20;
            format!("{}.{} MiB", tenths / 10, tenths % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_largest_unit_that_leaves_a_whole_number() {
        for (bytes, text) in [
            (0, "0 MiB"),
            (256 << 20, "256 MiB"),
            (3 << 29, "1536 MiB"),
            (2 << 30, "2 GiB"),
            (1 << 40, "1 TiB"),
            ((1 << 20) + (1 << 19), "1.5 MiB"),
            (4096, "0.0 MiB"),
            (u64::MAX, "17592186044416.0 MiB"),
        ] {
            assert_eq!(amount(bytes), text);
        }
    }
}
