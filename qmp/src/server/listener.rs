//! The listening socket and the file that names it.
//!
//! A path is taken over only from a server that is gone, and is removed only while it is ours.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use thiserror::Error;

/// The longest path of a Unix socket: `sun_path` has 108 bytes, one for the NUL.
pub const MAX_PATH_BYTES: usize = 107;

/// How many clients the kernel lets wait for the server to accept them.
const BACKLOG: i32 = 128;

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
    /// server has left is replaced.
    ///
    /// # Errors
    ///
    /// [`BindError`]; the file that is there stays as it is.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let len = path.as_os_str().as_bytes().len();
        if len > MAX_PATH_BYTES {
            return Err(BindError::PathTooLong {
                path: path.to_owned(),
                len,
            });
        }
        let failed = |what| {
            move |source: io::Error| BindError::System {
                what,
                path: path.to_owned(),
                source,
            }
        };
        let address =
            SocketAddrUnix::new(path).map_err(|errno| failed("use")(io::Error::from(errno)))?;
        remove_stale(path, &address)?;

        let socket = new_socket().map_err(failed("create"))?;
        // Before bind, which gives the file the mode of the socket: it is never open to others.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| failed("set the mode of")(errno.into()))?;
        bind(&socket, &address).map_err(|errno| match errno {
            Errno::ADDRINUSE => BindError::InUse {
                path: path.to_owned(),
            },
            _ => failed("bind")(errno.into()),
        })?;
        let metadata = fs::symlink_metadata(path).map_err(failed("inspect"))?;
        let file = (metadata.dev(), metadata.ino());
        let listener = Self {
            socket,
            path: path.to_owned(),
            file,
        };
        listen(&listener.socket, BACKLOG).map_err(|errno| failed("listen on")(errno.into()))?;
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

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// Makes room at `path` if a server that is gone has left its socket there.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), BindError> {
    let failed = |what| {
        move |source: io::Error| BindError::System {
            what,
            path: path.to_owned(),
            source,
        }
    };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("inspect")(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket {
            path: path.to_owned(),
        });
    }
    let probe = new_socket().map_err(failed("create"))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            log::info!("Replacing the socket {path:?}, whose server is gone");
            fs::remove_file(path).map_err(failed("replace"))
        }
        Err(Errno::NOENT) => Ok(()),
        // AGAIN: a server is there whose backlog is full. PROTOTYPE: a datagram socket.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(BindError::InUse {
            path: path.to_owned(),
        }),
        Err(errno) => Err(failed("probe")(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn file_has_mode_0600_and_goes_with_the_listener() {
        let dir = dir();
        let path = dir.path().join("qmp");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn stale_socket_is_replaced() {
        let dir = dir();
        let path = dir.path().join("qmp");
        drop(UnixListener::bind(&path).unwrap());
        Listener::bind(&path).unwrap();
    }

    #[test]
    fn live_server_keeps_its_socket() {
        let dir = dir();
        let path = dir.path().join("qmp");
        let _live = UnixListener::bind(&path).unwrap();
        let error = Listener::bind(&path).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn file_that_is_no_socket_is_left_alone() {
        let dir = dir();
        let path = dir.path().join("qmp");
        fs::write(&path, "precious").unwrap();
        let error = Listener::bind(&path).unwrap_err();
        assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn long_path_is_refused_with_length_and_limit() {
        let path = PathBuf::from("/tmp/".to_owned() + &"x".repeat(103));
        let error = Listener::bind(&path).unwrap_err().to_string();
        assert!(error.contains("has 108 bytes, 107 are allowed"), "{error}");
        let dir = dir();
        let room = MAX_PATH_BYTES - dir.path().as_os_str().len() - 1;
        Listener::bind(&dir.path().join("y".repeat(room))).unwrap();
    }

    #[test]
    fn file_of_a_successor_survives_the_drop() {
        let dir = dir();
        let path = dir.path().join("qmp");
        let listener = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
    }
}
