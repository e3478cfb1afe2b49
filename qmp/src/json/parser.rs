//! The parser: from the tokens of one message to a value, with QEMU's error for each fault.
//!
//! The first fault wins. Nesting is bounded by the framer ([`crate::framer::MAX_NESTING`]), so
//! recursion is bounded too.

use super::utf8::{character, decode, decode_lossy};
use super::value::ObjectBuilder;
use super::{JsonError, Value};
use crate::framer::Token;
use crate::lexer::TokenKind;

/// Parses the tokens of one message. `text` holds the bytes of the tokens, end to end.
///
/// # Errors
///
/// The first fault in the message.
pub fn parse(tokens: &[Token], text: &[u8]) -> Result<Value, JsonError> {
    Parser {
        tokens: tokens.iter(),
        text,
        start: 0,
    }
    .value()
}

struct Parser<'a> {
    tokens: std::slice::Iter<'a, Token>,
    text: &'a [u8],
    /// Where in `text` the next token starts.
    start: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Result<TokenKind, JsonError> {
        let token = self.tokens.as_slice().first();
        token.map(|token| token.kind).ok_or(JsonError::PrematureEnd)
    }

    fn pop(&mut self) -> Result<(TokenKind, &'a [u8]), JsonError> {
        let token = self.tokens.next().ok_or(JsonError::PrematureEnd)?;
        let bytes = self.text.get(self.start..token.end).unwrap_or_default();
        self.start = token.end;
        Ok((token.kind, bytes))
    }

    fn value(&mut self) -> Result<Value, JsonError> {
        let (kind, bytes) = self.pop()?;
        match kind {
            TokenKind::LeftBrace => self.object(),
            TokenKind::LeftBracket => self.array(),
            TokenKind::String => string(bytes).map(Value::String),
            TokenKind::Integer => Ok(integer(bytes)),
            TokenKind::Float => Ok(float(bytes)),
            TokenKind::Keyword => keyword(bytes),
            TokenKind::RightBrace
            | TokenKind::RightBracket
            | TokenKind::Comma
            | TokenKind::Colon => Err(JsonError::ExpectingValue),
        }
    }

    /// The rest of an object, its `{` already taken.
    fn object(&mut self) -> Result<Value, JsonError> {
        let mut object = ObjectBuilder::default();
        if self.peek()? != TokenKind::RightBrace {
            self.pair(&mut object)?;
            while self.peek()? != TokenKind::RightBrace {
                if self.pop()?.0 != TokenKind::Comma {
                    return Err(JsonError::SeparatorInDict);
                }
                self.pair(&mut object)?;
            }
        }
        self.pop()?;
        Ok(object.finish().into())
    }

    fn pair(&mut self, object: &mut ObjectBuilder) -> Result<(), JsonError> {
        let Value::String(key) = self.value()? else {
            return Err(JsonError::KeyNotString);
        };
        if self.pop()?.0 != TokenKind::Colon {
            return Err(JsonError::MissingColon);
        }
        let value = self.value()?;
        object
            .insert(key, value)
            .map_err(|_| JsonError::DuplicateKey)
    }

    /// The rest of an array, its `[` already taken.
    fn array(&mut self) -> Result<Value, JsonError> {
        let mut elements = Vec::new();
        if self.peek()? != TokenKind::RightBracket {
            elements.push(self.value()?);
            while self.peek()? != TokenKind::RightBracket {
                if self.pop()?.0 != TokenKind::Comma {
                    return Err(JsonError::SeparatorInList);
                }
                elements.push(self.value()?);
            }
        }
        self.pop()?;
        Ok(elements.into())
    }
}

/// An integer becomes the first of i64, u64 and double that holds it.
fn integer(bytes: &[u8]) -> Value {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let int = text.parse().map(Value::Int);
    int.or_else(|_| text.parse().map(Value::Uint))
        .unwrap_or_else(|_| float(bytes))
}

fn float(bytes: &[u8]) -> Value {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    Value::Double(text.parse().unwrap_or_default())
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
