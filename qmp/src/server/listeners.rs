//! The listening sockets of a server, and which of them the guest's start waits for.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use event_manager::{EventOps, EventSet, Events};
use rustix::io::Errno;

use super::listener::Listener;
use crate::monitor::Monitor;

/// The listening sockets, each known by its descriptor.
#[derive(Debug)]
pub struct Listeners {
    all: Vec<Listener>,
    /// Those that the guest's start waits for: no client of theirs has negotiated yet.
    awaited: BTreeSet<RawFd>,
}

impl Listeners {
    /// These sockets. The guest's start waits for those that say so.
    pub fn new(all: Vec<Listener>) -> Self {
        let awaited = all.iter().filter(|listener| listener.waits());
        let awaited = awaited.map(AsRawFd::as_raw_fd).collect();
        Self { all, awaited }
    }

    /// What QEMU would call them.
    pub fn monitors(&self) -> Vec<Monitor> {
        let path = |listener: &Listener| listener.path().to_owned();
        let monitors = self.all.iter().map(|listener| Monitor {
            path: path(listener),
            clients: 0,
        });
        monitors.collect()
    }

    /// The descriptor of the socket with this index, as [`Self::monitors`] counts them.
    pub fn at(&self, index: usize) -> Option<RawFd> {
        self.all.get(index).map(AsRawFd::as_raw_fd)
    }

    /// The index of a socket.
    pub fn index_of(&self, fd: RawFd) -> Option<usize> {
        self.all
            .iter()
            .position(|listener| listener.as_raw_fd() == fd)
    }

    fn get(&self, fd: RawFd) -> Option<&Listener> {
        self.all.iter().find(|listener| listener.as_raw_fd() == fd)
    }

    /// Whether `fd` is one of them.
    pub fn contains(&self, fd: RawFd) -> bool {
        self.get(fd).is_some()
    }

    /// The path of a socket.
    pub fn path_of(&self, fd: RawFd) -> &Path {
        self.get(fd).map_or(Path::new(""), Listener::path)
    }

    /// Accepts a client of a socket.
    ///
    /// # Errors
    ///
    /// That of `accept4`, `AGAIN` when nobody waits.
    pub fn accept(&self, fd: RawFd) -> Result<OwnedFd, Errno> {
        self.get(fd).ok_or(Errno::BADF)?.accept()
    }

    /// Has the event loop watch all sockets.
    pub fn add_to(&self, ops: &mut EventOps) {
        for listener in &self.all {
            if let Err(error) = ops.add(Events::new(listener, EventSet::IN)) {
                log::error!("Cannot watch a QMP socket: {error:?}");
            }
        }
    }

    /// Changes what the event loop watches all sockets for.
    pub fn watch(&self, interest: EventSet, ops: &EventOps) {
        for listener in &self.all {
            if let Err(error) = ops.modify(Events::new(listener, interest)) {
                log::error!("Cannot change how a QMP socket is watched: {error:?}");
            }
        }
    }

    /// The paths of the sockets on which a client must negotiate before the guest starts.
    pub fn awaited_paths(&self) -> Vec<&Path> {
        self.awaited.iter().map(|fd| self.path_of(*fd)).collect()
    }

    /// Whether the guest's start waits for anyone.
    pub fn awaits_clients(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// Nobody is waited for any more.
    pub fn stop_waiting(&mut self) {
        self.awaited.clear();
    }

    /// A client of a socket has negotiated. True when that ends the waiting.
    pub fn ends_waiting(&mut self, fd: RawFd) -> bool {
        self.awaited.remove(&fd) && self.awaited.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::SocketOptions;
    use super::*;

    #[test]
    fn waiting_ends_with_the_last_socket_that_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let bind = |name: &str, wait| {
            let options = SocketOptions {
                wait,
                ..SocketOptions::new(dir.path().join(name))
            };
            Listener::bind(&options).unwrap()
        };
        let all = vec![bind("a", true), bind("b", false), bind("c", true)];
        let fds: Vec<_> = all.iter().map(AsRawFd::as_raw_fd).collect();
        let mut listeners = Listeners::new(all);

        assert!(!listeners.ends_waiting(fds[1]));
        assert!(!listeners.ends_waiting(fds[2]));
        assert_eq!(listeners.awaited_paths(), [dir.path().join("a")]);
        assert!(!listeners.ends_waiting(fds[2]));
        assert!(listeners.ends_waiting(fds[0]));
        assert!(!listeners.awaits_clients());
        assert!(!listeners.ends_waiting(fds[0]));
    }
}
