//! The line editor: completion out of the schema, and the history in its file.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::rc::Rc;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, ExternalPrinter, Helper};

use super::complete::complete;
use super::history;
use super::schema::Schema;

const PROMPT: &str = "qmp> ";
/// Lines of the history that are kept.
const HISTORY_LINES: usize = 1000;

/// Reads lines from the terminal.
pub struct Editor {
    inner: rustyline::Editor<Assistant, FileHistory>,
    /// Never used: when the last printer is gone, rustyline looks no more for what was printed by then.
    kept_printer: Option<Box<dyn ExternalPrinter>>,
    /// Lines that were pasted together with one that was read, the next first.
    pasted: VecDeque<String>,
    /// Where the history is kept, if it can be.
    file: Option<PathBuf>,
}

/// What the user did at the prompt.
pub enum Typed {
    /// A line.
    Line(String),
    /// Ctrl-C: the line was given up.
    Nothing,
    /// Bytes that are no text.
    NoText,
    /// Ctrl-D.
    End,
}

impl Editor {
    /// An editor that knows the commands of `schema`.
    ///
    /// # Errors
    ///
    /// When the terminal cannot be used.
    pub fn new(schema: Rc<Schema>) -> Result<Self, ReadlineError> {
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .max_history_size(HISTORY_LINES)?
            .history_ignore_dups(true)?
            .history_ignore_space(true)
            .build();
        let mut inner = rustyline::Editor::with_config(config)?;
        inner.set_helper(Some(Assistant { schema }));
        let file = history::file();
        if let Some(file) = &file {
            // The first time there is none.
            let _ = inner.load_history(file);
        }
        let pasted = VecDeque::new();
        Ok(Self {
            inner,
            kept_printer: None,
            pasted,
            file,
        })
    }

    /// A printer of text above the prompt, for another thread; `None` on a terminal that cannot
    /// have one.
    pub fn printer(&mut self) -> Option<impl ExternalPrinter + Send + use<>> {
        let another = self.inner.create_external_printer().ok()?;
        self.kept_printer = Some(Box::new(another));
        self.inner.create_external_printer().ok()
    }

    /// Reads a line and puts it into the history. What is pasted comes line by line.
    ///
    /// # Errors
    ///
    /// When the terminal fails.
    pub fn read(&mut self) -> Result<Typed, ReadlineError> {
        if self.pasted.is_empty() {
            match self.inner.readline(PROMPT) {
                Ok(text) => self.pasted.extend(text.split('\n').map(str::to_owned)),
                Err(ReadlineError::Interrupted) => return Ok(Typed::Nothing),
                Err(ReadlineError::Eof) => return Ok(Typed::End),
                Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                    return Ok(Typed::NoText);
                }
                Err(error) => return Err(error),
            }
        }
        let line = self.pasted.pop_front().unwrap_or_default();
        if !line.trim().is_empty()
            && self.inner.add_history_entry(line.as_str())?
            && let Some(file) = &self.file
        {
            // At once, for the machine may end the shell; without a history it works as well.
            let _ = self.inner.append_history(file);
        }
        Ok(Typed::Line(line))
    }
}

/// What the editor asks while a line is typed.
struct Assistant {
    schema: Rc<Schema>,
}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(complete(&self.schema, &line[..position]))
    }
}

impl Helper for Assistant {}
impl Highlighter for Assistant {}
impl Hinter for Assistant {
    type Hint = String;
}
impl Validator for Assistant {}
