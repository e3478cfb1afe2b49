//! The listening socket and the file that names it.
//!
//! A path is taken over only from a server that is gone, and is removed only while it is ours. A
//! socket that is bound but does not listen yet looks like that of a dead server, and between the
//! look at a dead server's socket and its removal another server may have replaced it. So whoever
//! takes a path holds a [`PathLock`] on it until the socket listens.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use thiserror::Error;

use super::path_lock::PathLock;

/// The longest path of a Unix socket: `sun_path` has 108 bytes, one for the NUL.
pub const MAX_PATH_BYTES: usize = 107;

/// How many clients the kernel lets wait for the server to accept them.
const BACKLOG: i32 = 128;

/// How long to wait for another process that is just taking the path. That takes a millisecond or
/// so; the rest is for a host under load.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Why a socket cannot be had.
#[derive(Debug, Error)]
pub enum BindError {
    /// The path does not fit in a socket address.
    #[error(
        "Socket path {path:?} has {len} bytes, {MAX_PATH_BYTES} are allowed: use a shorter path"
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
    },
    /// Another server listens there.
    #[error("Socket {path:?} is in use by another process: stop that one or use another path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// There is a file that is no socket.
    #[error("{path:?} exists and is not a socket: remove it or use another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Another process has not finished taking the path.
    #[error(
        "Socket {path:?} is being set up by another process, which has locked {lock:?}: \
         stop that one or use another path"
    )]
    Locked {
        /// The path.
        path: PathBuf,
        /// The file that is locked.
        lock: PathBuf,
    },
    /// The file cannot be had by which two servers keep from taking the path at once.
    #[error(
        "Cannot create {lock:?}, which locks socket {path:?}: check the path and its permissions"
    )]
    Lock {
        /// The path.
        path: PathBuf,
        /// The file.
        lock: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("Cannot {what} socket {path:?}: check the path and its permissions")]
    System {
        /// What was tried.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl BindError {
    /// For a system call on `path` that failed.
    fn system(what: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::System {
            what,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// For a lock on `path` that could not be had.
    fn lock(path: &Path, errno: Errno) -> Self {
        let path = path.to_owned();
        let lock = PathLock::file_of(&path);
        match errno {
            Errno::WOULDBLOCK => Self::Locked { path, lock },
            _ => Self::Lock {
                path,
                lock,
                source: errno.into(),
            },
        }
    }
}

/// A socket that listens at a path. Dropping it removes the file.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the file, by which it is recognised as ours.
    file: (u64, u64),
}

impl Listener {
    /// Listens at `path`. Only the owner can connect (mode 0600). A socket file that a dead
    /// server has left is replaced. Of servers that start at the same moment one gets the path.
    ///
    /// # Errors
    ///
    /// [`BindError`]; the file that is there stays as it is.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        Self::bind_within(path, LOCK_WAIT)
    }

    fn bind_within(path: &Path, lock_wait: Duration) -> Result<Self, BindError> {
        let len = path.as_os_str().as_bytes().len();
        if len > MAX_PATH_BYTES {
            return Err(BindError::PathTooLong {
                path: path.to_owned(),
                len,
            });
        }
        let address =
            SocketAddrUnix::new(path).map_err(|errno| BindError::system("use", path, errno))?;

        // First without the lock: where the path is taken, nothing is written beside it.
        inspect(path, &address)?;
        let _lock =
            PathLock::acquire(path, lock_wait).map_err(|errno| BindError::lock(path, errno))?;
        if inspect(path, &address)? == Occupant::Stale {
            log::info!("Replacing the socket {path:?}, whose server is gone");
            fs::remove_file(path).map_err(|error| BindError::system("replace", path, error))?;
        }
        Self::listen(path, &address)
    }

    fn listen(path: &Path, address: &SocketAddrUnix) -> Result<Self, BindError> {
        let socket = new_socket().map_err(|errno| BindError::system("create", path, errno))?;
        // Before bind, which gives the file the mode of the socket: it is never open to others.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| BindError::system("set the mode of", path, errno))?;
        bind(&socket, address).map_err(|errno| match errno {
            Errno::ADDRINUSE => BindError::InUse {
                path: path.to_owned(),
            },
            _ => BindError::system("bind", path, errno),
        })?;
        let metadata = fs::symlink_metadata(path)
            .map_err(|error| BindError::system("inspect", path, error))?;
        let listener = Self {
            socket,
            path: path.to_owned(),
            file: (metadata.dev(), metadata.ino()),
        };
        listen(&listener.socket, BACKLOG)
            .map_err(|errno| BindError::system("listen on", path, errno))?;
        Ok(listener)
    }

    /// Accepts one client; its socket does not block.
    ///
    /// # Errors
    ///
    /// That of `accept4`, `AGAIN` when nobody waits.
    pub(super) fn accept(&self) -> Result<OwnedFd, Errno> {
        accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if ours {
            // Nobody is left to tell if this fails, and the next server replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// What is at a path that a server may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupant {
    /// Nothing.
    None,
    /// A socket whose server is gone, or does not listen yet.
    Stale,
}

/// Looks what is at `path`.
///
/// # Errors
///
/// What must stay there.
fn inspect(path: &Path, address: &SocketAddrUnix) -> Result<Occupant, BindError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Occupant::None),
        Err(error) => return Err(BindError::system("inspect", path, error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket {
            path: path.to_owned(),
        });
    }
    let probe = new_socket().map_err(|errno| BindError::system("create", path, errno))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => Ok(Occupant::Stale),
        Err(Errno::NOENT) => Ok(Occupant::None),
        // AGAIN: a server is there whose backlog is full. PROTOTYPE: a datagram socket.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(BindError::InUse {
            path: path.to_owned(),
        }),
        Err(errno) => Err(BindError::system("probe", path, errno)),
    }
}

#[cfg(test)]
mod tests;
