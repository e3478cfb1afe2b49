//! `aerostat check`: whether a machine could be started, without starting it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use aerostat_vmm::BuildError;

use crate::cli::{Options, SerialArgument};
use crate::group::GroupError;
use crate::sockets;

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The machine could not be built.
    #[error(transparent)]
    Machine(#[from] BuildError),
    /// A socket is to have a group that is not there.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A file would be made in a directory that is not there.
    #[error("The directory of {} does not exist: --{option} cannot be made there", path.display())]
    NoDirectory {
        /// The option that names the file.
        option: &'static str,
        /// As the user gave it.
        path: PathBuf,
    },
    /// The configuration could not be printed.
    #[error("Cannot print the configuration")]
    Print(#[source] io::Error),
}

/// Checks what `options` name, and prints `file`, the same options as a configuration file.
///
/// # Errors
/// What would keep the machine from starting.
pub fn check(options: &Options, file: &str) -> Result<(), CheckError> {
    check_files(options)?;
    match io::stdout().lock().write_all(file.as_bytes()) {
        // A reader that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(CheckError::Print),
    }
}

/// Checks the files that `options` name: kernel and initrd can be loaded into such a machine, and
/// those to write have a directory.
///
/// # Errors
/// The first that would keep the machine from starting.
pub fn check_files(options: &Options) -> Result<(), CheckError> {
    aerostat_vmm::check(&options.machine())?;
    let consoles = options.serial.iter().filter_map(|console| match console {
        SerialArgument::Stdio => None,
        SerialArgument::File(path) => Some(("serial", path)),
    });
    for socket in &options.qmp {
        sockets::socket_options(socket, options.paused)?;
    }
    let sockets = options.qmp.iter().map(|socket| ("qmp", &socket.path));
    let logs = options.log_file.iter().map(|path| ("log-file", path));
    sockets
        .chain(consoles)
        .chain(logs)
        .try_for_each(|(option, path)| has_directory(option, path))
}

fn has_directory(option: &'static str, path: &Path) -> Result<(), CheckError> {
    let directory = std::path::absolute(path)
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned));
    if directory.is_some_and(|directory| directory.is_dir()) {
        return Ok(());
    }
    Err(CheckError::NoDirectory {
        option,
        path: path.to_owned(),
    })
}
