//! placeholder
use crate::error::Result;
use crate::workspace::Workspace;
pub fn run() -> Result<()> {
    Ok(())
}
pub fn check(_: &Workspace) -> Result<()> {
    Ok(())
}
