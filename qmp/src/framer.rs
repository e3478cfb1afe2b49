//! The framer: finds where one JSON text ends in a stream of bytes, in linear time however the
//! stream is split.
//!
//! A message ends when its brackets close; no newline is needed. Fidelity to QEMU is to the byte:
//! where a message ends, how it recovers from a fault, and that each lexical error costs exactly
//! one reply. Pure: no I/O, any thread.

use serde_json::Value;

use crate::json::{self, JsonError};
use crate::lexer::{self, Action, State, TokenKind};

/// How deep brackets may nest in one message.
pub const MAX_NESTING: i32 = 1024;
/// How many tokens one message may have.
pub const MAX_TOKENS: usize = 2 << 20;
/// The tokens of a message must have fewer bytes than this; white space does not count.
pub const MAX_TOKEN_BYTES: usize = 64 << 20;

/// Buffers above this size are given back after the message that needed them.
const KEPT_BUFFER_BYTES: usize = 64 << 10;

/// A token: its bytes end at `end` in the text of the message, and start where the token before
/// it ends.
#[derive(Clone, Copy, Debug)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Offset of the byte behind it.
    pub end: usize,
}

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
    /// The bytes of the message's tokens so far, end to end, and of the token being read.
    text: Vec<u8>,
    tokens: Vec<Token>,
    open_braces: i32,
    open_brackets: i32,
}

impl Framer {
    /// How many bytes of memory the message takes that is not complete yet.
    pub fn held_bytes(&self) -> usize {
        self.text.len() + self.tokens.len() * size_of::<Token>()
    }

    /// Takes bytes from the front of `input` up to the end of the next message or fault. `None`
    /// when all of `input` is taken and neither has been reached.
    pub fn next_message(&mut self, input: &mut &[u8]) -> Option<Result<Value, JsonError>> {
        while let Some((&byte, rest)) = input.split_first() {
            let action = lexer::step(self.state, byte);
            if !matches!(action, Action::EndBefore(_) | Action::Resume) {
                *input = rest;
            }
            let outcome = match action {
                Action::Skip => {
                    if self.state == State::Start {
                        *input = &input[lexer::white_space_len(input)..];
                    }
                    None
                }
                Action::Resume => {
                    self.state = State::Start;
                    None
                }
                Action::Continue(state) => {
                    self.text.push(byte);
                    self.state = state;
                    self.take_plain_string(input);
                    self.check_token_len()
                }
                Action::End(kind) => {
                    self.text.push(byte);
                    self.end_token(kind)
                }
                Action::EndBefore(kind) => self.end_token(kind),
                Action::Error => {
                    self.text.push(byte);
                    self.state = State::Recovery;
                    Some(Err(JsonError::Stray(self.stray_text())))
                }
            };
            if outcome.is_some() {
                self.clear();
                return outcome;
            }
        }
        None
    }

    /// Takes the content of a string in one piece, up to the next byte that matters to the lexer.
    fn take_plain_string(&mut self, input: &mut &[u8]) {
        let State::String(quote) = self.state else {
            return;
        };
        // One byte more than allowed, so that the limit strikes at the byte where QEMU's does.
        let room = (MAX_TOKEN_BYTES + 1).saturating_sub(self.token_len());
        let reach = &input[..input.len().min(room)];
        let (plain, _) = reach.split_at(lexer::plain_string_len(reach, quote));
        self.text.extend_from_slice(plain);
        *input = &input[plain.len()..];
    }

    fn token_start(&self) -> usize {
        self.tokens.last().map_or(0, |token| token.end)
    }

    fn token_len(&self) -> usize {
        self.text.len() - self.token_start()
    }

    /// The limit on a single token, which holds before the token has ended.
    fn check_token_len(&mut self) -> Option<Result<Value, JsonError>> {
        if self.token_len() <= MAX_TOKEN_BYTES {
            return None;
        }
        self.state = State::Start;
        Some(Err(JsonError::TokenSizeLimit))
    }

    /// Books a token that is complete, and gives the message if that completes it.
    fn end_token(&mut self, kind: TokenKind) -> Option<Result<Value, JsonError>> {
        self.state = State::Start;
        match kind {
            TokenKind::LeftBrace => self.open_braces += 1,
            TokenKind::RightBrace => self.open_braces -= 1,
            TokenKind::LeftBracket => self.open_brackets += 1,
            TokenKind::RightBracket => self.open_brackets -= 1,
            _ => {}
        }
        if self.text.len() >= MAX_TOKEN_BYTES {
            return Some(Err(JsonError::TokenSizeLimit));
        }
        if self.tokens.len() >= MAX_TOKENS {
            return Some(Err(JsonError::TokenCountLimit));
        }
        if self.open_braces + self.open_brackets > MAX_NESTING {
            return Some(Err(JsonError::NestingLimit));
        }
        let end = self.text.len();
        self.tokens.push(Token { kind, end });
        // Each kind is counted by itself: `{[}` is still open, `{]` is complete (and wrong).
        let open = self.open_braces > 0 || self.open_brackets > 0;
        let overclosed = self.open_braces < 0 || self.open_brackets < 0;
        if open && !overclosed {
            return None;
        }
        Some(json::parse(&self.tokens, &self.text))
    }

    /// The broken token as QEMU quotes it: a C string, so it ends at a NUL.
    fn stray_text(&self) -> String {
        let token = &self.text[self.token_start()..];
        let shown = token.split(|&byte| byte == 0).next().unwrap_or_default();
        json::decode_lossy(shown)
    }

    /// Forgets the message, but not the lexer's state.
    fn clear(&mut self) {
        self.tokens.clear();
        self.tokens
            .shrink_to(KEPT_BUFFER_BYTES / size_of::<Token>());
        self.text.clear();
        self.text.shrink_to(KEPT_BUFFER_BYTES);
        self.open_braces = 0;
        self.open_brackets = 0;
    }
}

#[cfg(test)]
mod tests;
