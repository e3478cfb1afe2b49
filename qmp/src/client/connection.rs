//! The socket of a client: messages out and in, each within a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde_json::Value;

use super::error::{ClientError, ConnectError, quote};
use crate::framer::Framer;

/// Until when something may take; `None` is for ever.
pub type Deadline = Option<Instant>;

/// Pause between two tries to connect while the server's queue is full.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes that are read at once; replies with the whole schema have some 200 KiB.
const READ_BYTES: usize = 64 << 10;

/// Connects to the socket at `path`.
///
/// # Errors
///
/// When nobody listens there, this user may not connect, or no place in the server's queue is free
/// before the deadline.
pub(super) fn open(path: &Path, deadline: Deadline) -> Result<UnixStream, ConnectError> {
    let at = || path.to_owned();
    let address = SocketAddrUnix::new(path).map_err(|errno| match errno {
        Errno::NAMETOOLONG => ConnectError::TooLong(at()),
        _ => system(path, errno),
    })?;
    // The queue of a server that serves one client at a time fills up, and `connect` would wait for
    // a place in it.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|errno| system(path, errno))?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => {
                return blocking(socket)
                    .map_err(|source| ConnectError::System { path: at(), source });
            }
            Err(Errno::AGAIN) if left(deadline) != Some(Duration::ZERO) => {
                thread::sleep(CONNECT_PAUSE);
            }
            Err(Errno::AGAIN) => return Err(ConnectError::Full(at())),
            Err(Errno::INTR) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(ConnectError::Missing(at())),
            Err(Errno::CONNREFUSED) if is_socket(path) => {
                return Err(ConnectError::NobodyListens(at()));
            }
            Err(Errno::CONNREFUSED) => return Err(ConnectError::NoSocket(at())),
            Err(Errno::ACCESS | Errno::PERM) => return Err(ConnectError::Permission(at())),
            Err(errno) => return Err(system(path, errno)),
        }
    }
}

fn system(path: &Path, errno: Errno) -> ConnectError {
    ConnectError::System {
        path: path.to_owned(),
        source: errno.into(),
    }
}

fn blocking(socket: OwnedFd) -> io::Result<UnixStream> {
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// The time that is left; `None` is for ever.
fn left(deadline: Deadline) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

/// A reader of messages.
#[derive(Debug)]
pub(super) struct MessageReader {
    stream: UnixStream,
    framer: Framer,
    /// Bytes that were read and not looked at.
    unread: Vec<u8>,
}

impl MessageReader {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            framer: Framer::default(),
            unread: Vec::new(),
        }
    }

    /// The next message; `None` if it is not there by the deadline. What has come of it is kept.
    ///
    /// # Errors
    ///
    /// When the server closed the connection, or sent what is no JSON.
    pub(super) fn next(&mut self, deadline: Deadline) -> Result<Option<Value>, ClientError> {
        loop {
            let mut input = self.unread.as_slice();
            let message = self.framer.next_message(&mut input);
            let taken = self.unread.len() - input.len();
            if let Some(message) = message {
                let message = message.map_err(|_| {
                    ClientError::NotQmp(quote(&String::from_utf8_lossy(&self.unread)))
                })?;
                self.unread.drain(..taken);
                return Ok(Some(message));
            }
            self.unread.clear();
            if !self.read(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Reads what is there; `false` if there is nothing by the deadline.
    fn read(&mut self, deadline: Deadline) -> Result<bool, ClientError> {
        let left = left(deadline);
        // A deadline that has passed still gets what is there already; the system takes no time-out
        // of zero.
        let left = left.map(|left| left.max(Duration::from_micros(1)));
        self.stream.set_read_timeout(left)?;
        let mut buffer = vec![0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(ClientError::Closed),
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(error) if is_time_up(&error) => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) if is_closed(&error) => Err(ClientError::Closed),
            Err(error) => Err(error.into()),
        }
    }
}

/// Writes all of `bytes`.
///
/// # Errors
///
/// When the server has closed the connection, or takes no bytes until the deadline.
pub(super) fn write(
    stream: &mut UnixStream,
    mut bytes: &[u8],
    deadline: Deadline,
) -> Result<(), ClientError> {
    while !bytes.is_empty() {
        let left = left(deadline).map(|left| left.max(Duration::from_micros(1)));
        stream.set_write_timeout(left)?;
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if is_time_up(&error) => {
                return Err(ClientError::Timeout("place for a request"));
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_closed(&error) => return Err(ClientError::Closed),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn is_time_up(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}
