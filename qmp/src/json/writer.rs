//! The writer: a value as QEMU prints it (QMP over a socket, not pretty).
//!
//! `", "` and `": "` separate, nothing pads brackets, the text is pure ASCII with upper-case
//! `\uXXXX` escapes, doubles have 17 significant digits.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Number, Value};

use super::utf8::is_noncharacter;

/// Appends the text of `value` to `out`.
///
/// ```
/// use aerostat_qmp::json::write;
/// let mut out = Vec::new();
/// write(&serde_json::json!({"id": "é"}), &mut out);
/// assert_eq!(out, br#"{"id": "\u00E9"}"#);
/// ```
pub fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_number(number, out),
        Value::String(text) => write_string(text, out),
        Value::Array(elements) => {
            out.push(b'[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.extend_from_slice(b", ");
                }
                write(element, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            for (index, (key, member)) in members.iter().enumerate() {
                if index > 0 {
                    out.extend_from_slice(b", ");
                }
                write_string(key, out);
                out.extend_from_slice(b": ");
                write(member, out);
            }
            out.push(b'}');
        }
    }
}

fn write_number(number: &Number, out: &mut Vec<u8>) {
    match number.as_f64() {
        Some(value) if number.is_f64() => out.extend_from_slice(double(value).as_bytes()),
        _ => {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "{number}");
        }
    }
}

/// Appends `text` as a quoted string.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.bytes().position(needs_escape) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        // `at` is on a character's border: bytes inside a character need escapes as well, and
        // the first byte of the character would have been found before them.
        let mut characters = rest[at..].chars();
        if let Some(c) = characters.next() {
            escape(c, out);
        }
        rest = characters.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}

fn needs_escape(byte: u8) -> bool {
    !(0x20..0x7F).contains(&byte) || byte == b'"' || byte == b'\\'
}

const HEX_DIGITS: [u8; 16] = *b"0123456789ABCDEF";

fn escape(c: char, out: &mut Vec<u8>) {
    let short = match c {
        '"' => b'"',
        '\\' => b'\\',
        '\u{8}' => b'b',
        '\u{C}' => b'f',
        '\n' => b'n',
        '\r' => b'r',
        '\t' => b't',
        _ => {
            let c = if is_noncharacter(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            };
            // By hand: a client can ask for tens of millions of them in one reply.
            for unit in c.encode_utf16(&mut [0; 2]) {
                let digit = |shift: u32| HEX_DIGITS[usize::from(*unit >> shift & 0xF)];
                out.extend_from_slice(b"\\u");
                out.extend_from_slice(&[digit(12), digit(8), digit(4), digit(0)]);
            }
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// A finite double as C's `%.17g` prints it.
fn double(number: f64) -> String {
    const DIGITS: i32 = 17;
    let scientific = format!("{number:.16e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..DIGITS).contains(&exponent) {
        let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or(0);
        let fixed = format!("{number:.decimals$}");
        return strip_zeros(&fixed).to_owned();
    }
    let mut text = strip_zeros(mantissa).to_owned();
    let sign = if exponent < 0 { '-' } else { '+' };
    // Writing to a String cannot fail.
    let _ = write!(text, "e{sign}{:02}", exponent.unsigned_abs());
    text
}

/// `text` without trailing zeros after the decimal point, and without a point that ends it.
fn strip_zeros(text: &str) -> &str {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(value: impl Into<Value>) -> String {
        let mut out = Vec::new();
        write(&value.into(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn separators_have_one_space_and_brackets_none() {
        let value = json!({"a": [null, true, {}, []], "b": 1});
        assert_eq!(text(value), r#"{"a": [null, true, {}, []], "b": 1}"#);
    }

    #[test]
    fn strings_are_ascii_with_upper_case_escapes() {
        assert_eq!(text("\"\\/\u{8}\u{c}\n\r\t"), r#""\"\\/\b\f\n\r\t""#);
        assert_eq!(
            text("a\u{0}\u{7f}é€😀z"),
            r#""a\u0000\u007F\u00E9\u20AC\uD83D\uDE00z""#
        );
        assert_eq!(text("\u{FFFE}"), r#""\uFFFD""#);
    }

    #[test]
    fn integers_keep_their_full_range() {
        assert_eq!(text(i64::MIN), "-9223372036854775808");
        assert_eq!(text(u64::MAX), "18446744073709551615");
    }

    #[test]
    fn doubles_have_17_significant_digits() {
        for (number, expected) in [
            (1.0, "1"),
            (0.1, "0.10000000000000001"),
            (1.5, "1.5"),
            (-0.0, "-0"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1e20, "1e+20"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (1e-300, "1e-300"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN, "-1.7976931348623157e+308"),
        ] {
            assert_eq!(text(number), expected);
        }
    }
}
