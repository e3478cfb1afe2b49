//! The last lines of the guest's output, for messages about how the machine ended.
//!
//! Bytes arrive one at a time on the vCPU thread and are kept as they are; what a hostile guest
//! may have put into them is made harmless when they are shown.

use std::collections::VecDeque;

use super::printable::printable;

/// Lines kept: the end of a kernel's panic.
const LINES: usize = 20;

/// Bytes kept of a line. All lines together take 16 KiB at most.
const LINE_BYTES: usize = 16 * 1024 / LINES;

/// Ends a line of which more was printed than is kept.
const CUT_MARK: char = '…';

#[derive(Clone, Default)]
struct Line {
    bytes: Vec<u8>,
    cut: bool,
}

impl Line {
    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        if self.cut {
            // The cut may have gone through a character.
            let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
            return printable(whole) + CUT_MARK.encode_utf8(&mut [0; 4]);
        }
        printable(&text)
    }
}

/// The last lines. Empty lines do not count, and carriage returns are dropped.
#[derive(Clone, Default)]
pub struct Transcript {
    lines: VecDeque<Line>,
    /// The newest line is complete: what comes next begins another.
    ended: bool,
}

impl Transcript {
    /// Takes the next byte. Allocates only for the first [`LINES`] lines.
    pub fn push(&mut self, byte: u8) {
        match byte {
            b'\r' => {}
            b'\n' => self.ended = true,
            _ => {
                let line = self.line();
                if line.bytes.len() < LINE_BYTES {
                    line.bytes.push(byte);
                } else {
                    line.cut = true;
                }
            }
        }
    }

    /// The line to which the next byte belongs.
    fn line(&mut self) -> &mut Line {
        let begins = std::mem::take(&mut self.ended) || self.lines.is_empty();
        if begins && self.lines.len() == LINES {
            self.lines.rotate_left(1);
            let line = &mut self.lines[LINES - 1];
            line.bytes.clear();
            line.cut = false;
        } else if begins {
            self.lines.push_back(Line {
                bytes: Vec::with_capacity(LINE_BYTES),
                cut: false,
            });
        }
        let newest = self.lines.len() - 1;
        &mut self.lines[newest]
    }

    /// The lines from the oldest on, separated by line feeds; empty when nothing was printed.
    #[must_use]
    pub fn text(&self) -> String {
        let lines = self.lines.iter().map(Line::text);
        let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_after(output: impl AsRef<[u8]>) -> String {
        let mut transcript = Transcript::default();
        for &byte in output.as_ref() {
            transcript.push(byte);
        }
        transcript.text()
    }

    #[test]
    fn nothing_printed_is_nothing() {
        assert_eq!(text_after(""), "");
    }

    #[test]
    fn complete_and_incomplete_lines_are_kept() {
        assert_eq!(text_after("one\r\ntwo\r\nlogin: "), "one\ntwo\nlogin: ");
        assert_eq!(text_after("one\r\ntwo\r\n"), "one\ntwo");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let output: String = (0..=LINES).map(|line| format!("line {line}\n")).collect();
        let text = text_after(&output);
        assert_eq!(text.lines().count(), LINES);
        assert!(text.starts_with("line 1\n") && text.ends_with("line 20"));
    }

    #[test]
    fn empty_lines_push_nothing_out() {
        let output = "panic\r\n".to_owned() + &"\r\n\x1b[0m".repeat(LINES - 1);
        assert_eq!(text_after(output), "panic");
    }

    #[test]
    fn endless_line_is_cut_and_marked() {
        let text = text_after("first\n".to_owned() + &"x".repeat(LINE_BYTES + 1) + "\nlast");
        assert_eq!(text, format!("first\n{}…\nlast", "x".repeat(LINE_BYTES)));
    }

    #[test]
    fn line_of_just_the_limit_is_whole() {
        let line = "x".repeat(LINE_BYTES);
        assert_eq!(text_after(&line), line);
    }

    #[test]
    fn line_is_cut_between_characters() {
        let text = text_after("x".repeat(LINE_BYTES - 1) + "éx");
        assert_eq!(text, "x".repeat(LINE_BYTES - 1) + "…");
    }

    #[test]
    fn line_after_a_cut_one_in_the_same_place_is_whole() {
        let long = "x".repeat(LINE_BYTES + 1) + "\n";
        let text = text_after(long + &"y\n".repeat(LINES));
        assert_eq!(text, ["y"; LINES].join("\n"));
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced() {
        assert_eq!(text_after(b"a\xff\x9bb"), "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn escape_sequences_of_the_guest_do_not_reach_the_reader() {
        assert_eq!(text_after("\x1b[2Jred\x1b[0m\x07\n"), "red^G");
    }
}
