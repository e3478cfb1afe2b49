//! One command of QMP, and what it returns.

use crate::connect::Session;
use crate::failure::Failure;
use crate::output::print;
use crate::request::Request;

/// Runs the command and prints what it returns.
///
/// # Errors
///
/// When the machine refuses, or does not answer in time.
pub fn run(session: &mut Session, request: Request) -> Result<(), Failure> {
    let Request { command, arguments } = request;
    let value = session.execute(&command, arguments)?;
    print(&format!("{value:#}"))
}
