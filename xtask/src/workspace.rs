//! Where things are: the source tree and the build directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, FileContext, Result};
use crate::process;

/// Paths of this source tree.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The root of the source tree.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
}

impl Workspace {
    /// Asks Cargo where the tree and its target directory are.
    ///
    /// # Errors
    ///
    /// When Cargo is missing or the tree is not a workspace.
    pub fn find() -> Result<Self> {
        let metadata = metadata(Path::new(env!("CARGO_MANIFEST_DIR")), &["--no-deps"])?;
        let path = |key: &str| {
            metadata[key].as_str().map(PathBuf::from).ok_or_else(|| {
                Error::Check(format!("`cargo metadata` does not say what the {key} is"))
            })
        };
        Ok(Self {
            root: path("workspace_root")?,
            target: path("target_directory")?,
        })
    }

    /// Where the Linux guests' files are kept from run to run; created when missing.
    ///
    /// # Errors
    ///
    /// When it cannot be created.
    pub fn linux(&self) -> Result<PathBuf> {
        let directory = self.target.join("linux");
        std::fs::create_dir_all(&directory).file("create", &directory)?;
        Ok(directory)
    }

    /// A Cargo command at the root of the tree.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(cargo_program());
        command.current_dir(&self.root);
        command
    }

    /// Builds the program of this package in the release profile, and says where it is.
    ///
    /// # Errors
    ///
    /// When the build fails.
    pub fn build_release_of(&self, package: &str) -> Result<PathBuf> {
        let arguments = ["build", "--quiet", "--release", "--package", package];
        process::run(self.cargo().args(arguments))?;
        Ok(self.target.join("release").join(package))
    }
}

/// What `cargo metadata` says about the package at `directory`.
///
/// # Errors
///
/// When Cargo fails or prints no JSON.
pub fn metadata(directory: &Path, arguments: &[&str]) -> Result<serde_json::Value> {
    let text = process::output(
        Command::new(cargo_program())
            .args(["metadata", "--format-version", "1"])
            .args(arguments)
            .current_dir(directory),
    )?;
    serde_json::from_str(&text).map_err(|source| Error::Json {
        what: "The output of `cargo metadata`",
        source,
    })
}

fn cargo_program() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
