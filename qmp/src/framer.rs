//! The framer: finds where one JSON text ends in a stream of bytes, in linear time however the
//! stream is split.
//!
//! A message ends when its brackets close; no newline is needed. Fidelity to QEMU is to the byte:
//! where a message ends, how it recovers from a fault, and that each lexical error costs exactly
//! one reply. Pure: no I/O, any thread.

use serde_json::Value;

use crate::json::{self, JsonError, Parser};
use crate::lexer::{self, Action, State, TokenKind};

/// How deep brackets may nest in one message.
pub const MAX_NESTING: i32 = 1024;
/// How many tokens one message may have.
pub const MAX_TOKENS: usize = 2 << 20;
/// The tokens of a message must have fewer bytes than this; white space does not count.
pub const MAX_TOKEN_BYTES: usize = 64 << 20;
/// What a token takes in the value that is being built, its text apart: at most that of an array
/// with one element, which has room for four, for each of its four tokens.
pub const BYTES_OF_TOKEN: usize = 96;

/// A buffer above this size is given back after the token that needed it.
const KEPT_BUFFER_BYTES: usize = 64 << 10;

/// Reads messages out of a byte stream.
///
/// ```
/// use aerostat_qmp::framer::Framer;
/// let mut framer = Framer::default();
/// let mut input: &[u8] = b"{\"a\": [";
/// assert!(framer.next_message(&mut input).is_none());
/// let mut input: &[u8] = b"]}{";
/// assert!(framer.next_message(&mut input).is_some());
/// assert_eq!(input, b"{");
/// ```
#[derive(Debug, Default)]
pub struct Framer {
    state: State,
    /// What came of the token being read, unless that began in the input at hand.
    partial: Vec<u8>,
    /// Bytes of the message's complete tokens.
    token_bytes: usize,
    /// How many tokens of the message are complete.
    tokens: usize,
    open_braces: i32,
    open_brackets: i32,
    parser: Parser,
}

impl Framer {
    /// How many bytes of memory the message takes at most that is not complete yet.
    pub fn held_bytes(&self) -> usize {
        self.partial.len() + self.token_bytes + self.tokens * BYTES_OF_TOKEN
    }

    /// Takes bytes from the front of `input` up to the end of the next message or fault. `None`
    /// when all of `input` is taken and neither has been reached.
    pub fn next_message(&mut self, input: &mut &[u8]) -> Option<Result<Value, JsonError>> {
        while !input.is_empty() {
            let outcome = if self.state == State::Start {
                self.take_token(input)
            } else {
                self.take_byte(input)
            };
            if outcome.is_some() {
                self.clear();
                return outcome;
            }
        }
        None
    }

    /// Takes a token that ends in `input`, in one piece, and the white space before it; anything
    /// else byte by byte.
    fn take_token(&mut self, input: &mut &[u8]) -> Option<Result<Value, JsonError>> {
        let bytes = &input[lexer::white_space_len(input)..];
        *input = bytes;
        // No more than one token may have, so that the limit strikes where QEMU's does.
        let reach = &bytes[..bytes.len().min(MAX_TOKEN_BYTES)];
        let Some((kind, len)) = lexer::whole_token(reach) else {
            return self.take_byte(input);
        };
        let (token, rest) = bytes.split_at(len);
        *input = rest;
        self.end_token(kind, token)
    }

    /// Takes what the first byte of `input` decides.
    fn take_byte(&mut self, input: &mut &[u8]) -> Option<Result<Value, JsonError>> {
        let (&byte, rest) = input.split_first()?;
        let action = lexer::step(self.state, byte);
        if !matches!(action, Action::EndBefore(_) | Action::Resume) {
            *input = rest;
        }
        match action {
            Action::Skip => None,
            Action::Resume => {
                self.state = State::Start;
                None
            }
            Action::Continue(state) => {
                self.partial.push(byte);
                self.state = state;
                self.take_plain_string(input);
                self.check_token_len()
            }
            Action::End(kind) => {
                self.partial.push(byte);
                self.end_partial(kind)
            }
            Action::EndBefore(kind) => self.end_partial(kind),
            Action::Error => {
                self.partial.push(byte);
                self.state = State::Recovery;
                Some(Err(JsonError::Stray(self.stray_text())))
            }
        }
    }

    /// Takes the content of a string in one piece, up to the next byte that matters to the lexer.
    fn take_plain_string(&mut self, input: &mut &[u8]) {
        let State::String(quote) = self.state else {
            return;
        };
        // One byte more than allowed, so that the limit strikes at the byte where QEMU's does.
        let room = (MAX_TOKEN_BYTES + 1).saturating_sub(self.partial.len());
        let reach = &input[..input.len().min(room)];
        let (plain, _) = reach.split_at(lexer::plain_string_len(reach, quote));
        self.partial.extend_from_slice(plain);
        *input = &input[plain.len()..];
    }

    /// The limit on a single token, which holds before the token has ended.
    fn check_token_len(&mut self) -> Option<Result<Value, JsonError>> {
        if self.partial.len() <= MAX_TOKEN_BYTES {
            return None;
        }
        self.state = State::Start;
        Some(Err(JsonError::TokenSizeLimit))
    }

    /// As [`Self::end_token`], for the token that came in pieces.
    fn end_partial(&mut self, kind: TokenKind) -> Option<Result<Value, JsonError>> {
        let mut token = std::mem::take(&mut self.partial);
        let outcome = self.end_token(kind, &token);
        if token.capacity() <= KEPT_BUFFER_BYTES {
            token.clear();
            self.partial = token;
        }
        outcome
    }

    /// Books a token that is complete, and gives the message if that completes it.
    fn end_token(&mut self, kind: TokenKind, token: &[u8]) -> Option<Result<Value, JsonError>> {
        self.state = State::Start;
        match kind {
            TokenKind::LeftBrace => self.open_braces += 1,
            TokenKind::RightBrace => self.open_braces -= 1,
            TokenKind::LeftBracket => self.open_brackets += 1,
            TokenKind::RightBracket => self.open_brackets -= 1,
            _ => {}
        }
        self.token_bytes += token.len();
        if self.token_bytes >= MAX_TOKEN_BYTES {
            return Some(Err(JsonError::TokenSizeLimit));
        }
        if self.tokens >= MAX_TOKENS {
            return Some(Err(JsonError::TokenCountLimit));
        }
        if self.open_braces + self.open_brackets > MAX_NESTING {
            return Some(Err(JsonError::NestingLimit));
        }
        self.tokens += 1;
        self.parser.take(kind, token);
        // Each kind is counted by itself: `{[}` is still open, `{]` is complete (and wrong).
        let open = self.open_braces > 0 || self.open_brackets > 0;
        let overclosed = self.open_braces < 0 || self.open_brackets < 0;
        if open && !overclosed {
            return None;
        }
        Some(self.parser.finish())
    }

    /// The broken token as QEMU quotes it: a C string, so it ends at a NUL.
    fn stray_text(&self) -> String {
        let shown = self.partial.split(|&byte| byte == 0).next();
        json::decode_lossy(shown.unwrap_or_default())
    }

    /// Forgets the message, but not the lexer's state.
    fn clear(&mut self) {
        self.partial.clear();
        self.partial.shrink_to(KEPT_BUFFER_BYTES);
        self.token_bytes = 0;
        self.tokens = 0;
        self.open_braces = 0;
        self.open_brackets = 0;
        self.parser.clear();
    }
}

#[cfg(test)]
mod tests;
