//! A server that answers as a test lays down.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

/// The server's socket; its threads end with the test's process.
#[derive(Debug)]
pub struct Fake {
    directory: TempDir,
    requests: Arc<Mutex<Vec<Value>>>,
}

impl Fake {
    /// A server for any number of clients. `answer` gives the messages that follow a request.
    pub fn new(answer: impl FnMut(&Value) -> Vec<Value> + Send + 'static) -> Self {
        let directory = TempDir::new().expect("temporary directory");
        let listener = UnixListener::bind(directory.path().join("s")).expect("bind");
        let requests = Arc::<Mutex<Vec<Value>>>::default();
        let seen = Arc::clone(&requests);
        thread::spawn(move || {
            let mut answer = answer;
            for stream in listener.incoming().flatten() {
                // A client that goes is its own business.
                let _ = serve(&stream, &mut answer, &seen);
            }
        });
        Self {
            directory,
            requests,
        }
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// A directory for the test's files.
    pub fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// The arguments of all requests for `command` so far.
    pub fn arguments_of(&self, command: &str) -> Vec<Value> {
        let requests = self.requests.lock().expect("requests");
        let wanted = requests.iter().filter(|one| one["execute"] == command);
        wanted.map(|one| one["arguments"].clone()).collect()
    }
}

fn serve(
    mut stream: &UnixStream,
    answer: &mut impl FnMut(&Value) -> Vec<Value>,
    seen: &Mutex<Vec<Value>>,
) -> std::io::Result<()> {
    let version = json!({"qemu": {"major": 7, "minor": 2, "micro": 1}, "package": "fake"});
    let greeting = json!({"QMP": {"version": version, "capabilities": []}});
    writeln!(stream, "{greeting}")?;
    for line in BufReader::new(stream).lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let messages = match request["execute"].as_str() {
            Some("qmp_capabilities") => vec![reply(&request, json!({}))],
            Some("query-version") => vec![reply(&request, version.clone())],
            _ => answer(&request),
        };
        seen.lock().expect("requests").push(request);
        for message in messages {
            if message == end() {
                return Ok(());
            }
            writeln!(stream, "{message}")?;
        }
    }
    Ok(())
}

/// In place of a message: the connection's end.
pub fn end() -> Value {
    Value::Null
}

/// The reply to a request.
pub fn reply(request: &Value, value: impl Into<Value>) -> Value {
    let value = value.into();
    json!({"return": value, "id": request["id"]})
}

/// The refusal of a request.
pub fn refuse(request: &Value, class: &str, desc: &str) -> Value {
    json!({"error": {"class": class, "desc": desc}, "id": request["id"]})
}

/// The refusal of a command that the server lacks.
pub fn unknown(request: &Value) -> Value {
    let name = request["execute"].as_str().unwrap_or_default();
    let desc = format!("The command {name} has not been found");
    refuse(request, "CommandNotFound", &desc)
}

/// An event.
pub fn event(name: &str, data: &Value) -> Value {
    let timestamp = json!({"seconds": 1, "microseconds": 2});
    json!({"event": name, "data": data, "timestamp": timestamp})
}
