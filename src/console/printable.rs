//! A guest's text made harmless for the terminal or log of whoever reads a message.
//!
//! Complete control sequences (CSI: colours, cursor movements) and operating system commands
//! (OSC: window titles, links) of ECMA-48 are removed. Other control characters are shown in the
//! terminal's notation (`^[`) or by their code (`\u{9b}`), and so are the marks of Unicode that
//! change the direction of the text around them or end its line. Tabs stay.

use std::fmt::Write;

/// `text` without anything that a terminal would obey.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = after_sequence(rest) {
            rest = after;
        } else {
            show(first, &mut shown);
            rest = &rest[first.len_utf8()..];
        }
    }
    shown
}

/// What comes after the complete sequence with which `text` begins, if it does.
fn after_sequence(text: &str) -> Option<&str> {
    if let Some(csi) = text.strip_prefix("\x1b[") {
        let parameters = |c| ('\x30'..='\x3f').contains(&c);
        let intermediates = |c| ('\x20'..='\x2f').contains(&c);
        let last = |c| ('\x40'..='\x7e').contains(&c);
        csi.trim_start_matches(parameters)
            .trim_start_matches(intermediates)
            .strip_prefix(last)
    } else if let Some(osc) = text.strip_prefix("\x1b]") {
        let terminator = &osc[osc.find(['\x07', '\x1b'])?..];
        terminator
            .strip_prefix('\x07')
            .or_else(|| terminator.strip_prefix("\x1b\\"))
    } else {
        None
    }
}

fn show(character: char, shown: &mut String) {
    match character {
        '\t' => shown.push('\t'),
        '\0'..='\x1f' | '\x7f' => {
            shown.push('^');
            // The terminal's notation: the character with bit 6 inverted.
            shown.push(char::from_u32(u32::from(character) ^ 0x40).unwrap_or('?'));
        }
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}' => {
            let _ = write!(shown, "{}", character.escape_unicode());
        }
        _ => shown.push(character),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_of_any_script_stays() {
        let text = "\tKernel panic – не syncing: 你好 e\u{301} \u{1f427}";
        assert_eq!(printable(text), text);
    }

    #[test]
    fn colours_and_cursor_movements_are_removed() {
        let systemd = "[\x1b[0;32m  OK  \x1b[0m] Reached\x1b[K target\x1b[?25h\x1b[1 q.";
        assert_eq!(printable(systemd), "[  OK  ] Reached target.");
    }

    #[test]
    fn titles_and_links_are_removed() {
        let text = "a\x1b]0;title\x07b\x1b]8;;http://x\x1b\\c";
        assert_eq!(printable(text), "abc");
    }

    #[test]
    fn incomplete_sequences_are_shown() {
        assert_eq!(printable("a\x1b[0;3"), "a^[[0;3");
        assert_eq!(printable("a\x1b]0;title"), "a^[]0;title");
        assert_eq!(printable("a\x1b]0;t\x1b[mb"), "a^[]0;tb");
        assert_eq!(printable("a\x1b"), "a^[");
    }

    #[test]
    fn other_control_characters_are_shown() {
        assert_eq!(printable("\0\x07\x08\x1bc\x7f"), "^@^G^H^[c^?");
        assert_eq!(printable("\u{9b}2J"), "\\u{9b}2J");
    }

    #[test]
    fn marks_that_turn_or_break_the_text_are_shown() {
        let text = "\u{202e}a\u{2066}b\u{2028}c";
        assert_eq!(printable(text), "\\u{202e}a\\u{2066}b\\u{2028}c");
    }

    proptest! {
        #[test]
        fn nothing_that_a_terminal_obeys_is_left(
            text in "(\x1b|\\[|\\]|0|;|m|\x07|\\\\|\\PC|\\p{Cc}){0,40}"
        ) {
            let shown = printable(&text);
            prop_assert!(!shown.contains(|c: char| c.is_control() && c != '\t'), "{shown:?}");
        }
    }
}
