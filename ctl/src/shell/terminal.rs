//! Commands that are typed on a terminal. One thread reads what the machine says, and one prints
//! events above the prompt: the editor may let it wait until the next prompt, and replies must not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use aerostat_qmp::client::{ClientError, Incoming, Receiver, Reply, Sender};
use rustyline::ExternalPrinter;
use rustyline::error::ReadlineError;
use serde_json::Value;

use super::editor::{Editor, Typed};
use super::help;
use super::line::Line;
use super::schema::Schema;
use crate::arguments::Request;
use crate::connect::{Session, print};
use crate::failure::{self, Failure};
use crate::status::version;

/// How long a machine may take to go after `quit`.
const QUIT_LIMIT: Duration = Duration::from_secs(2);

/// Runs what is typed until Ctrl-D, or until the machine has gone.
///
/// # Errors
///
/// When the terminal or the connection fails.
pub fn run(session: Session, schema: Schema) -> Result<(), Failure> {
    let mut editor = Editor::new(schema).map_err(terminal_failed)?;
    let printer = editor.printer().map_err(terminal_failed)?;
    let program = version(&session.client.greeting().version);
    print(&format!(
        "Connected to {}. help lists the commands, Ctrl-D leaves the shell (quit ends the machine).",
        program.as_deref().unwrap_or("a machine")
    ))?;
    let (sender, receiver) = session.client.into_halves();
    let mut link = Link::new(sender, receiver, session.timeout, printer);
    loop {
        let line = match editor.read().map_err(terminal_failed)? {
            Typed::Line(line) => line,
            Typed::Nothing => continue,
            Typed::End => return Ok(()),
        };
        if link.is_closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let outcome = match Line::parse(&line) {
            Ok(Line::Exit) => return Ok(()),
            Ok(Line::Empty) => Ok(()),
            Ok(Line::Help(name)) => print(&help_text(editor.schema(), name.as_deref())),
            Ok(Line::Command(request)) => link.run(request),
            Ok(Line::Raw(request)) => link
                .sender
                .send_request(request, link.reply_deadline())
                .map_err(Failure::from)
                .and_then(|id| link.finish(&id)),
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(()) if link.has_quit => return Ok(()),
            Ok(()) => {}
            Err(Failure::Output(error)) => return Err(Failure::Output(error)),
            Err(Failure::Client(ClientError::Closed)) => {
                return Err(ClientError::Closed.into());
            }
            Err(failure) => eprintln!("{}", failure::chain(&failure)),
        }
    }
}

fn terminal_failed(error: ReadlineError) -> Failure {
    Failure::Input(std::io::Error::other(error))
}

fn help_text(schema: Option<&Schema>, name: Option<&str>) -> String {
    let text = match (schema, name) {
        (None, _) => String::new(),
        (Some(schema), None) => help::overview(schema),
        (Some(schema), Some(name)) => help::command(schema, name),
    };
    text.trim_end().to_owned()
}

/// The connection, with the threads that read it.
struct Link {
    sender: Sender,
    replies: mpsc::Receiver<Reply>,
    timeout: Option<Duration>,
    is_closed: Arc<AtomicBool>,
    /// Whether the machine went as it was told to.
    has_quit: bool,
}

impl Link {
    fn new(
        sender: Sender,
        receiver: Receiver,
        timeout: Option<Duration>,
        mut printer: impl ExternalPrinter + Send + 'static,
    ) -> Self {
        let (lines, to_print) = mpsc::channel::<String>();
        thread::spawn(move || {
            // Without a terminal there is nobody to tell.
            while let Ok(line) = to_print.recv() {
                let _ = printer.print(line);
            }
        });
        let (to_shell, replies) = mpsc::channel();
        let is_closed = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&is_closed);
        thread::spawn(move || {
            let error = read(receiver, &lines, &to_shell);
            closed.store(true, Ordering::Release);
            // After the flag: whoever reads this and presses Enter finds it set. If nobody prints
            // any more, nobody waits.
            let _ = lines.send(format!("{error}: press Enter to leave\n"));
        });
        Self {
            sender,
            replies,
            timeout,
            is_closed,
            has_quit: false,
        }
    }

    fn reply_deadline(&self) -> Option<Instant> {
        self.timeout.map(|timeout| Instant::now() + timeout)
    }

    /// Runs a command and prints its result.
    fn run(&mut self, request: Request) -> Result<(), Failure> {
        let is_quit = request.command == "quit";
        let deadline = self.reply_deadline();
        let id = self
            .sender
            .send(&request.command, request.arguments, deadline)?;
        self.finish(&id)?;
        if is_quit {
            let gone = self.replies.recv_timeout(QUIT_LIMIT);
            self.has_quit = gone == Err(RecvTimeoutError::Disconnected);
        }
        Ok(())
    }

    /// Waits for a reply and prints it; replies that came too late for others are passed over.
    fn finish(&mut self, id: &Value) -> Result<(), Failure> {
        let deadline = self.reply_deadline();
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let reply = match left {
                None => self
                    .replies
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                Some(left) => self.replies.recv_timeout(left),
            };
            let reply = reply.map_err(|error| match error {
                RecvTimeoutError::Timeout => ClientError::Timeout("reply"),
                RecvTimeoutError::Disconnected => ClientError::Closed,
            })?;
            if reply.id.as_ref() == Some(id) {
                let value = reply.result.map_err(ClientError::from)?;
                return print(&format!("{value:#}"));
            }
        }
    }
}

/// Reads until the connection ends, and says how that came.
fn read(
    mut receiver: Receiver,
    lines: &mpsc::Sender<String>,
    replies: &mpsc::Sender<Reply>,
) -> ClientError {
    loop {
        // Where nobody listens any more, the program is about to end.
        match receiver.next(None) {
            Ok(Some(Incoming::Event(event))) => {
                let _ = lines.send(format!("{}\n", event.message));
            }
            Ok(Some(Incoming::Reply(reply))) => {
                let _ = replies.send(reply);
            }
            Ok(None) => {}
            Err(error) => return error,
        }
    }
}
