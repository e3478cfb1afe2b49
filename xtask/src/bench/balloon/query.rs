//! How soon `query-balloon` is answered, asked again and again by one who pauses in between.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, FileContext, Result};

const NEGOTIATION: &str = "{\"execute\": \"qmp_capabilities\"}\n";
const QUESTION: &str = "{\"execute\": \"query-balloon\"}\n";
/// Between an answer and the next question: the machine is asked often, but not kept busy by it.
const PAUSE: Duration = Duration::from_micros(300);
/// Time for an answer.
const LIMIT: Duration = Duration::from_secs(10);

/// One who asks.
#[derive(Debug)]
pub struct Asker {
    lines: BufReader<UnixStream>,
    line: String,
}

impl Asker {
    /// Connects and negotiates.
    ///
    /// # Errors
    ///
    /// When nobody answers there.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).file("connect to", socket)?;
        stream.set_read_timeout(Some(LIMIT)).map_err(broken)?;
        let mut asker = Self {
            lines: BufReader::new(stream),
            line: String::new(),
        };
        asker.next_line()?;
        asker.ask(NEGOTIATION)?;
        Ok(asker)
    }

    /// Asks for as long as `goes_on` says so; how long each answer took.
    ///
    /// # Errors
    ///
    /// When one does not come.
    pub fn ask_while(&mut self, mut goes_on: impl FnMut() -> bool) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        while goes_on() {
            times.push(self.ask(QUESTION)?);
            thread::sleep(PAUSE);
        }
        Ok(times)
    }

    /// The time until the answer; events come in between.
    fn ask(&mut self, question: &str) -> Result<Duration> {
        let begun = Instant::now();
        self.lines
            .get_mut()
            .write_all(question.as_bytes())
            .map_err(broken)?;
        loop {
            self.next_line()?;
            if self.line.contains("\"event\"") {
                continue;
            }
            if self.line.contains("\"return\"") {
                return Ok(begun.elapsed());
            }
            return Err(Error::Check(format!("The machine answers {:?}", self.line)));
        }
    }

    fn next_line(&mut self) -> Result<()> {
        self.line.clear();
        match self.lines.read_line(&mut self.line).map_err(broken)? {
            0 => Err(broken(std::io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }
}

fn broken(source: std::io::Error) -> Error {
    Error::System {
        action: "ask the machine for its balloon",
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A server that sends its lines, each at a request.
    fn asker(lines: &'static [&str]) -> Result<Asker> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            let requests = BufReader::new(stream.try_clone().unwrap()).lines();
            for (_, line) in requests.zip(lines) {
                stream.write_all(line.as_bytes()).unwrap();
            }
        });
        Asker::connect(&socket)
    }

    #[test]
    fn events_are_no_answers() {
        let lines = &[
            "{\"return\": {}}\r\n",
            "{\"event\": \"X\"}\r\n{\"return\": {\"actual\": 1}}\r\n",
        ];
        let mut left = 1..=1;
        let times = asker(lines).unwrap().ask_while(|| left.next().is_some());
        assert_eq!(times.unwrap().len(), 1);
    }

    #[test]
    fn error_is_no_answer() {
        let lines = &["{\"return\": {}}\r\n", "{\"error\": {}}\r\n"];
        let mut asker = asker(lines).unwrap();
        assert!(asker.ask_while(|| true).is_err());
    }
}
