//! The parser: from the tokens of one message to a value, with QEMU's error for each fault.
//!
//! The first fault wins. Nesting costs no stack: the containers that are open stand in a list,
//! which the framer keeps short ([`crate::framer::MAX_NESTING`]).

use std::mem::take;

use serde_json::{Map, Value};

use super::JsonError;
use super::object::from_text;
use super::utf8::{character, decode, decode_lossy};
use crate::framer::Token;
use crate::lexer::TokenKind;

/// Parses the tokens of one message. `text` holds the bytes of the tokens, end to end.
///
/// # Errors
///
/// The first fault in the message.
pub fn parse(tokens: &[Token], text: &[u8]) -> Result<Value, JsonError> {
    let mut tokens = Tokens {
        left: tokens.iter(),
        text,
        start: 0,
    };
    let mut open = Vec::new();
    read(&mut tokens, &mut open).map_err(|fault| {
        // Duplicate keys show when an object ends. In one that has not, they came before `fault`.
        let mut duplicates = open.into_iter().filter_map(|container| match container {
            Container::Array(_) => None,
            Container::Object { members, .. } => from_text(members).err(),
        });
        duplicates.next().unwrap_or(fault)
    })
}

/// Reads one value. `open` gets the containers whose end is not reached, the innermost last.
fn read(tokens: &mut Tokens, open: &mut Vec<Container>) -> Result<Value, JsonError> {
    'next: loop {
        let (kind, bytes) = tokens.pop()?;
        let mut value = match kind {
            TokenKind::LeftBrace if tokens.pop_if(TokenKind::RightBrace) => Map::new().into(),
            TokenKind::LeftBrace => {
                let (members, key) = (Vec::new(), None);
                open.push(Container::Object { members, key });
                continue;
            }
            TokenKind::LeftBracket if tokens.pop_if(TokenKind::RightBracket) => {
                Value::Array(Vec::new())
            }
            TokenKind::LeftBracket => {
                open.push(Container::Array(Vec::new()));
                continue;
            }
            TokenKind::String => Value::String(string(bytes)?),
            TokenKind::Integer => integer(bytes),
            TokenKind::Float => float(bytes),
            TokenKind::Keyword => keyword(bytes)?,
            TokenKind::RightBrace
            | TokenKind::RightBracket
            | TokenKind::Comma
            | TokenKind::Colon => return Err(JsonError::ExpectingValue),
        };
        // The last value of a container completes that too.
        while let Some(container) = open.last_mut() {
            let Some(complete) = container.add(value, tokens)? else {
                continue 'next;
            };
            value = complete;
            open.pop();
        }
        return Ok(value);
    }
}

/// An array or object that is being read.
enum Container {
    Array(Vec<Value>),
    Object {
        members: Vec<(String, Value)>,
        /// The key of the member whose value is next.
        key: Option<String>,
    },
}

impl Container {
    /// Adds a value and takes the token behind it. The container as a value if that ends it.
    fn add(&mut self, value: Value, tokens: &mut Tokens) -> Result<Option<Value>, JsonError> {
        match self {
            Self::Array(elements) => {
                elements.push(value);
                match tokens.pop()?.0 {
                    TokenKind::Comma => Ok(None),
                    TokenKind::RightBracket => Ok(Some(take(elements).into())),
                    _ => Err(JsonError::SeparatorInList),
                }
            }
            Self::Object { members, key } => {
                let Some(name) = key.take() else {
                    *key = Some(member_key(value, tokens)?);
                    return Ok(None);
                };
                members.push((name, value));
                match tokens.pop()?.0 {
                    TokenKind::Comma => Ok(None),
                    TokenKind::RightBrace => Ok(Some(from_text(take(members))?)),
                    _ => Err(JsonError::SeparatorInDict),
                }
            }
        }
    }
}

/// The key that `value` is, once the colon behind it is taken.
fn member_key(value: Value, tokens: &mut Tokens) -> Result<String, JsonError> {
    let Value::String(key) = value else {
        return Err(JsonError::KeyNotString);
    };
    match tokens.pop()?.0 {
        TokenKind::Colon => Ok(key),
        _ => Err(JsonError::MissingColon),
    }
}

/// The tokens that are left.
struct Tokens<'a> {
    left: std::slice::Iter<'a, Token>,
    text: &'a [u8],
    /// Where in `text` the next token starts.
    start: usize,
}

impl<'a> Tokens<'a> {
    fn pop(&mut self) -> Result<(TokenKind, &'a [u8]), JsonError> {
        let token = self.left.next().ok_or(JsonError::PrematureEnd)?;
        let bytes = self.text.get(self.start..token.end).unwrap_or_default();
        self.start = token.end;
        Ok((token.kind, bytes))
    }

    /// Takes the next token if it is of this kind.
    fn pop_if(&mut self, kind: TokenKind) -> bool {
        let next = self.left.as_slice().first();
        next.is_some_and(|next| next.kind == kind) && self.pop().is_ok()
    }
}

/// An integer becomes the first of i64, u64 and double that holds it.
fn integer(bytes: &[u8]) -> Value {
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
        let plain = rest
            .iter()
            .position(|&b| b == b'\\' || !b.is_ascii())
            .unwrap_or(rest.len());
        if plain > 0 {
            let ascii = std::str::from_utf8(&rest[..plain]).map_err(|_| JsonError::InvalidUtf8)?;
            text.push_str(ascii);
            at += plain;
        } else if rest[0] == b'\\' {
            // The closing quote is in reach of a broken \u escape, which quotes it in its error.
            let (c, len) = escape(&token[1 + at..])?;
            text.push(c);
            at += len;
        } else {
            let (c, len) = decode(rest);
            text.push(c.ok_or(JsonError::InvalidUtf8)?);
            at += len;
        }
    }
    Ok(text)
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
    let pair = match (
        code_unit(rest),
        rest.get(UNICODE_ESCAPE_LEN..).and_then(code_unit),
    ) {
        (Some(high @ 0xD800..=0xDBFF), Some(low @ 0xDC00..=0xDFFF)) => Some((
            0x1_0000 + ((high & 0x3FF) << 10) + (low & 0x3FF),
            2 * UNICODE_ESCAPE_LEN,
        )),
        (Some(unit), _) => Some((unit, UNICODE_ESCAPE_LEN)),
        (None, _) => None,
    };
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
