//! A configuration as a file of it would say it, defaults included.

use std::io;
use std::path::Path;

use clap::{Arg, ArgMatches, Command};
use toml_writer::ToTomlValue;

use super::arguments::{file_options, key};
use super::kind::Kind;
use super::values::sum_of_verbosity;

/// An option that cannot be written down.
#[derive(Debug, thiserror::Error)]
pub enum PrintError {
    /// TOML is UTF-8.
    #[error("The value of --{0} is not UTF-8: it cannot stand in a configuration file")]
    NotText(String),
    /// The working directory is gone.
    #[error("Cannot tell where the path of --{key} begins")]
    NoDirectory {
        /// The option.
        key: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// The options in `matches`, as a configuration file that means the same wherever it is put:
/// paths in it are absolute.
///
/// # Errors
/// When a value cannot be written down.
pub fn as_file(command: &Command, matches: &ArgMatches) -> Result<String, PrintError> {
    let mut file = String::new();
    let mut heading = None;
    for option in file_options(command) {
        let values = values(option, matches)?;
        let value = match values.as_slice() {
            [] => continue,
            [value] => value.clone(),
            values => format!("[{}]", values.join(", ")),
        };
        if option.get_help_heading() != heading {
            heading = option.get_help_heading();
            let gap = if file.is_empty() { "" } else { "\n" };
            file += &format!("{gap}# {}\n", heading.unwrap_or("Other"));
        }
        file += &format!("{} = {value}\n", key(option));
    }
    Ok(file)
}

/// The option's values in TOML.
fn values(option: &Arg, matches: &ArgMatches) -> Result<Vec<String>, PrintError> {
    let id = option.get_id().as_str();
    let kind = Kind::of(option);
    match kind {
        Kind::Switch => Ok(matches
            .get_many::<bool>(id)
            .into_iter()
            .flatten()
            .map(ToTomlValue::to_toml_value)
            .collect()),
        Kind::Number => {
            let numbers = matches.get_many::<u8>(id).into_iter().flatten().copied();
            let number = match numbers.collect::<Vec<_>>().as_slice() {
                [] => None,
                [number] => Some(*number),
                // As -v -v; no other number can be given several times.
                numbers => Some(sum_of_verbosity(numbers.iter().copied())),
            };
            Ok(number.iter().map(ToTomlValue::to_toml_value).collect())
        }
        Kind::KeyedList(_) | Kind::Path(_) | Kind::Socket | Kind::Text => matches
            .get_raw(id)
            .into_iter()
            .flatten()
            .map(|value| {
                let not_text = || PrintError::NotText(key(option).to_owned());
                let value = value.to_str().ok_or_else(not_text)?;
                match kind.with_path(value, |path| absolute(option, path)) {
                    None => Ok(value.to_toml_value()),
                    Some(value) => Ok(value?.to_str().ok_or_else(not_text)?.to_toml_value()),
                }
            })
            .collect(),
    }
}

fn absolute(option: &Arg, path: &Path) -> Result<std::path::PathBuf, PrintError> {
    std::path::absolute(path).map_err(|source| PrintError::NoDirectory {
        key: key(option).to_owned(),
        source,
    })
}
