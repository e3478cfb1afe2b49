//! Commands that are typed on a terminal. One thread reads what the machine says, and one prints
//! events above the prompt: the editor may let it wait until the next prompt, and replies must not.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use aerostat_qmp::client::{ClientError, Deadline, Incoming, Receiver, Reply, Sender};
use rustyline::ExternalPrinter;
use rustyline::error::ReadlineError;
use serde_json::Value;

use super::QUIT_LIMIT;
use super::editor::{Editor, Typed};
use super::help;
use super::line::Line;
use super::schema::Schema;
use crate::connect::Session;
use crate::failure::{self, Failure, UNUSABLE};
use crate::output::{print, tell};
use crate::request::Request;
use crate::status::version;

/// Runs what is typed until Ctrl-D, or until the machine has gone.
///
/// # Errors
///
/// When the terminal or the connection fails.
pub fn run(session: Session, schema: Schema) -> Result<(), Failure> {
    let schema = Rc::new(schema);
    let mut editor = Editor::new(Rc::clone(&schema)).map_err(terminal_failed)?;
    let printer = editor.printer();
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
            Typed::NoText => {
                tell("What was typed is not UTF-8 and is not sent");
                continue;
            }
            Typed::End => return Ok(()),
        };
        if link.end.is_closed.load(Ordering::Acquire) {
            return Err(Failure::Told { status: UNUSABLE });
        }
        let line = Line::parse(&line);
        let is_quit = line.as_ref().is_ok_and(Line::is_quit);
        let outcome = match line {
            Ok(Line::Exit) => return Ok(()),
            Ok(Line::Empty) => Ok(()),
            Ok(Line::Help(None)) => print(help::overview(&schema).trim_end()),
            Ok(Line::Help(Some(name))) => print(help::command(&schema, &name).trim_end()),
            Ok(Line::Command(request)) => {
                let Request { command, arguments } = request;
                link.run(is_quit, |sender, deadline| {
                    sender.send(&command, arguments, deadline)
                })
            }
            Ok(Line::Raw(request)) => link.run(is_quit, |sender, deadline| {
                sender.send_request(request, deadline)
            }),
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(()) if link.has_quit => return Ok(()),
            Ok(()) => {}
            Err(Failure::Output(error)) => return Err(Failure::Output(error)),
            Err(Failure::Client(ClientError::Closed)) => {
                return Err(ClientError::Closed.into());
            }
            Err(failure) => tell(failure::chain(&failure)),
        }
    }
}

fn terminal_failed(error: ReadlineError) -> Failure {
    Failure::Input(std::io::Error::other(error))
}

/// The connection, with the threads that read it.
struct Link {
    sender: Sender,
    replies: mpsc::Receiver<Reply>,
    timeout: Option<Duration>,
    end: Arc<End>,
    /// Whether the machine went as it was told to.
    has_quit: bool,
}

/// The connection's end, as both threads see it.
#[derive(Default)]
struct End {
    /// Whether the machine was told to go, so that its going is no news.
    is_expected: AtomicBool,
    is_closed: AtomicBool,
}

impl Link {
    fn new(
        sender: Sender,
        receiver: Receiver,
        timeout: Option<Duration>,
        mut printer: Option<impl ExternalPrinter + Send + 'static>,
    ) -> Self {
        let (lines, to_print) = mpsc::channel::<String>();
        thread::spawn(move || {
            // Without a terminal there is nobody to tell.
            while let Ok(line) = to_print.recv() {
                let _ = match &mut printer {
                    Some(printer) => printer.print(line).is_ok(),
                    None => print(line.trim_end()).is_ok(),
                };
            }
        });
        let (to_shell, replies) = mpsc::channel();
        let end = Arc::<End>::default();
        let seen = Arc::clone(&end);
        thread::spawn(move || {
            let error = read(receiver, &lines, &to_shell);
            seen.is_closed.store(true, Ordering::Release);
            // After the flag: whoever reads this and presses Enter finds it set. If nobody prints
            // any more, nobody waits.
            if !seen.is_expected.load(Ordering::Acquire) {
                let text = failure::chain(&error);
                let _ = lines.send(format!("{text}: press Enter to leave\n"));
            }
        });
        Self {
            sender,
            replies,
            timeout,
            end,
            has_quit: false,
        }
    }

    fn reply_deadline(&self) -> Deadline {
        self.timeout.map(|timeout| Instant::now() + timeout)
    }

    /// Sends a request and prints its result. `send` returns the request's id.
    fn run(
        &mut self,
        is_quit: bool,
        send: impl FnOnce(&mut Sender, Deadline) -> Result<Value, ClientError>,
    ) -> Result<(), Failure> {
        self.end.is_expected.store(is_quit, Ordering::Release);
        let deadline = self.reply_deadline();
        let id = send(&mut self.sender, deadline)?;
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
            if reply.answers(id) {
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
