//! Sizes and times as users write them, on every command line of the project alike.
//!
//! Sizes are in bytes, with suffixes that are powers of 1024. Pure: texts and values, any thread.

mod size;
mod time;

pub use size::{ParseSizeError, Size, parse_size};
pub use time::{ParseTimeError, parse_time};
