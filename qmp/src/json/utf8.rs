//! Modified UTF-8 as QEMU reads it: UTF-8 in which C0 80 stands for U+0000.
//!
//! Sequences that encode a surrogate, a noncharacter, more than U+10FFFF, or that are longer than
//! needed, are invalid. The length of an invalid sequence matters, since each one shows as a
//! single U+FFFD in an error text.

/// Whether Unicode reserves `c` for internal use (U+FDD0..U+FDEF and the last two of each plane).
pub(super) fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

/// The character with code point `code`, unless it is a surrogate, a noncharacter or too large.
pub(super) fn character(code: u32) -> Option<char> {
    char::from_u32(code).filter(|&c| !is_noncharacter(c))
}

/// Decodes the sequence at the start of `bytes`: its character, `None` if it is invalid, and how
/// many bytes it takes. Takes at least one byte unless `bytes` is empty.
///
/// ```
/// use aerostat_qmp::json::decode;
/// assert_eq!(decode("é!".as_bytes()), (Some('é'), 2));
/// assert_eq!(decode(b"\xC0\x80"), (Some('\0'), 2));
/// assert_eq!(decode(b"\xE2\x82!"), (None, 2));
/// ```
pub fn decode(bytes: &[u8]) -> (Option<char>, usize) {
    let Some(&first) = bytes.first() else {
        return (None, 0);
    };
    // The number of continuation bytes, the payload of the first byte and the smallest code
    // point that needs this length.
    let (expected, payload, smallest) = match first {
        0x00..=0x7F => return (Some(char::from(first)), 1),
        0xC0..=0xDF => (1, first & 0x1F, 0x80),
        0xE0..=0xEF => (2, first & 0x0F, 0x800),
        0xF0..=0xF7 => (3, first & 0x07, 0x1_0000),
        0xF8..=0xFB => (4, first & 0x03, 0x20_0000),
        0xFC..=0xFD => (5, first & 0x01, 0x400_0000),
        0x80..=0xBF | 0xFE..=0xFF => return (None, 1),
    };
    let continuation = bytes[1..]
        .iter()
        .take(expected)
        .take_while(|&&byte| byte & 0xC0 == 0x80);
    let (code, count) = continuation.fold((u32::from(payload), 0), |(code, count), &byte| {
        (code << 6 | u32::from(byte & 0x3F), count + 1)
    });
    let zero = expected == 1 && code == 0;
    let valid = count == expected && (code >= smallest || zero);
    (character(code).filter(|_| valid), 1 + count)
}

/// Decodes all of `bytes`, each invalid sequence as one U+FFFD.
pub fn decode_lossy(mut bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    while !bytes.is_empty() {
        let (character, len) = decode(bytes);
        text.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
        bytes = &bytes[len..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlong_surrogate_and_noncharacter_are_invalid_as_a_whole() {
        assert_eq!(decode(b"\xC1\xBF"), (None, 2));
        assert_eq!(decode(b"\xED\xA0\x80"), (None, 3));
        assert_eq!(decode(b"\xEF\xBF\xBE"), (None, 3));
        assert_eq!(decode(b"\xF4\x90\x80\x80"), (None, 4));
        assert_eq!(decode(b"\xFC\x80\x80\x80\x80\x80"), (None, 6));
    }

    #[test]
    fn every_valid_character_is_decoded() {
        for c in [
            '\u{7F}',
            '\u{80}',
            '\u{7FF}',
            '\u{800}',
            '\u{10000}',
            '\u{10FFFD}',
        ] {
            assert_eq!(decode(c.to_string().as_bytes()), (Some(c), c.len_utf8()));
        }
    }

    #[test]
    fn each_invalid_sequence_becomes_one_replacement() {
        assert_eq!(
            decode_lossy(b"a\xFF\xE2\x82b\x80\x80"),
            "a\u{FFFD}\u{FFFD}b\u{FFFD}\u{FFFD}"
        );
    }
}
