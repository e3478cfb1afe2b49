//! The lexer's rules: which byte continues, ends or breaks a token. One byte at a time, no memory
//! but the [`State`], so that input can be split anywhere.
//!
//! After a broken token the lexer recovers: it skips until a byte that is likely to start afresh,
//! and lexes that byte again from [`State::Start`].

/// Kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// `{`
    LeftBrace,
    /// `}`
    RightBrace,
    /// `[`
    LeftBracket,
    /// `]`
    RightBracket,
    /// `,`
    Comma,
    /// `:`
    Colon,
    /// A number without fraction and exponent.
    Integer,
    /// Any other number.
    Float,
    /// A word of lower-case letters, not necessarily a known one.
    Keyword,
    /// A string with its quotes.
    String,
}

/// What the lexer is in the middle of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Between tokens.
    #[default]
    Start,
    /// Skipping what follows a lexical error.
    Recovery,
    /// In a string that ends with this quote.
    String(u8),
    /// Behind a backslash in a string that ends with this quote.
    Escape(u8),
    /// Behind a `-`.
    Sign,
    /// Behind a leading `0`.
    Zero,
    /// In the digits before the point.
    Digits,
    /// Behind the point.
    Point,
    /// In the digits after the point.
    Fraction,
    /// Behind `e` or `E`.
    Exponent,
    /// Behind the sign of the exponent.
    ExponentSign,
    /// In the digits of the exponent.
    ExponentDigits,
    /// In a word.
    Keyword,
}

/// What a byte does to the token being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// White space, or skipped in recovery: belongs to no token.
    Skip,
    /// Belongs to the token, which goes on in this state.
    Continue(State),
    /// Is the last byte of a token.
    End(TokenKind),
    /// Comes behind a token that is complete, and is to be lexed again from the start.
    EndBefore(TokenKind),
    /// Cannot stand here. It is part of the broken token.
    Error,
    /// Ends the recovery, and is to be lexed again from the start.
    Resume,
}

/// Whether `byte` may stand in a string as it is (the quote and the backslash apart).
fn is_string_byte(byte: u8) -> bool {
    (0x20..=0xFD).contains(&byte)
}

/// How many bytes at the start of `bytes` are plain content of a string that ends with `quote`.
pub fn plain_string_len(bytes: &[u8], quote: u8) -> usize {
    let plain = |&byte: &u8| is_string_byte(byte) & (byte != quote) & (byte != b'\\');
    count_leading(bytes, plain)
}

/// How many bytes at the start of `bytes` satisfy `fits`. `fits` must not branch: past the first
/// few bytes, blocks are looked at as a whole, which the compiler turns into vector instructions.
#[inline]
pub(crate) fn count_leading(bytes: &[u8], fits: impl Fn(&u8) -> bool) -> usize {
    const FIRST: usize = 16;
    const BLOCK: usize = 32;
    let misfit = |bytes: &[u8]| bytes.iter().position(|byte| !fits(byte));
    let mut len = bytes.len().min(FIRST);
    if let Some(at) = misfit(&bytes[..len]) {
        return at;
    }
    while let Some(block) = bytes.get(len..len + BLOCK) {
        if !block.iter().fold(true, |all, byte| all & fits(byte)) {
            break;
        }
        len += BLOCK;
    }
    let rest = &bytes[len..];
    len + misfit(rest).unwrap_or(rest.len())
}

/// The token at the start of `bytes`, and its length, if it starts and ends there. `None` does not
/// mean that `bytes` are broken: [`step`] tells, byte by byte, and agrees with this.
///
/// ```
/// use aerostat_qmp::lexer::{TokenKind, whole_token};
/// assert_eq!(whole_token(b"12,"), Some((TokenKind::Integer, 2)));
/// assert_eq!(whole_token(b"12"), None);
/// ```
#[inline]
pub fn whole_token(bytes: &[u8]) -> Option<(TokenKind, usize)> {
    let first = *bytes.first()?;
    match first {
        b',' => Some((TokenKind::Comma, 1)),
        b':' => Some((TokenKind::Colon, 1)),
        b'{' => Some((TokenKind::LeftBrace, 1)),
        b'}' => Some((TokenKind::RightBrace, 1)),
        b'[' => Some((TokenKind::LeftBracket, 1)),
        b']' => Some((TokenKind::RightBracket, 1)),
        b'1'..=b'9' => {
            let len = 1 + digits_len(&bytes[1..]);
            match bytes.get(len)? {
                b'.' | b'e' | b'E' => whole_token_by_steps(bytes),
                _ => Some((TokenKind::Integer, len)),
            }
        }
        b'"' | b'\'' => {
            let len = 1 + plain_string_len(&bytes[1..], first);
            match *bytes.get(len)? {
                quote if quote == first => Some((TokenKind::String, len + 1)),
                _ => whole_token_by_steps(bytes),
            }
        }
        _ => whole_token_by_steps(bytes),
    }
}

/// As [`whole_token`], for the less frequent kinds.
fn whole_token_by_steps(bytes: &[u8]) -> Option<(TokenKind, usize)> {
    let mut state = State::Start;
    let mut at = 0;
    loop {
        match step(state, *bytes.get(at)?) {
            Action::Continue(next) => {
                at += 1;
                state = next;
                match state {
                    State::String(quote) => at += plain_string_len(&bytes[at..], quote),
                    State::Digits => at += digits_len(&bytes[at..]),
                    _ => {}
                }
            }
            Action::End(kind) => return Some((kind, at + 1)),
            Action::EndBefore(kind) => return Some((kind, at)),
            Action::Skip | Action::Error | Action::Resume => return None,
        }
    }
}

fn digits_len(bytes: &[u8]) -> usize {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit());
    end.unwrap_or(bytes.len())
}

/// How many bytes at the start of `bytes` are white space between tokens.
pub fn white_space_len(bytes: &[u8]) -> usize {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    bytes
        .iter()
        .position(|byte| !is_space(byte))
        .unwrap_or(bytes.len())
}

/// The effect of `byte` in `state`.
#[inline]
pub fn step(state: State, byte: u8) -> Action {
    use Action::{Continue, End, EndBefore, Error, Resume, Skip};
    match (state, byte) {
        (State::Start, b' ' | b'\t' | b'\r' | b'\n') => Skip,
        (State::Start, b'{') => End(TokenKind::LeftBrace),
        (State::Start, b'}') => End(TokenKind::RightBrace),
        (State::Start, b'[') => End(TokenKind::LeftBracket),
        (State::Start, b']') => End(TokenKind::RightBracket),
        (State::Start, b',') => End(TokenKind::Comma),
        (State::Start, b':') => End(TokenKind::Colon),
        (State::Start, b'"' | b'\'') => Continue(State::String(byte)),
        (State::Start, b'-') => Continue(State::Sign),
        (State::Start, b'0') => Continue(State::Zero),
        (State::Start, b'1'..=b'9') => Continue(State::Digits),
        (State::Start, b'a'..=b'z') => Continue(State::Keyword),
        (State::Start, _) => Error,

        (State::Recovery, b'\t') => Skip,
        (State::Recovery, b'[' | b']' | b'{' | b'}' | b':' | b',') => Resume,
        (State::Recovery, 0x20..=0xFD) => Skip,
        (State::Recovery, _) => Resume,

        (State::String(quote), _) if byte == quote => End(TokenKind::String),
        (State::String(quote), b'\\') => Continue(State::Escape(quote)),
        (State::String(quote) | State::Escape(quote), _) if is_string_byte(byte) => {
            Continue(State::String(quote))
        }
        (State::String(_) | State::Escape(_), _) => Error,

        (State::Sign, b'0') => Continue(State::Zero),
        (State::Sign, b'1'..=b'9') => Continue(State::Digits),
        (State::Sign, _) => Error,
        (State::Zero, b'.') => Continue(State::Point),
        // No exponent here: QEMU reads `0e1` as `0`, the word `e`, and `1`.
        (State::Zero, b'0'..=b'9') => Error,
        (State::Zero, _) => EndBefore(TokenKind::Integer),
        (State::Digits, b'0'..=b'9') => Continue(State::Digits),
        (State::Digits, b'.') => Continue(State::Point),
        (State::Digits, b'e' | b'E') => Continue(State::Exponent),
        (State::Digits, _) => EndBefore(TokenKind::Integer),
        (State::Point | State::Fraction, b'0'..=b'9') => Continue(State::Fraction),
        (State::Point, _) => Error,
        (State::Fraction, b'e' | b'E') => Continue(State::Exponent),
        (State::Fraction, _) => EndBefore(TokenKind::Float),
        (State::Exponent, b'+' | b'-') => Continue(State::ExponentSign),
        (State::Exponent | State::ExponentSign | State::ExponentDigits, b'0'..=b'9') => {
            Continue(State::ExponentDigits)
        }
        (State::Exponent | State::ExponentSign, _) => Error,
        (State::ExponentDigits, _) => EndBefore(TokenKind::Float),

        (State::Keyword, b'a'..=b'z') => Continue(State::Keyword),
        (State::Keyword, _) => EndBefore(TokenKind::Keyword),
    }
}
