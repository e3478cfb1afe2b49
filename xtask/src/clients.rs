//! QEMU's Python clients for `tests/qmp_clients.rs`: a virtual environment below the target
//! directory, with what `resources/qmp-clients/requirements.txt` pins.
//!
//! It is made by the system's own Python: whatever else is first on the search path may lack
//! modules, and is not there on another machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, FileContext, Result};
use crate::harness::setup::CLIENTS_PYTHON_IN_TARGET;
use crate::packages;
use crate::process;
use crate::workspace::Workspace;

/// Debian's Python.
const SYSTEM_PYTHON: &str = "/usr/bin/python3";
/// Debian's packages for a Python that makes virtual environments.
const PACKAGES: &[&str] = &["python3", "python3-venv"];
/// What is to be installed, and the programs that use it.
const RESOURCES: &str = "resources/qmp-clients";
const REQUIREMENTS: &str = "requirements.txt";
/// Directories of Python's library that no client needs.
const UNUSED_LIBRARY: &[&str] = &[
    "__pycache__",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "test",
];

/// Makes sure that the environment is there and up to date, and returns its Python.
///
/// # Errors
///
/// When it cannot be made: packages are missing that this user cannot install, or the clients
/// cannot be fetched.
pub fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let python = workspace.target.join(CLIENTS_PYTHON_IN_TARGET);
    let environment = environment_of(&python)?;
    let requirements = workspace.root.join(RESOURCES).join(REQUIREMENTS);
    let wanted = fs::read(&requirements).file("read", &requirements)?;
    // Written last, so that an environment that was not finished is made again.
    let installed = environment.join(REQUIREMENTS);
    let is_current = fs::read(&installed).is_ok_and(|installed| installed == wanted);
    if is_current && can_import(&python, "qemu.qmp") {
        return Ok(python);
    }
    if !can_import(Path::new(SYSTEM_PYTHON), "ensurepip, venv") {
        packages::install_missing(PACKAGES)?;
    }
    println!(
        "Installing QEMU's Python clients into {}",
        environment.display()
    );
    process::output(
        Command::new(SYSTEM_PYTHON)
            .args(["-m", "venv", "--clear"])
            .arg(&environment),
    )?;
    process::output(
        Command::new(&python)
            .args(["-m", "pip", "--disable-pip-version-check", "install"])
            .args(["--require-hashes", "--no-deps", "--only-binary", ":all:"])
            .arg("--requirement")
            .arg(&requirements),
    )?;
    fs::write(&installed, wanted).file("write", &installed)?;
    Ok(python)
}

/// What of this machine the clients need to run at the same paths in the outer machine: programs
/// and shared objects, and other files.
///
/// # Errors
///
/// When the files cannot be listed, or Python does not say where its library is.
pub fn files(workspace: &Workspace) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let python = workspace.target.join(CLIENTS_PYTHON_IN_TARGET);
    let environment = environment_of(&python)?;
    let ask = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    let library = process::output(Command::new(SYSTEM_PYTHON).args(["-c", ask]))?;
    let mut files = vec![environment.join("pyvenv.cfg")];
    for directory in [
        Path::new(library.trim()),
        &environment.join("lib"),
        &workspace.root.join(RESOURCES),
    ] {
        add_files(directory, &mut files)?;
    }
    let is_object = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "so");
    let (mut programs, files): (Vec<_>, Vec<_>) = files.into_iter().partition(is_object);
    programs.extend([python, SYSTEM_PYTHON.into()]);
    Ok((programs, files))
}

/// The environment that `python` belongs to: it is `bin/python` there.
fn environment_of(python: &Path) -> Result<PathBuf> {
    let environment = python.parent().and_then(Path::parent);
    environment.map(Path::to_owned).ok_or_else(|| {
        let shown = python.display();
        Error::Check(format!("{shown} is in no virtual environment"))
    })
}

fn can_import(python: &Path, modules: &str) -> bool {
    let import = format!("import {modules}");
    process::output(Command::new(python).args(["-c", &import])).is_ok()
}

/// Adds the files below `directory`, but for what no client needs.
fn add_files(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).file("read", directory)? {
        let path = entry.file("read", directory)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() {
            files.push(path);
        } else if path.is_dir() && !UNUSED_LIBRARY.contains(&name.as_ref()) {
            add_files(&path, files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_pinned_to_a_hash() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let requirements = root.join(RESOURCES).join(REQUIREMENTS);
        let text = fs::read_to_string(requirements).unwrap();
        let mut pins = text.lines().filter(|line| !line.starts_with('#'));
        assert!(pins.all(|pin| pin.contains("==") && pin.contains("--hash=sha256:")));
    }

    #[test]
    fn unused_part_of_the_library_is_left_out() {
        let library = tempfile::tempdir().unwrap();
        for directory in ["asyncio", "test"] {
            fs::create_dir(library.path().join(directory)).unwrap();
            fs::write(library.path().join(directory).join("a.py"), "").unwrap();
        }
        let mut files = Vec::new();
        add_files(library.path(), &mut files).unwrap();
        assert_eq!(files, [library.path().join("asyncio/a.py")]);
    }
}
