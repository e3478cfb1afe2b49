//! Builds the test programs and learns from Cargo where they are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::job::TestProgram;
use crate::process;
use crate::workspace::Workspace;

/// What `cargo build --message-format=json` says about a finished target; other lines have another
/// reason.
#[derive(Debug, Deserialize)]
struct Artifact {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    executable: Option<PathBuf>,
    #[serde(default)]
    target: Target,
    #[serde(default)]
    profile: Profile,
}

#[derive(Debug, Default, Deserialize)]
struct Target {
    #[serde(default)]
    name: String,
}

#[derive(Debug, Default, Deserialize)]
struct Profile {
    #[serde(default)]
    test: bool,
}

/// Builds all test programs of the workspace.
///
/// # Errors
///
/// When they do not compile; the compiler has said why.
pub fn test_programs(workspace: &Workspace) -> Result<Vec<TestProgram>> {
    let mut command = workspace.cargo();
    command
        .args([
            "test",
            "--workspace",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ])
        .stderr(Stdio::inherit());
    let output = command.output().map_err(|source| Error::Start {
        command: process::describe(&command),
        source,
    })?;
    if !output.status.success() {
        return Err(Error::Failed {
            command: process::describe(&command),
            status: output.status,
            output: String::new(),
        });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| program(line, &workspace.root))
        .collect())
}

/// The test program that a line of Cargo's output announces.
fn program(line: &str, root: &Path) -> Option<TestProgram> {
    let artifact: Artifact = serde_json::from_str(line).ok()?;
    if artifact.reason != "compiler-artifact" || !artifact.profile.test {
        return None;
    }
    let directory = artifact.manifest_path.parent()?.to_owned();
    let package = package_name(&directory, root)?;
    let manifest = directory.to_string_lossy().into_owned();
    Some(TestProgram {
        name: artifact.target.name,
        package,
        path: artifact.executable?,
        directory,
        filters: Vec::new(),
        environment: vec![("CARGO_MANIFEST_DIR".to_owned(), manifest)],
    })
}

/// Packages are named for their directories: the root's `aerostat`, others `aerostat-NAME`.
fn package_name(directory: &Path, root: &Path) -> Option<String> {
    if directory == root {
        return Some("aerostat".to_owned());
    }
    let name = directory.file_name()?.to_string_lossy();
    Some(if name == "xtask" {
        name.into_owned()
    } else {
        format!("aerostat-{name}")
    })
}

/// How long a test program may take on this machine: one that hangs is named.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Runs a test program on this machine, as Cargo does.
///
/// # Errors
///
/// When a test fails.
pub fn run(program: &TestProgram) -> Result<()> {
    process::run_within(
        Command::new(&program.path)
            .args(&program.filters)
            .current_dir(&program.directory)
            .envs(
                program
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            ),
        LIMIT,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"reason":"compiler-artifact","package_id":"p","manifest_path":"/w/vmm/Cargo.toml","target":{"kind":["lib"],"name":"aerostat_vmm"},"profile":{"opt_level":"0","test":true},"executable":"/w/target/debug/deps/aerostat_vmm-1"}"#;

    #[test]
    fn test_artifact_is_a_program_of_its_package() {
        let program = program(LINE, Path::new("/w")).unwrap();
        assert_eq!(program.package, "aerostat-vmm");
        assert_eq!(program.directory, Path::new("/w/vmm"));
        assert_eq!(
            program.path,
            Path::new("/w/target/debug/deps/aerostat_vmm-1")
        );
    }

    #[test]
    fn library_without_tests_is_none() {
        let line = LINE.replace(r#""test":true"#, r#""test":false"#);
        assert_eq!(program(&line, Path::new("/w")), None);
    }

    #[test]
    fn other_lines_are_passed_over() {
        assert_eq!(
            program(
                r#"{"reason":"build-finished","success":true}"#,
                Path::new("/")
            ),
            None
        );
        assert_eq!(program("no JSON", Path::new("/")), None);
    }
}
