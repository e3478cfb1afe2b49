//! The balloon.

pub mod release;
