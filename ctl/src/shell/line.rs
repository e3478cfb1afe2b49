//! A typed line: words, and what they ask for.
//!
//! Words end at white space outside of quotes and brackets; quotes and brackets count at the
//! beginning of a word or of a value, and within brackets.

use aerostat_qmp::client::Arguments;

use crate::request::{self, ArgumentsError, Request};

/// The command that ends the machine.
const QUIT: &str = "quit";

/// What a line asks for.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// Nothing: white space, or a comment.
    Empty,
    /// The commands, or one of them.
    Help(Option<String>),
    /// To leave the shell.
    Exit,
    /// A command.
    Command(Request),
    /// A whole request of QMP, as it is to be sent.
    Raw(Arguments),
}

impl Line {
    /// What `text` asks for.
    ///
    /// # Errors
    ///
    /// When it is neither a command with arguments nor JSON.
    pub fn parse(text: &str) -> Result<Self, ArgumentsError> {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            return Ok(Self::Empty);
        }
        if text.starts_with('{') {
            return request::object(text).map(Self::Raw);
        }
        let (command, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim_start();
        match (command, rest) {
            ("help", "") => return Ok(Self::Help(None)),
            ("help", command) => return Ok(Self::Help(Some(command.to_owned()))),
            ("exit", "") => return Ok(Self::Exit),
            _ => {}
        }
        if rest.starts_with('{') {
            return request::from_words(&[command, rest]).map(Self::Command);
        }
        let mut all = vec![command];
        all.extend(words(rest).into_iter().map(|word| word.text));
        request::from_words(&all).map(Self::Command)
    }
}

impl Line {
    /// Whether it ends the machine.
    pub fn is_quit(&self) -> bool {
        match self {
            Self::Command(request) => request.command == QUIT,
            Self::Raw(request) => request.get("execute").is_some_and(|name| name == QUIT),
            Self::Empty | Self::Help(_) | Self::Exit => false,
        }
    }
}

/// A word, and where it begins.
#[derive(Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// Offset of its first byte in the line.
    pub start: usize,
    /// The word with its quotes.
    pub text: &'a str,
}

/// The words of a line.
pub fn words(line: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = 0;
    while let Some(blank) = line[rest..].find(|c: char| !c.is_whitespace()) {
        let start = rest + blank;
        let end = start + word_length(&line[start..]);
        words.push(Word {
            start,
            text: &line[start..end],
        });
        rest = end;
    }
    words
}

/// Bytes of the word at the beginning of `text`; all of it if a quote or bracket stays open.
fn word_length(text: &str) -> usize {
    let mut depth = 0_u32;
    let mut quote = None;
    let mut is_escaped = false;
    let mut begins_value = true;
    for (at, c) in text.char_indices() {
        if let Some(mark) = quote {
            if is_escaped {
                is_escaped = false;
            } else if c == '\\' {
                is_escaped = true;
            } else if c == mark {
                quote = None;
            }
            continue;
        }
        match c {
            '"' | '\'' if begins_value || depth > 0 => quote = Some(c),
            '{' | '[' if begins_value || depth > 0 => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            c if c.is_whitespace() && depth == 0 => return at,
            _ => {}
        }
        begins_value = c == '=';
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn command(text: &str) -> (String, Value) {
        match Line::parse(text).unwrap() {
            Line::Command(request) => (request.command, request.arguments.into()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_end_outside_of_quotes_and_brackets() {
        let texts = |line| {
            words(line)
                .into_iter()
                .map(|word| word.text)
                .collect::<Vec<_>>()
        };
        assert_eq!(texts("a  b=1\tc"), ["a", "b=1", "c"]);
        assert_eq!(
            texts("a='x y' b=\"p \\\" q\""),
            ["a='x y'", "b=\"p \\\" q\""]
        );
        assert_eq!(texts("a={\"b\": [1, 2]} c=1"), ["a={\"b\": [1, 2]}", "c=1"]);
        assert_eq!(texts("name=it's here"), ["name=it's", "here"]);
        assert_eq!(texts("a={ \"open"), ["a={ \"open"]);
    }

    #[test]
    fn lines_are_told_apart() {
        assert_eq!(Line::parse("  ").unwrap(), Line::Empty);
        assert_eq!(Line::parse("# x").unwrap(), Line::Empty);
        assert_eq!(Line::parse("help").unwrap(), Line::Help(None));
        let help = Line::Help(Some("stop".to_owned()));
        assert_eq!(Line::parse("help stop").unwrap(), help);
        assert_eq!(Line::parse("exit").unwrap(), Line::Exit);
        let raw = Line::parse("{'execute': 'stop'}").unwrap();
        assert!(matches!(raw, Line::Raw(request) if request["execute"] == "stop"));
    }

    #[test]
    fn command_takes_words_or_an_object() {
        assert_eq!(command("stop"), ("stop".to_owned(), Value::Null));
        let balloon = ("balloon".to_owned(), json!({"value": 1}));
        assert_eq!(command("balloon value=1"), balloon);
        assert_eq!(command(" balloon  { \"value\" : 1 } "), balloon);
    }

    #[test]
    fn fault_has_its_place() {
        let error = Line::parse("balloon {\"value\": }").unwrap_err();
        assert!(error.to_string().contains("line 1 column 11"), "{error}");
        assert!(Line::parse("balloon 5x").is_err());
    }
}
