//! The serial console: the terminal, and what goes to and comes from the guest's serial port.

pub mod escape;
pub mod input;
pub mod output;
pub mod target;
pub mod terminal;
