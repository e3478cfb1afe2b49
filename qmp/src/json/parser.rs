//! The parser: from the tokens of one message to a value, with QEMU's error for each fault.
//!
//! It takes each token as it comes, so that neither tokens nor text are kept. The first fault wins,
//! and ends the building of the value. Nesting costs no stack: the containers that are open stand
//! in a list, which the framer keeps short ([`crate::framer::MAX_NESTING`]).

use std::mem::take;

use serde_json::Value;

use super::JsonError;
use super::object::from_text;
use super::utf8::{character, decode, decode_lossy, is_noncharacter};
use crate::lexer::{TokenKind, count_leading};

/// What may come next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expected {
    /// The message's value.
    #[default]
    Value,
    /// An element of an array.
    Element,
    /// The first element of an array, or its end.
    ElementOrEnd,
    /// A comma in an array, or its end.
    ElementSeparator,
    /// The key of a member. Any value is read; that it is a string is checked once it is there.
    Key,
    /// The first key of an object, or its end.
    KeyOrEnd,
    /// What follows a key.
    Colon,
    /// The value of a member.
    Member,
    /// A comma in an object, or its end.
    MemberSeparator,
}

/// Builds the value of one message.
///
/// ```
/// use aerostat_qmp::json::Parser;
/// use aerostat_qmp::lexer::TokenKind;
/// let mut parser = Parser::default();
/// parser.take(TokenKind::LeftBracket, b"[");
/// parser.take(TokenKind::RightBracket, b"]");
/// assert_eq!(parser.finish(), Ok(serde_json::json!([])));
/// ```
#[derive(Debug, Default)]
pub struct Parser {
    expected: Expected,
    /// The innermost container that is open: its elements, if it is an array.
    elements: Vec<Value>,
    /// Its members, if it is an object.
    members: Vec<(String, Value)>,
    /// The key of the member whose value is next.
    key: String,
    /// The containers around it, the innermost last.
    around: Vec<Container>,
    /// The message's value or first fault, once it is known.
    outcome: Option<Result<Value, JsonError>>,
}

/// A container that waits for the end of one in it.
#[derive(Debug)]
enum Container {
    /// No container: the message.
    Message,
    Array(Vec<Value>),
    /// An object whose next key is being read.
    AtKey(Vec<(String, Value)>),
    /// An object of which the value for this key is being read.
    AtMember(Vec<(String, Value)>, String),
}

impl Parser {
    /// Takes the next token, which consists of `bytes`.
    #[inline]
    pub fn take(&mut self, kind: TokenKind, bytes: &[u8]) {
        // Nearly all of a long array of numbers.
        match (kind, self.expected) {
            (TokenKind::Comma, Expected::ElementSeparator) => self.expected = Expected::Element,
            (TokenKind::Integer, Expected::Element) => {
                self.elements.push(integer(bytes));
                self.expected = Expected::ElementSeparator;
            }
            _ => self.take_any(kind, bytes),
        }
    }

    fn take_any(&mut self, kind: TokenKind, bytes: &[u8]) {
        if self.outcome.is_none()
            && let Err(fault) = self.step(kind, bytes)
        {
            self.fail(fault);
        }
    }

    /// Ends the message, and is ready for the next.
    ///
    /// # Errors
    ///
    /// The first fault in the message.
    pub fn finish(&mut self) -> Result<Value, JsonError> {
        if self.outcome.is_none() {
            self.fail(JsonError::PrematureEnd);
        }
        let outcome = self.outcome.take();
        self.clear();
        outcome.unwrap_or(Err(JsonError::PrematureEnd))
    }

    /// Forgets the message.
    pub fn clear(&mut self) {
        self.expected = Expected::Value;
        self.elements = Vec::new();
        self.members = Vec::new();
        self.key = String::new();
        self.around.clear();
        self.outcome = None;
    }

    fn fail(&mut self, fault: JsonError) {
        // Duplicate keys show when an object ends. In one that has not, they came before `fault`.
        let around = self
            .around
            .drain(..)
            .filter_map(|container| match container {
                Container::Message | Container::Array(_) => None,
                Container::AtKey(members) | Container::AtMember(members, _) => Some(members),
            });
        let mut open = around.chain([take(&mut self.members)]);
        let first = open.find_map(|members| from_text(members).err());
        drop(open);
        self.clear();
        self.outcome = Some(Err(first.unwrap_or(fault)));
    }

    fn step(&mut self, kind: TokenKind, bytes: &[u8]) -> Result<(), JsonError> {
        use Expected::{
            Colon, Element, ElementOrEnd, ElementSeparator, Key, KeyOrEnd, Member, MemberSeparator,
        };
        self.expected = match (self.expected, kind) {
            (ElementOrEnd | ElementSeparator, TokenKind::RightBracket) => {
                let elements = take(&mut self.elements);
                return self.end_container(elements.into());
            }
            (KeyOrEnd | MemberSeparator, TokenKind::RightBrace) => {
                let members = take(&mut self.members);
                return self.end_container(from_text(members)?);
            }
            (ElementSeparator, TokenKind::Comma) => Element,
            (ElementSeparator, _) => return Err(JsonError::SeparatorInList),
            (MemberSeparator, TokenKind::Comma) => Key,
            (MemberSeparator, _) => return Err(JsonError::SeparatorInDict),
            (Colon, TokenKind::Colon) => Member,
            (Colon, _) => return Err(JsonError::MissingColon),
            (_, TokenKind::LeftBracket) => {
                self.begin_container();
                ElementOrEnd
            }
            (_, TokenKind::LeftBrace) => {
                self.begin_container();
                KeyOrEnd
            }
            (_, TokenKind::String) => {
                let string = string(bytes)?;
                return self.add_string(string);
            }
            (_, TokenKind::Integer) => return self.add(integer(bytes)),
            (_, TokenKind::Float) => return self.add(float(bytes)),
            (_, TokenKind::Keyword) => {
                let value = keyword(bytes)?;
                return self.add(value);
            }
            (
                _,
                TokenKind::RightBrace
                | TokenKind::RightBracket
                | TokenKind::Comma
                | TokenKind::Colon,
            ) => return Err(JsonError::ExpectingValue),
        };
        Ok(())
    }

    fn add_string(&mut self, string: String) -> Result<(), JsonError> {
        match self.expected {
            Expected::Key | Expected::KeyOrEnd => {
                self.key = string;
                self.expected = Expected::Colon;
                Ok(())
            }
            _ => self.add(Value::String(string)),
        }
    }

    /// Adds a complete value, which is no key, to the container that is open.
    #[inline]
    fn add(&mut self, value: Value) -> Result<(), JsonError> {
        self.expected = match self.expected {
            Expected::Element | Expected::ElementOrEnd => {
                self.elements.push(value);
                Expected::ElementSeparator
            }
            Expected::Member => {
                self.members.push((take(&mut self.key), value));
                Expected::MemberSeparator
            }
            Expected::Key | Expected::KeyOrEnd => return Err(JsonError::KeyNotString),
            _ => {
                self.outcome = Some(Ok(value));
                Expected::Value
            }
        };
        Ok(())
    }

    /// Puts the open container aside for one that begins in it.
    fn begin_container(&mut self) {
        let (elements, members) = (&mut self.elements, &mut self.members);
        self.around.push(match self.expected {
            Expected::Element | Expected::ElementOrEnd => Container::Array(take(elements)),
            Expected::Key | Expected::KeyOrEnd => Container::AtKey(take(members)),
            Expected::Member => Container::AtMember(take(members), take(&mut self.key)),
            _ => Container::Message,
        });
    }

    /// Takes up the container that was put aside, and adds to it the one that has ended.
    fn end_container(&mut self, value: Value) -> Result<(), JsonError> {
        self.expected = match self.around.pop() {
            Some(Container::Array(elements)) => {
                self.elements = elements;
                Expected::Element
            }
            Some(Container::AtKey(members)) => {
                self.members = members;
                Expected::Key
            }
            Some(Container::AtMember(members, key)) => {
                (self.members, self.key) = (members, key);
                Expected::Member
            }
            Some(Container::Message) | None => Expected::Value,
        };
        self.add(value)
    }
}

/// Decimal digits that surely fit an `i64`.
const SHORT_DIGITS: usize = 18;

/// An integer becomes the first of i64, u64 and double that holds it.
fn integer(bytes: &[u8]) -> Value {
    if bytes.len() <= SHORT_DIGITS && bytes.first() != Some(&b'-') {
        let digits = bytes.iter().map(|byte| i64::from(byte & 0xF));
        return digits.fold(0, |number, digit| number * 10 + digit).into();
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let int = text.parse::<i64>().map(Value::from);
    int.or_else(|_| text.parse::<u64>().map(Value::from))
        .unwrap_or_else(|_| float(bytes))
}

/// QEMU reads a number that overflows as an infinity and prints that as `inf`, which is not JSON.
/// Deliberately different here: the largest double of that sign stands for it.
fn float(bytes: &[u8]) -> Value {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let number: f64 = text.parse().unwrap_or_default();
    number.clamp(f64::MIN, f64::MAX).into()
}

fn keyword(bytes: &[u8]) -> Result<Value, JsonError> {
    match bytes {
        b"null" => Ok(Value::Null),
        b"true" => Ok(Value::Bool(true)),
        b"false" => Ok(Value::Bool(false)),
        _ => Err(JsonError::InvalidKeyword(decode_lossy(bytes))),
    }
}

/// The characters of a string token, its quotes included in `token`.
fn string(token: &[u8]) -> Result<String, JsonError> {
    let end = token.len().saturating_sub(1);
    let body = token.get(1..end).unwrap_or_default();
    let mut text = String::with_capacity(body.len());
    let mut at = 0;
    while at < body.len() {
        let rest = &body[at..];
        let literal = count_leading(rest, |&byte| byte != b'\\');
        if literal > 0 {
            push_literal(&rest[..literal], &mut text)?;
            at += literal;
        } else {
            // The closing quote is in reach of a broken \u escape, which quotes it in its error.
            let (c, len) = escape(&token[1 + at..])?;
            text.push(c);
            at += len;
        }
    }
    Ok(text)
}

/// Appends what stands in a string without escapes.
fn push_literal(mut bytes: &[u8], text: &mut String) -> Result<(), JsonError> {
    if let Ok(utf8) = std::str::from_utf8(bytes)
        && (utf8.is_ascii() || !utf8.chars().any(is_noncharacter))
    {
        text.push_str(utf8);
        return Ok(());
    }
    // U+0000 as C0 80, which is good, or something that is not.
    while !bytes.is_empty() {
        let (c, len) = decode(bytes);
        text.push(c.ok_or(JsonError::InvalidUtf8)?);
        bytes = &bytes[len..];
    }
    Ok(())
}

/// The character of the escape at the start of `rest`, and the length of the escape.
fn escape(rest: &[u8]) -> Result<(char, usize), JsonError> {
    let c = match rest.get(1) {
        Some(b'u') => return unicode_escape(rest),
        Some(&c @ (b'"' | b'\'' | b'\\' | b'/')) => char::from(c),
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{C}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        _ => return Err(JsonError::InvalidEscape),
    };
    Ok((c, 2))
}

/// Length of `\uXXXX`.
const UNICODE_ESCAPE_LEN: usize = 6;

fn unicode_escape(rest: &[u8]) -> Result<(char, usize), JsonError> {
    let pair = code_unit(rest).map(|unit| {
        let second = match unit {
            0xD800..=0xDBFF => rest.get(UNICODE_ESCAPE_LEN..).and_then(code_unit),
            _ => None,
        };
        match second {
            Some(low @ 0xDC00..=0xDFFF) => (
                0x1_0000 + ((unit & 0x3FF) << 10) + (low & 0x3FF),
                2 * UNICODE_ESCAPE_LEN,
            ),
            _ => (unit, UNICODE_ESCAPE_LEN),
        }
    });
    let decoded = pair.and_then(|(code, len)| Some((character(code)?, len)));
    decoded.ok_or_else(|| {
        let shown = pair
            .map_or(UNICODE_ESCAPE_LEN, |(_, len)| len)
            .min(rest.len());
        JsonError::InvalidUnicode(decode_lossy(&rest[..shown]))
    })
}

/// The code unit of a `\uXXXX` escape at the start of `bytes`.
fn code_unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |code, &digit| {
        Some(code << 4 | char::from(digit).to_digit(16)?)
    })
}
