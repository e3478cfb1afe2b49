//! Builds `benches/floor.rs`, the least that KVM needs to run a guest, and learns where it is.

use std::path::PathBuf;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::process;
use crate::workspace::Workspace;

/// The package that it is in, alone: whatever is built of it is no part of the others.
const PACKAGE: &str = "aerostat-benches";
/// Static, at a fixed address: the file says what that saves.
const RUSTC: [&str; 4] = [
    "-C",
    "target-feature=+crt-static",
    "-C",
    "relocation-model=static",
];

/// What Cargo says of a finished target; of those that are no programs it names no executable.
#[derive(Debug, Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
}

/// Builds it in the release profile.
///
/// # Errors
///
/// When that fails, as where the C library's static files are missing.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = workspace.cargo();
    command
        .args(["rustc", "--quiet", "--release", "--package", PACKAGE])
        .args(["--bench", "floor"])
        .arg("--message-format=json-render-diagnostics")
        .arg("--")
        .args(RUSTC);
    let text = process::output(&mut command)?;
    text.lines().rev().find_map(executable).ok_or_else(|| {
        let command = process::describe(&command);
        Error::Check(format!("`{command}` does not say what it has built"))
    })
}

/// The program that a line of Cargo's output announces.
fn executable(line: &str) -> Option<PathBuf> {
    serde_json::from_str::<Artifact>(line).ok()?.executable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_the_artifact_with_an_executable() {
        let library = r#"{"reason":"compiler-artifact","executable":null}"#;
        let program = r#"{"reason":"compiler-artifact","executable":"/w/floor-1"}"#;
        let end = r#"{"reason":"build-finished","success":true}"#;
        let found: Vec<_> = [library, program, end, "no JSON"]
            .into_iter()
            .filter_map(executable)
            .collect();
        assert_eq!(found, [PathBuf::from("/w/floor-1")]);
    }
}
