//! Builds the program as users get it: in the release profile, statically linked, at an address of
//! chance. It starts sooner than what is linked when it starts, takes less memory, and runs on any
//! Linux.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::error::Result;
use crate::packages;
use crate::process;
use crate::workspace::Workspace;

/// Time for Rust's libraries to be fetched.
const FETCH_LIMIT: Duration = Duration::from_secs(180);

/// The C library that the program is linked with. The target is named for both, so that the flags are
/// for the program alone: the compiler's plug-ins cannot be static.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Library {
    /// Half of the memory, and a start that is a quarter of a millisecond sooner.
    Musl,
    /// What is there wherever Rust is.
    Glibc,
}

impl Library {
    /// The best that this machine can link with.
    fn best() -> Self {
        // The library for zstd needs the C compiler.
        if process::is_on_path(packages::MUSL.program) && has_standard_library(Self::Musl.target())
        {
            Self::Musl
        } else {
            Self::Glibc
        }
    }

    fn target(self) -> &'static str {
        match self {
            Self::Musl => "x86_64-unknown-linux-musl",
            Self::Glibc => "x86_64-unknown-linux-gnu",
        }
    }

    /// Flags for the compiler, as a value in Cargo's configuration.
    fn flags(self) -> &'static str {
        match self {
            // Static unless told otherwise. 840 bytes of relocations in place of 58 KiB: a tenth of a
            // millisecond of the start. musl has known the form since 1.2.4; linkers that do not
            // (binutils before 2.38) only warn. glibc has known it since 2.36, and would not start before.
            Self::Musl => r#"["-Clink-arg=-Wl,-z,pack-relative-relocs"]"#,
            Self::Glibc => r#"["-Ctarget-feature=+crt-static"]"#,
        }
    }
}

/// Whether Rust's own libraries are there for `target`.
fn has_standard_library(target: &str) -> bool {
    let mut compiler = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let directory =
        process::output(compiler.args(["--print", "target-libdir", "--target", target]));
    directory.is_ok_and(|path| PathBuf::from(path.trim_end()).is_dir())
}

/// Gets what it takes to link with the best library, if that can be had: what is measured is what users
/// download. Without it the program is linked with the other.
pub fn prepare() {
    if let Err(error) = packages::ensure(&[packages::MUSL]).and_then(|()| add_standard_library()) {
        eprintln!("There is no musl to link with: {}", crate::chain(&error));
    }
}

/// Fetches Rust's libraries for musl, unless they are there.
fn add_standard_library() -> Result<()> {
    let target = Library::Musl.target();
    if has_standard_library(target) {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    process::run_within(rustup.args(["target", "add", target]), FETCH_LIMIT)
}

/// Builds it, says what it is linked with, and where it is.
///
/// # Errors
///
/// When the build fails, as where the C library's static files are missing.
pub fn build(workspace: &Workspace) -> Result<PathBuf> {
    let library = Library::best();
    match library {
        Library::Musl => eprintln!("Linking with musl"),
        Library::Glibc => eprintln!(
            "Linking with glibc. With musl the program is smaller: `rustup target add {}`, and install \
             {} (Debian: {})",
            Library::Musl.target(),
            packages::MUSL.program,
            packages::MUSL.name
        ),
    }
    let target = library.target();
    let flags = format!("target.{target}.rustflags={}", library.flags());
    let mut cargo = workspace.cargo();
    cargo
        .args(["build", "--quiet", "--release", "--package", "aerostat"])
        .args(["--target", target, "--config", &flags]);
    process::run(&mut cargo)?;
    Ok(workspace.target.join(target).join("release/aerostat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_has_its_libraries_for_this_machine_and_not_for_a_made_up_one() {
        assert!(has_standard_library(Library::Glibc.target()));
        assert!(!has_standard_library("x86_64-unknown-nowhere"));
    }
}
