//! A connection over which one request is sent again and again, as fast as replies come.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, FileContext, Result};

const NEGOTIATION: &[u8] = b"{\"execute\": \"qmp_capabilities\"}\n";
/// The request; it needs nothing of the guest.
const REQUEST: &[u8] = b"{\"execute\": \"query-balloon\"}\n";
/// Time for a server to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Length of the reply, which is the same each time.
    reply_bytes: usize,
    replies: Vec<u8>,
}

impl Connection {
    /// A negotiated connection to a QMP server.
    ///
    /// # Errors
    ///
    /// When it does not answer as one.
    pub fn to_qmp(path: &Path) -> Result<Self> {
        let stream = connect(path)?;
        let reply = negotiate(&stream).map_err(broken)?;
        if !reply.starts_with("{\"return\": {\"actual\": ") {
            return Err(Error::Check(format!(
                "query-balloon was answered by {reply:?}"
            )));
        }
        Ok(Self::new(stream, reply.len()))
    }

    /// A connection to the server that sends back what it gets.
    ///
    /// # Errors
    ///
    /// When it is not there.
    pub fn to_echo(path: &Path) -> Result<Self> {
        Ok(Self::new(connect(path)?, REQUEST.len()))
    }

    fn new(stream: UnixStream, reply_bytes: usize) -> Self {
        Self {
            stream,
            reply_bytes,
            replies: Vec::new(),
        }
    }

    /// Sends `count` requests in one piece and waits for as many replies. The time that took.
    ///
    /// # Errors
    ///
    /// When the replies do not come.
    pub fn ask(&mut self, count: usize) -> Result<Duration> {
        let requests = REQUEST.repeat(count);
        self.replies.resize(self.reply_bytes * count, 0);
        let begun = Instant::now();
        self.stream.write_all(&requests).map_err(broken)?;
        self.stream.read_exact(&mut self.replies).map_err(broken)?;
        Ok(begun.elapsed())
    }
}

/// Negotiates, and returns the reply to the first request.
fn negotiate(mut stream: &UnixStream) -> std::io::Result<String> {
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line)?;
    for request in [NEGOTIATION, REQUEST] {
        stream.write_all(request)?;
        line.clear();
        lines.read_line(&mut line)?;
    }
    Ok(line)
}

fn connect(path: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + LIMIT;
    let stream = loop {
        match UnixStream::connect(path) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            outcome => break outcome.file("connect to", path)?,
        }
    };
    stream.set_read_timeout(Some(LIMIT)).map_err(broken)?;
    Ok(stream)
}

fn broken(source: std::io::Error) -> Error {
    Error::System {
        action: "exchange messages with a server",
        source,
    }
}
