//! The limit for a server in another process: one that sends back what it gets, and does nothing
//! else. It waits as an event loop does.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::event::epoll;

use crate::error::{Error, FileContext, Result};

/// What the listener is known by to epoll; connections are known by their descriptors.
const LISTENER: u64 = u64::MAX;
/// As much as is read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Serves at `path` until the process is ended.
///
/// # Errors
///
/// When the system refuses a socket or its watching.
pub fn serve(path: &Path) -> Result<()> {
    let listener = UnixListener::bind(path).file("listen on", path)?;
    echo(&listener).map_err(|source| Error::System {
        action: "echo",
        source,
    })
}

fn echo(listener: &UnixListener) -> std::io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watch = |fd: BorrowedFd, key| {
        let data = epoll::EventData::new_u64(key);
        epoll::add(&epoll, fd, data, epoll::EventFlags::IN)
    };
    watch(listener.as_fd(), LISTENER)?;
    let mut connections = BTreeMap::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut events = Vec::with_capacity(64);
    loop {
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let key = event.data.u64();
            if key == LISTENER {
                let (connection, _) = listener.accept()?;
                let key = u64::try_from(connection.as_raw_fd()).unwrap_or(LISTENER);
                watch(connection.as_fd(), key)?;
                connections.insert(key, connection);
            } else if let Some(connection) = connections.get_mut(&key)
                && !send_back(connection, &mut buffer)?
            {
                connections.remove(&key);
            }
        }
    }
}

/// False when the peer has gone.
fn send_back(connection: &mut UnixStream, buffer: &mut [u8]) -> std::io::Result<bool> {
    let count = connection.read(buffer)?;
    connection.write_all(&buffer[..count])?;
    Ok(count > 0)
}
