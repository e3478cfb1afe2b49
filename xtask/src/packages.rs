//! Debian packages that a command needs: installed when that is possible, named otherwise.

use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::process;

/// A package and a file by which one sees that it is there.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// Its name in the Debian archive.
    pub name: &'static str,
    /// A program it brings, looked for on the search path.
    pub program: &'static str,
}

/// A static shell and tools, for the guests.
pub const BUSYBOX: Package = Package {
    name: "busybox-static",
    program: "busybox",
};
/// The outer machine of the nested set-up.
pub const QEMU: Package = Package {
    name: "qemu-system-x86",
    program: "qemu-system-x86_64",
};
/// Connects a terminal, or a script, to a socket: for the user of the interactive demo, and the
/// script for CI.
pub const SOCAT: Package = Package {
    name: "socat",
    program: "socat",
};
/// Links programs with musl.
pub const MUSL: Package = Package {
    name: "musl-tools",
    program: "musl-gcc",
};
/// Decompresses kernel modules, where the kernel package compresses them.
pub const XZ: Package = Package {
    name: "xz-utils",
    program: "xz",
};

/// Directory of apt's package lists.
const APT_LISTS: &str = "/var/lib/apt/lists";

/// Who may change the system's packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    Root,
    Sudo,
    None,
}

/// Makes sure that all of `packages` are installed.
///
/// # Errors
///
/// When one is missing and this user cannot install it (the error has the command to run), or when
/// the installation fails.
pub fn ensure(packages: &[Package]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|package| !process::is_on_path(package.program))
        .map(|package| package.name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    install_missing(&missing)
}

/// Installs packages of these names, of which the caller knows that one is missing.
///
/// # Errors
///
/// As [`ensure`].
pub fn install_missing(names: &[&str]) -> Result<()> {
    eprintln!("Installing {}", names.join(", "));
    update_lists_if_missing(names)?;
    install(names)
}

/// Makes sure that apt knows what the archive offers, as `apt-get download` needs too.
///
/// # Errors
///
/// When the lists are missing and cannot be fetched.
pub fn ensure_lists() -> Result<()> {
    update_lists_if_missing(&[])
}

/// Fetches apt's lists whether there are any or not: an old list names files that are gone.
///
/// # Errors
///
/// When this user may not, or the archive cannot be reached.
pub fn update_lists() -> Result<()> {
    eprintln!("Fetching the package lists (apt-get update)");
    match as_root("apt-get") {
        // A broken third-party source makes apt-get fail although Debian's own lists arrived:
        // what matters is whether the package is found afterwards.
        Some(mut command) => {
            let _ = process::output(command.args(["-q", "update"]));
            Ok(())
        }
        None => Err(Error::Packages {
            command: "sudo apt-get update".to_owned(),
        }),
    }
}

fn update_lists_if_missing(wanted: &[&str]) -> Result<()> {
    if have_lists(Path::new(APT_LISTS)) {
        return Ok(());
    }
    update_lists().map_err(|error| match error {
        Error::Packages { .. } if !wanted.is_empty() => Error::Packages {
            command: install_command_line(wanted),
        },
        other => other,
    })
}

/// Whether `directory` has a package list (not only apt's lock and empty directories).
fn have_lists(directory: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

fn install(names: &[&str]) -> Result<()> {
    let attempt = || {
        let mut command = as_root("apt-get").ok_or_else(|| Error::Packages {
            command: install_command_line(names),
        })?;
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
            .args(["-q", "-y", "--no-install-recommends", "install"])
            .args(names);
        process::output(&mut command).map(drop)
    };
    match attempt() {
        // Old lists name files that the archive no longer has: once more with fresh ones.
        Err(Error::Failed { .. }) => update_lists().and_then(|()| attempt()),
        result => result,
    }
}

fn install_command_line(names: &[&str]) -> String {
    format!(
        "sudo apt-get update && sudo apt-get install --no-install-recommends {}",
        names.join(" ")
    )
}

/// `program` run with the right to change packages, or `None` without that right.
fn as_root(program: &str) -> Option<Command> {
    match rights() {
        Rights::Root => Some(Command::new(program)),
        Rights::Sudo => {
            let mut command = Command::new("sudo");
            command.args(["-n", "DEBIAN_FRONTEND=noninteractive", program]);
            Some(command)
        }
        Rights::None => None,
    }
}

fn rights() -> Rights {
    if rustix::process::geteuid().is_root() {
        return Rights::Root;
    }
    match process::output(Command::new("sudo").args(["-n", "true"])) {
        Ok(_) => Rights::Sudo,
        Err(_) => Rights::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_missing_where_only_the_lock_is() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("lock"), "").unwrap();
        assert!(!have_lists(directory.path()));
    }

    #[test]
    fn lists_are_there_with_one_package_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("x_main_binary-amd64_Packages.lz4"),
            "",
        )
        .unwrap();
        assert!(have_lists(directory.path()));
    }

    #[test]
    fn command_line_to_paste_names_every_package() {
        let line = install_command_line(&["a", "b"]);
        assert!(line.ends_with("install --no-install-recommends a b"));
    }
}
