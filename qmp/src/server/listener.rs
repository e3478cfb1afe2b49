//! The listening socket and the file that names it.
//!
//! The file is open to nobody but its owner until its group is set, and nobody can connect before it
//! has the mode that was asked for.
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

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, chmodat, chownat, fchmod, fstat, open,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};

use super::bind_error::BindError;
use super::path_lock::PathLock;

/// The longest path of a Unix socket: `sun_path` has 108 bytes, one for the NUL.
pub const MAX_PATH_BYTES: usize = 107;

/// How many clients the kernel lets wait for the server to accept them.
const BACKLOG: i32 = 128;

/// How long to wait for another process that is just taking the path. That takes a millisecond or
/// so; the rest is for a host under load.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// What a socket is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Where it is.
    pub path: PathBuf,
    /// Permissions of its file, 0 to 0o777, whatever the umask: who may write may connect.
    pub mode: u32,
    /// The group that its file is given to, if not the one that the system chooses.
    pub group: Option<SocketGroup>,
    /// The guest does not start before a client has negotiated on this socket.
    pub wait: bool,
}

impl SocketOptions {
    /// A socket at `path` to which only its owner can connect, and for which nobody waits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            mode: 0o600,
            group: None,
            wait: false,
        }
    }
}

/// A group of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketGroup {
    /// Its number.
    pub id: u32,
    /// How the user named it.
    pub name: String,
}

/// A socket that listens at a path. Dropping it removes the file.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    wait: bool,
    /// Device and inode of the file, by which it is recognised as ours.
    file: (u64, u64),
}

impl Listener {
    /// Listens as `options` say. A socket file that a dead server has left is replaced. Of servers
    /// that start at the same moment one gets the path.
    ///
    /// # Errors
    ///
    /// [`BindError`]; the file that is there stays as it is.
    pub fn bind(options: &SocketOptions) -> Result<Self, BindError> {
        Self::bind_within(options, LOCK_WAIT)
    }

    fn bind_within(options: &SocketOptions, lock_wait: Duration) -> Result<Self, BindError> {
        let path = options.path.as_path();
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
        Self::listen(options, &address)
    }

    fn listen(options: &SocketOptions, address: &SocketAddrUnix) -> Result<Self, BindError> {
        let path = options.path.as_path();
        let socket = new_socket().map_err(|errno| BindError::system("create", path, errno))?;
        // Before bind, which gives the file the mode of the socket: it is never open to others
        // than those it is meant for.
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
        // From here on the file goes when something fails.
        let listener = Self {
            socket,
            path: path.to_owned(),
            wait: options.wait,
            file: (metadata.dev(), metadata.ino()),
        };
        listener.admit(options)?;
        listen(&listener.socket, BACKLOG)
            .map_err(|errno| BindError::system("listen on", path, errno))?;
        Ok(listener)
    }

    /// Gives the file the group and the mode that `options` ask for, in this order: the group
    /// before must not get in for a moment.
    fn admit(&self, options: &SocketOptions) -> Result<(), BindError> {
        let path = self.path.as_path();
        // By a descriptor: whoever else may write in the directory could put a link to another
        // file at the path.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = open(path, flags, Mode::empty())
            .map_err(|errno| BindError::system("open", path, errno))?;
        let stat = fstat(&file).map_err(|errno| BindError::system("inspect", path, errno))?;
        let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
        if !is_socket || (stat.st_dev, stat.st_ino) != self.file {
            return Err(BindError::InUse {
                path: path.to_owned(),
            });
        }
        if let Some(group) = &options.group
            && group.id != stat.st_gid
        {
            let id = Some(Gid::from_raw(group.id));
            chownat(&file, "", None, id, AtFlags::EMPTY_PATH).map_err(|errno| {
                BindError::Group {
                    path: path.to_owned(),
                    group: group.name.clone(),
                    source: errno.into(),
                }
            })?;
        }
        let mode = Mode::from_raw_mode(options.mode & 0o777);
        if Mode::from_raw_mode(stat.st_mode) != mode {
            // A descriptor of this kind has no other way to its mode.
            let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
            chmodat(CWD, itself, mode, AtFlags::empty())
                .map_err(|errno| BindError::system("set the mode of", path, errno))?;
        }
        Ok(())
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the guest does not start before a client has negotiated here.
    pub fn waits(&self) -> bool {
        self.wait
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
