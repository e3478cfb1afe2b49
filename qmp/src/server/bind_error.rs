//! Why a socket cannot be had, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use super::listener::MAX_PATH_BYTES;
use super::path_lock::PathLock;

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
    /// The file cannot be given to the group that was asked for.
    #[error(
        "Cannot give socket {path:?} to group {group}: only root may give it to a group that this \
         user is not in"
    )]
    Group {
        /// The path.
        path: PathBuf,
        /// The group, as the user named it.
        group: String,
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
    pub(super) fn system(what: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::System {
            what,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// For a lock on `path` that could not be had.
    pub(super) fn lock(path: &Path, errno: Errno) -> Self {
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
