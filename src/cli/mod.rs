//! The command line and the configuration file: what can be asked for, and how wrong requests are
//! answered.
//!
//! The file is turned into arguments, which are put before those of the command line, less those
//! options that the command line has too. Everything after that sees one list of arguments.

mod arguments;
mod balloon;
mod entries;
mod file;
mod kind;
mod memory;
pub mod options;
mod print;
mod socket;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};

pub use file::FileError;
pub use options::{Options, OptionsError};
pub use print::PrintError;
pub use socket::SocketArgument;
pub use values::SerialArgument;

use arguments::Arguments;

/// What the process is to do.
#[derive(Debug)]
pub enum Request {
    /// Run a machine.
    Run(Options),
    /// Check without running.
    Check {
        /// What to check.
        options: Options,
        /// The same as a configuration file.
        file: String,
    },
    /// Print help or version: this prints itself.
    Show(clap::Error),
}

/// Why arguments make no request.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line alone is wrong already.
    #[error("{}", one_line(.0))]
    Arguments(clap::Error),
    /// The configuration file is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// Options are missing or do not go together.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The configuration cannot be shown.
    #[error(transparent)]
    Print(#[from] PrintError),
}

/// What the arguments of the process, its name first, ask for.
///
/// # Errors
/// Wrong arguments, or a wrong configuration file.
pub fn request(line: impl IntoIterator<Item = OsString>) -> Result<Request, CliError> {
    let line: Vec<OsString> = line.into_iter().collect();
    let matches = match matches(line) {
        Ok(matches) => matches,
        Err(CliError::Arguments(error)) if is_answer(&error) => return Ok(Request::Show(error)),
        Err(error) => return Err(error),
    };
    let (is_check, matches) = chosen(&matches);
    let arguments = Arguments::from_arg_matches(matches).map_err(CliError::Arguments)?;
    let options = Options::try_from(arguments)?;
    if !is_check {
        return Ok(Request::Run(options));
    }
    let file = print::as_file(&arguments::command(), matches)?;
    Ok(Request::Check { options, file })
}

/// Command line and configuration file as one.
fn matches(line: Vec<OsString>) -> Result<ArgMatches, CliError> {
    let mut command = arguments::command_for(&line);
    let given = command
        .try_get_matches_from_mut(&line)
        .map_err(CliError::Arguments)?;
    let (is_check, options) = chosen(&given);
    let Some(path) = options.get_one::<PathBuf>("config") else {
        return Ok(given);
    };
    let is_given = |id: &str| options.value_source(id) == Some(ValueSource::CommandLine);
    let from_file = file::read(path, &mut command)?
        .into_iter()
        .filter(|entry| !is_given(&entry.id))
        .flat_map(|entry| entry.arguments);
    // Options stand after the name of the process and, if it is there, `check`.
    let options_at = line.len().min(1 + usize::from(is_check));
    let mut line = line;
    line.splice(options_at..options_at, from_file);
    command
        .try_get_matches_from_mut(line)
        .map_err(CliError::Arguments)
}

/// Whether a check is asked for, and the options.
fn chosen(matches: &ArgMatches) -> (bool, &ArgMatches) {
    match matches.subcommand() {
        Some((_, options)) => (true, options),
        None => (false, matches),
    }
}

/// Whether this is what was asked for rather than an error.
fn is_answer(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    )
}

/// A wrong argument in one line.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let message = text.split("\nUsage:").next().unwrap_or(&text);
    let message = message
        .split_once("For more information")
        .map_or(message, |(head, _)| head);
    let words: Vec<_> = message
        .split_whitespace()
        .skip_while(|word| *word == "error:")
        .collect();
    format!("{} (aerostat --help shows the arguments)", words.join(" "))
}

#[cfg(test)]
mod tests;
