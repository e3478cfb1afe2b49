//! The serial console: the terminal, and what goes to and comes from the guest's serial port.
//!
//! The guest's output goes through a [`Console`] to every [`output`] there is, each of which has a
//! [`target`] of its own; the console also keeps the last lines and finds the expected text.

pub mod escape;
pub mod expectation;
pub mod input;
pub mod output;
mod printable;
pub mod target;
mod tee;
pub mod terminal;
mod transcript;

pub use tee::Console;
