//! QEMU's dialect of JSON: the parser behind the framer, and the writer of replies.
//!
//! Values are those of [`serde_json`]. Its reader and its writer cannot follow the dialect: single
//! quotes, the error texts that clients match, duplicate keys refused, C0 80 for U+0000 and 1024
//! levels of nesting; separators with a space, pure ASCII and doubles with 17 digits. The members
//! of each object stand in the order of QEMU's hash table. Pure: no I/O, any thread.

mod object;
mod parser;
mod utf8;
mod writer;

pub use object::{object, object_of};
pub use parser::Parser;
pub use utf8::{decode, decode_lossy};
pub use writer::write;
pub(crate) use writer::write_string;

use thiserror::Error;

/// What is wrong with a JSON text. The display text is what QEMU sends as `desc`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum JsonError {
    /// Lexical error: the bytes of the broken token, the offending one included.
    #[error("JSON parse error, stray '{0}'")]
    Stray(String),
    /// A closer or separator stands where a value or key must be.
    #[error("JSON parse error, expecting value")]
    ExpectingValue,
    /// Two members of an object without a comma between them.
    #[error("JSON parse error, expected separator in dict")]
    SeparatorInDict,
    /// Two elements of an array without a comma between them.
    #[error("JSON parse error, expected separator in list")]
    SeparatorInList,
    /// A key that no colon follows.
    #[error("JSON parse error, missing : in object pair")]
    MissingColon,
    /// A key of another type than string.
    #[error("JSON parse error, key is not a string in object")]
    KeyNotString,
    /// The same key twice in one object.
    #[error("JSON parse error, duplicate key")]
    DuplicateKey,
    /// A word other than true, false and null.
    #[error("JSON parse error, invalid keyword '{0}'")]
    InvalidKeyword(String),
    /// A backslash before a character that has no meaning there.
    #[error("JSON parse error, invalid escape sequence in string")]
    InvalidEscape,
    /// A `\u` escape that is no character: bad digits, lone surrogate, noncharacter.
    #[error("JSON parse error, {0} is not a valid Unicode character")]
    InvalidUnicode(String),
    /// Raw bytes in a string that are not (modified) UTF-8.
    #[error("JSON parse error, invalid UTF-8 sequence in string")]
    InvalidUtf8,
    /// The tokens end inside a value.
    #[error("JSON parse error, premature EOI")]
    PrematureEnd,
    /// More than [`crate::framer::MAX_NESTING`] open brackets.
    #[error("JSON nesting depth limit exceeded")]
    NestingLimit,
    /// More than [`crate::framer::MAX_TOKENS`] tokens in one message.
    #[error("JSON token count limit exceeded")]
    TokenCountLimit,
    /// More than [`crate::framer::MAX_TOKEN_BYTES`] bytes in the tokens of one message.
    #[error("JSON token size limit exceeded")]
    TokenSizeLimit,
}
