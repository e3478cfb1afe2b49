//! The line editor: completion out of the schema, and the history in its file.

use std::path::PathBuf;

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
    /// Where the history is kept, if it can be.
    file: Option<PathBuf>,
}

/// What the user did at the prompt.
pub enum Typed {
    /// A line.
    Line(String),
    /// Ctrl-C: the line was given up.
    Nothing,
    /// Ctrl-D.
    End,
}

impl Editor {
    /// An editor that knows the commands of `schema`.
    ///
    /// # Errors
    ///
    /// When the terminal cannot be used.
    pub fn new(schema: Schema) -> Result<Self, ReadlineError> {
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
        Ok(Self { inner, file })
    }

    /// The schema that the editor completes from.
    pub fn schema(&self) -> Option<&Schema> {
        self.inner.helper().map(|assistant| &assistant.schema)
    }

    /// A printer of text above the prompt, for another thread.
    ///
    /// # Errors
    ///
    /// When this is no terminal.
    pub fn printer(&mut self) -> Result<impl ExternalPrinter + Send + use<>, ReadlineError> {
        self.inner.create_external_printer()
    }

    /// Reads a line and puts it into the history.
    ///
    /// # Errors
    ///
    /// When the terminal fails.
    pub fn read(&mut self) -> Result<Typed, ReadlineError> {
        let line = match self.inner.readline(PROMPT) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => return Ok(Typed::Nothing),
            Err(ReadlineError::Eof) => return Ok(Typed::End),
            Err(error) => return Err(error),
        };
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
    schema: Schema,
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
