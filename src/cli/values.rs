//! The texts that options take, and the values they stand for.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use aerostat_units::{ParseTimeError, parse_time};
use aerostat_vmm::config::MAX_CPUS;

use crate::console::expectation::ExpectedText;

/// The log has no level above this one.
const MAX_VERBOSITY: u8 = 3;

/// `on` or `off`; also `true` or `false`, as programs write them.
pub fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("the value is on or off".to_owned()),
    }
}

/// A number of CPUs.
pub fn cpus(text: &str) -> Result<u8, String> {
    number(text, 1, MAX_CPUS)
}

/// What one `-v` or `--verbose=N` adds.
pub fn verbosity(text: &str) -> Result<u8, String> {
    number(text, 0, MAX_VERBOSITY)
}

/// What several of them make.
pub fn sum_of_verbosity(numbers: impl IntoIterator<Item = u8>) -> u8 {
    let sum = numbers.into_iter().fold(0, u8::saturating_add);
    sum.min(MAX_VERBOSITY)
}

fn number(text: &str, least: u8, most: u8) -> Result<u8, String> {
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("write a number from {least} to {most}")),
    }
}

/// A time that can pass: `60s`, `2m`, `1m 30s`, `500ms`; a bare number counts seconds.
pub fn timeout(text: &str) -> Result<Duration, String> {
    parse_time(text).map_err(|error| match error {
        ParseTimeError::Zero => format!("{error}: leave --timeout out to wait for ever"),
        _ => error.to_string(),
    })
}

/// The longest name of a machine.
const MAX_NAME_BYTES: usize = 255;

/// What a machine is called.
pub fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
        return Err(format!(
            "write 1 to {MAX_NAME_BYTES} bytes without control characters"
        ));
    }
    Ok(text.to_owned())
}

/// How many digits stand between the hyphens of a UUID (RFC 9562, 4).
const UUID_DIGITS: [usize; 5] = [8, 4, 4, 4, 12];

/// A UUID in any case, made lower case.
pub fn uuid(text: &str) -> Result<String, String> {
    let lengths = text.split('-').map(str::len);
    let is_digit = |byte: u8| byte == b'-' || byte.is_ascii_hexdigit();
    if lengths.eq(UUID_DIGITS) && text.bytes().all(is_digit) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("write 8-4-4-4-12 hexadecimal digits, as uuidgen prints them".to_owned())
}

/// What the console is to show.
pub fn expected_text(text: &str) -> Result<String, String> {
    match text.parse::<ExpectedText>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("an empty text is there from the start: write what to wait for".to_owned()),
    }
}

/// Where the output of the serial console goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialArgument {
    /// Standard output, with input from standard input.
    Stdio,
    /// Output to a file; no input.
    File(PathBuf),
}

/// One `--serial`; `None` is `off`: there is no serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SerialValue(pub Option<SerialArgument>);

impl SerialValue {
    /// What stands before the path of a file.
    pub const FILE: &str = "file:";
}

impl FromStr for SerialValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix(Self::FILE)) {
            ("stdio", _) => Ok(Self(Some(SerialArgument::Stdio))),
            ("off", _) => Ok(Self(None)),
            (_, Some("")) => Err("file: needs a path".to_owned()),
            (_, Some(path)) => Ok(Self(Some(SerialArgument::File(path.into())))),
            _ => Err("write stdio, off or file:PATH".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_on_or_off() {
        assert_eq!(["on", "true"].map(switch), [Ok(true), Ok(true)]);
        assert_eq!(["off", "false"].map(switch), [Ok(false), Ok(false)]);
        for text in ["", "yes", "ON", "1"] {
            assert!(switch(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_of_cpus_out_of_range_are_answered_with_the_range() {
        assert_eq!((cpus("1"), cpus("64")), (Ok(1), Ok(64)));
        for text in ["0", "65", "256", "-1", "", "two", "1.5"] {
            assert!(cpus(text).unwrap_err().contains("1 to 64"), "{text}");
        }
    }

    #[test]
    fn times_have_units_or_count_seconds() {
        for (text, millis) in [
            ("60s", 60_000),
            ("2m", 120_000),
            ("1m 30s", 90_000),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("7", 7_000),
            ("365d", 31_536_000_000),
        ] {
            assert_eq!(timeout(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn time_of_zero_is_refused() {
        for text in ["0", "000", "0s", "0m 0ms"] {
            assert!(timeout(text).unwrap_err().contains("no time"), "{text}");
        }
    }

    #[test]
    fn times_past_a_year_are_refused_however_long() {
        for text in [
            "366d",
            "31536001",
            "18446744073709551616",
            "18446744073709551615s 1000000000ns",
            "99999999999years",
        ] {
            assert!(timeout(text).unwrap_err().contains("365 days"), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_time_is_answered_with_examples() {
        for text in ["", "soon", "-5s", "5 parsecs", "1.5", "s"] {
            assert!(timeout(text).unwrap_err().contains("500ms"), "{text}");
        }
    }

    #[test]
    fn names_are_short_and_printable() {
        for text in ["a", "web 1, \u{3bc}", &"x".repeat(255)] {
            assert_eq!(name(text), Ok(text.to_owned()));
        }
        for text in ["", "a\nb", "\u{7f}", "\u{85}", &"x".repeat(256)] {
            assert!(name(text).unwrap_err().contains("255"), "{text:?}");
        }
    }

    #[test]
    fn uuids_are_canonical_and_become_lower_case() {
        let lower = "01234567-89ab-cdef-0123-456789abcdef";
        assert_eq!(uuid(lower), Ok(lower.to_owned()));
        assert_eq!(uuid(&lower.to_uppercase()), Ok(lower.to_owned()));
        for text in [
            "",
            "0123456789abcdef0123456789abcdef",
            "{01234567-89ab-cdef-0123-456789abcdef}",
            "01234567-89ab-cdef-0123-456789abcdeg",
            "01234567-89ab-cdef-0123-456789abcde",
            "012345678-9ab-cdef-0123-456789abcdef",
            "01234567-89ab-cdef-0123-456789abcdef-",
            "0123456\u{b5}-89ab-cdef-0123-456789abcdef",
        ] {
            assert!(uuid(text).unwrap_err().contains("8-4-4-4-12"), "{text}");
        }
    }

    #[test]
    fn expected_text_is_taken_unless_empty() {
        assert_eq!(expected_text(" ok"), Ok(" ok".to_owned()));
        assert!(expected_text("").unwrap_err().contains("empty"));
    }

    #[test]
    fn serial_targets_are_taken() {
        let serial = |text: &str| text.parse().map(|SerialValue(target)| target);
        assert_eq!(serial("stdio"), Ok(Some(SerialArgument::Stdio)));
        assert_eq!(serial("off"), Ok(None));
        let file = SerialArgument::File("/tmp/a:b".into());
        assert_eq!(serial("file:/tmp/a:b"), Ok(Some(file)));
        assert!(serial("file:").unwrap_err().contains("needs a path"));
        for text in ["pty", "", "file", "stdio:", "off:x"] {
            let refusal = serial(text).unwrap_err();
            assert!(refusal.contains("stdio, off or file:PATH"), "{text}");
        }
    }
}
