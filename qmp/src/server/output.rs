//! What is on the way to a client, behind a socket that does not block.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// How much is sent in one turn, so that one client with much to read does not hold up the rest.
const SEND_TURN_BYTES: usize = 1 << 20;
/// An output buffer above this size is given back once it is empty.
const KEPT_OUTPUT_BYTES: usize = 64 << 10;

/// Bytes on the way to a client.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    /// How many of `bytes` are sent.
    sent: usize,
    /// How many bytes of events may be among those that are not sent.
    event_bytes: usize,
    /// The socket takes no more until it says so.
    blocked: bool,
    /// Nobody is left to read.
    dead: bool,
}

impl Output {
    /// How many bytes are not sent yet.
    pub fn unsent_bytes(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// How many bytes of events may be among those that are not sent.
    pub fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    /// How many bytes of memory this takes.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Appends what `write` writes, unless nobody is left to read it.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.dead {
            write(&mut self.bytes);
        }
    }

    /// Appends the line of an event.
    pub fn append_event(&mut self, line: &[u8]) {
        self.event_bytes += line.len();
        self.append(|out| out.extend_from_slice(line));
    }

    /// Takes back what was appended last, of which nothing has been sent, down to `held_bytes`.
    pub fn take_back(&mut self, held_bytes: usize) {
        self.bytes.truncate(held_bytes.max(self.sent));
        self.bytes.shrink_to(KEPT_OUTPUT_BYTES);
    }

    /// Notes that the socket may take bytes again.
    pub fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Throws away what is not sent and whatever is appended from now on.
    pub fn kill(&mut self) {
        *self = Self {
            dead: true,
            ..Self::default()
        };
    }

    /// Sends what the socket takes now, within bounds.
    pub fn flush(&mut self, socket: &OwnedFd) {
        let turn_end = self.bytes.len().min(self.sent + SEND_TURN_BYTES);
        while self.sent < turn_end && !self.blocked {
            match send(
                socket,
                &self.bytes[self.sent..turn_end],
                SendFlags::NOSIGNAL,
            ) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => self.blocked = true,
                Err(Errno::INTR) => {}
                // The peer is gone. What it has sent before is still read and done.
                Err(_) => return self.kill(),
            }
        }
        self.event_bytes = self.event_bytes.min(self.unsent_bytes());
        if self.unsent_bytes() == 0 {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_OUTPUT_BYTES);
            self.sent = 0;
        } else if self.sent > self.bytes.len() / 2 {
            // Moves less than was sent since the last time, so the cost stays linear.
            self.bytes.drain(..self.sent);
            self.sent = 0;
            self.bytes
                .shrink_to(self.bytes.len().max(KEPT_OUTPUT_BYTES));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Fewer bytes than a reply has, more than are read at once.
    const LEFT: usize = 512 << 10;

    #[test]
    fn events_count_only_while_they_can_be_unsent() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = ours.into();
        let mut output = Output::default();
        let reply = vec![b' '; 1 << 20];
        let mut buffer = vec![0; 64 << 10];
        // There is always something left, but never the events that came before the last reply.
        for _ in 0..200 {
            output.append_event(&[b'e'; 4096]);
            output.append(|out| out.extend_from_slice(&reply));
            while output.unsent_bytes() > LEFT {
                output.unblock();
                output.flush(&ours);
                assert_ne!(theirs.read(&mut buffer).unwrap(), 0);
            }
            assert_ne!(output.unsent_bytes(), 0);
            assert!(output.event_bytes() <= LEFT);
        }
    }
}
