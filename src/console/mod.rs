//! The serial console: the terminal, and what goes to and comes from the guest's serial port.

pub mod escape;
pub mod expectation;
pub mod input;
pub mod output;
mod printable;
pub mod target;
pub mod terminal;
mod transcript;
