//! A text that the guest is expected to print, and how it is found in what arrives byte by byte.
//!
//! The bytes are compared as the guest sends them, escape sequences included, but for carriage
//! returns, which count neither in the text nor in the output: a line ends with `"\r\n"` on a
//! serial line, with `"\r\r\n"` where two layers translated it, and with `'\n'` in a text that
//! somebody writes.

use std::str::FromStr;

/// The text has no character to wait for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("write at least one character (carriage returns do not count)")]
pub struct EmptyText;

/// A text to wait for: not empty, and without carriage returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedText(Vec<u8>);

impl FromStr for ExpectedText {
    type Err = EmptyText;

    fn from_str(text: &str) -> Result<Self, EmptyText> {
        let bytes: Vec<_> = text.bytes().filter(|&byte| byte != b'\r').collect();
        if bytes.is_empty() {
            return Err(EmptyText);
        }
        Ok(Self(bytes))
    }
}

/// Finds a text in a stream (Knuth, Morris and Pratt): no byte is looked at again, and the time
/// for each is constant on average.
pub struct Matcher {
    text: Vec<u8>,
    /// For each beginning of the text, by its length less 1: how long the longest shorter
    /// beginning is with which it ends.
    borders: Vec<usize>,
    /// How much of the text the output ends with; always less than all.
    matched: usize,
}

impl Matcher {
    /// A matcher at the beginning of the output.
    #[must_use]
    pub fn new(text: &ExpectedText) -> Self {
        let text = text.0.clone();
        let mut borders = vec![0];
        for &byte in &text[1..] {
            let border = borders[borders.len() - 1];
            borders.push(advance(&text, &borders, border, byte));
        }
        Self {
            text,
            borders,
            matched: 0,
        }
    }

    /// Takes the next byte; whether it completes the text.
    pub fn push(&mut self, byte: u8) -> bool {
        if byte == b'\r' {
            return false;
        }
        self.matched = advance(&self.text, &self.borders, self.matched, byte);
        let complete = self.matched == self.text.len();
        if complete {
            self.matched = self.borders[self.matched - 1];
        }
        complete
    }
}

/// How much of `text` is matched once `byte` follows after `matched` bytes, which are not all.
fn advance(text: &[u8], borders: &[usize], mut matched: usize, byte: u8) -> usize {
    while matched > 0 && text[matched] != byte {
        matched = borders[matched - 1];
    }
    matched + usize::from(text[matched] == byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many bytes were printed each time that the text was complete.
    fn ends(text: &str, output: &str) -> Vec<usize> {
        let mut matcher = Matcher::new(&text.parse().unwrap());
        let bytes = output.bytes().enumerate();
        bytes
            .filter_map(|(at, byte)| matcher.push(byte).then_some(at + 1))
            .collect()
    }

    #[test]
    fn text_is_found_at_its_last_byte() {
        assert_eq!(ends("login:", "vm login: "), [9]);
    }

    #[test]
    fn text_of_one_byte_is_found() {
        assert_eq!(ends("#", "/ # #"), [3, 5]);
    }

    #[test]
    fn text_that_begins_within_a_false_start_is_found() {
        assert_eq!(ends("aab", "aaab"), [4]);
        assert_eq!(ends("abac", "ababac"), [6]);
    }

    #[test]
    fn line_feed_matches_every_kind_of_line_end() {
        assert_eq!(ends("a\nb", "a\nb"), [3]);
        assert_eq!(ends("a\nb", "a\r\nb"), [4]);
        assert_eq!(ends("a\nb", "a\r\r\nb"), [5]);
        assert_eq!(ends("a\r\nb", "a\nb"), [3]);
    }

    #[test]
    fn text_of_nothing_but_carriage_returns_is_refused() {
        assert_eq!("".parse::<ExpectedText>(), Err(EmptyText));
        assert_eq!("\r\r".parse::<ExpectedText>(), Err(EmptyText));
    }

    proptest! {
        #[test]
        fn text_is_found_where_a_naive_search_finds_it(
            text in "[ab\n]{1,7}",
            output in "[ab\n]{0,80}",
        ) {
            let naive: Vec<_> = (text.len()..=output.len())
                .filter(|&end| output[..end].ends_with(&text))
                .collect();
            prop_assert_eq!(ends(&text, &output), naive);
        }
    }
}
