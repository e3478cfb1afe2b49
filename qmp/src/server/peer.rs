//! Who is at the other end of a connection (`SO_PEERCRED`, unix(7)), for the log.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The process that connected, as the kernel noted it then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id; `None` if it has none in this process's PID namespace.
    pub pid: Option<i32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Peer {
    /// Who connected to `socket`.
    ///
    /// # Errors
    ///
    /// That of `getsockopt`.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        // rustix has this call too, but its process ids cannot be 0.
        let mut found = libc::ucred {
            pid: 0,
            uid: 0,
            gid: 0,
        };
        let mut len = libc::socklen_t::try_from(size_of_val(&found)).unwrap_or_default();
        // SAFETY: `found` and `len` outlive the call, which writes at most `len` bytes to `found`,
        // and all values of its members are valid.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut found).cast(),
                &raw mut len,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            pid: (found.pid > 0).then_some(found.pid),
            uid: found.uid,
            gid: found.gid,
        })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}")?,
            None => write!(f, "pid unknown")?,
        }
        write!(f, ", uid {}, gid {}", self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn peer_is_the_process_that_connected() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(ours.as_fd()).unwrap();
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        assert_eq!(peer.pid, Some(pid));
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.gid, rustix::process::getegid().as_raw());
        let text = peer.to_string();
        assert!(text.starts_with(&format!("pid {pid}, uid ")), "{text}");
    }

    #[test]
    fn process_of_another_namespace_is_unknown() {
        let peer = Peer {
            pid: None,
            uid: 1,
            gid: 2,
        };
        assert_eq!(peer.to_string(), "pid unknown, uid 1, gid 2");
    }

    #[test]
    fn what_is_no_socket_has_no_peer() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = Peer::of(file.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
    }
}
