//! Times that can pass.

use std::time::Duration;

/// The longest time: no clock overflows with it, and nobody waits longer.
const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// `humantime` panics where a sum passes 2^64 seconds, which takes more digits than these, even
/// when they count years.
const MAX_DIGITS: usize = 11;

/// Why a text is no time.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ParseTimeError {
    /// Not numbers with units.
    #[error("{0}; write for example 60s, 2m or 500ms (a bare number counts seconds)")]
    NotATime(humantime::DurationError),
    /// Nothing happens in no time.
    #[error("no time at all")]
    Zero,
    /// Digits that make no sense in a time that can pass.
    #[error("too many digits for a time of at most 365 days: write {MAX_DIGITS} at most")]
    TooManyDigits,
    /// More than a year.
    #[error("too long: at most 365 days")]
    TooLong,
}

/// A time as in `60s`, `2m`, `1m 30s` or `500ms`; a bare number counts seconds.
///
/// # Errors
///
/// When the text is no time, or has more than 11 digits, or the time is zero or more than a year.
///
/// ```
/// use aerostat_units::parse_time;
/// assert_eq!(parse_time("1m 30s"), parse_time("90"));
/// ```
pub fn parse_time(text: &str) -> Result<Duration, ParseTimeError> {
    let is_digit = |c: char| c.is_ascii_digit();
    if text.chars().filter(|c| is_digit(*c)).count() > MAX_DIGITS {
        return Err(ParseTimeError::TooManyDigits);
    }
    let time = if !text.is_empty() && text.chars().all(is_digit) {
        text.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        humantime::parse_duration(text).map_err(ParseTimeError::NotATime)?
    };
    match time {
        Duration::ZERO => Err(ParseTimeError::Zero),
        time if time > MAX_TIME => Err(ParseTimeError::TooLong),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_number_counts_seconds() {
        assert_eq!(parse_time("7"), Ok(Duration::from_secs(7)));
    }

    #[test]
    fn times_that_cannot_pass_are_refused() {
        for text in ["0", "0ms"] {
            assert_eq!(parse_time(text), Err(ParseTimeError::Zero), "{text}");
        }
        for text in ["366d", "99999999999y"] {
            assert_eq!(parse_time(text), Err(ParseTimeError::TooLong), "{text}");
        }
        for text in ["18446744073709551615s", "1000000000000ns"] {
            assert_eq!(
                parse_time(text),
                Err(ParseTimeError::TooManyDigits),
                "{text}"
            );
        }
        for text in ["", "s", "5 apples", "-1s"] {
            let refused = parse_time(text);
            assert!(
                matches!(refused, Err(ParseTimeError::NotATime(_))),
                "{text}: {refused:?}"
            );
        }
    }
}
