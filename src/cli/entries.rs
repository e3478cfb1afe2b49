//! From the text of a configuration file to arguments.
//!
//! Every value becomes the text that the command line would carry, and clap's parsers judge it
//! there: sizes, times and names cannot read differently in the two places.

use std::convert::Infallible;
use std::error::Error as _;
use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, Command};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::arguments::{file_options, key};
use super::file::{Problem, position};
use super::kind::{Kind, repeats};

/// How near a known key must be to be the one that was meant, as clap judges options.
const NEAR: f64 = 0.7;

/// An option that the file sets.
#[derive(Debug)]
pub struct Entry {
    /// Its name in clap's matches.
    pub id: String,
    /// What to add to the command line.
    pub arguments: Vec<OsString>,
}

/// What a file with this text says. Relative paths get `directory` before them.
///
/// # Errors
/// The first thing in the text that cannot be used.
pub fn entries(text: &str, directory: &Path, command: &mut Command) -> Result<Vec<Entry>, Problem> {
    let table = DeTable::parse(text).map_err(|error| syntax(text, &error))?;
    let mut settings: Vec<_> = table.get_ref().iter().collect();
    settings.sort_by_key(|(name, _)| name.span().start);
    let mut entries = Vec::with_capacity(settings.len());
    for (name, value) in settings {
        let line = line_of(text, name);
        let known = file_options(command).find(|option| key(option) == name.get_ref());
        let Some(option) = known else {
            return Err(unknown_key(
                name.get_ref(),
                file_options(command).map(key),
                line,
            ));
        };
        let setting = Setting {
            text,
            option: option.clone(),
            kind: Kind::of(option),
        };
        entries.push(setting.entry(value, directory, command)?);
    }
    Ok(entries)
}

fn syntax(text: &str, error: &toml::de::Error) -> Problem {
    let start = error.span().map_or(0, |span| span.start);
    let (line, column) = position(text.as_bytes(), start);
    let message = error
        .message()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    Problem::Syntax {
        message,
        line,
        column,
    }
}

fn line_of<T>(text: &str, part: &Spanned<T>) -> usize {
    position(text.as_bytes(), part.span().start).0
}

fn unknown_key<'a>(name: &str, known: impl Iterator<Item = &'a str>, line: usize) -> Problem {
    let nearest = known
        .map(|known| (strsim::jaro(name, known), known))
        .filter(|(nearness, _)| *nearness > NEAR)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    Problem::UnknownKey {
        key: name.to_owned(),
        nearest: nearest.map(|(_, known)| known.to_owned()),
        line,
    }
}

/// An option for which the file has a value.
struct Setting<'a> {
    /// The whole file.
    text: &'a str,
    option: Arg,
    kind: Kind,
}

impl Setting<'_> {
    /// The arguments that `value` stands for, each of which `command` has taken on its own.
    fn entry(
        &self,
        value: &Spanned<DeValue<'_>>,
        directory: &Path,
        command: &mut Command,
    ) -> Result<Entry, Problem> {
        let values = match value.get_ref() {
            DeValue::Array(values) if repeats(&self.option) && !values.is_empty() => {
                values.iter().collect()
            }
            _ => vec![value],
        };
        let mut arguments = Vec::with_capacity(values.len());
        for value in values {
            let text = self.value_text(value)?;
            let argument = self.argument(&text, directory);
            command
                .try_get_matches_from_mut([OsString::new(), argument.clone()])
                .map_err(|error| {
                    let key = key(&self.option).to_owned();
                    self.wrong_value(key, text, reason(&error), value)
                })?;
            arguments.push(argument);
        }
        Ok(Entry {
            id: self.option.get_id().as_str().to_owned(),
            arguments,
        })
    }

    /// The text that the command line would carry.
    fn value_text(&self, value: &Spanned<DeValue<'_>>) -> Result<String, Problem> {
        let text = match (value.get_ref(), &self.kind) {
            (DeValue::Table(table), Kind::KeyedList(keys)) => self.list_text(table, keys)?,
            (scalar, kind) if kind.takes(scalar) => {
                scalar_text(scalar).ok_or_else(|| self.wrong_type(value))?
            }
            _ => return Err(self.wrong_type(value)),
        };
        if text.contains('\0') {
            let reason = "no argument can have a NUL character".to_owned();
            return Err(self.wrong_value(key(&self.option).to_owned(), text, reason, value));
        }
        Ok(text)
    }

    /// The text of a list of keys with values.
    fn list_text(&self, table: &DeTable<'_>, keys: &[&str]) -> Result<String, Problem> {
        let mut items: Vec<_> = table.iter().collect();
        items.sort_by_key(|(name, _)| name.span().start);
        let mut texts = Vec::with_capacity(items.len());
        for (name, value) in items {
            let nested = |name: &str| format!("{}.{name}", key(&self.option));
            if !keys.contains(&name.get_ref().as_ref()) {
                let known: Vec<_> = keys.iter().map(|known| nested(known)).collect();
                return Err(unknown_key(
                    &nested(name.get_ref()),
                    known.iter().map(String::as_str),
                    line_of(self.text, name),
                ));
            }
            let text = scalar_text(value.get_ref()).ok_or_else(|| self.wrong_type(value))?;
            if text.contains(',') {
                let reason = "a comma would end the value".to_owned();
                return Err(self.wrong_value(nested(name.get_ref()), text, reason, value));
            }
            texts.push(format!("{}={text}", name.get_ref()));
        }
        // A table whose keys are all left out asks for the thing with its defaults.
        Ok(if texts.is_empty() {
            switch_text(true).to_owned()
        } else {
            texts.join(",")
        })
    }

    /// The argument with this value, the path in it counted from `directory`.
    fn argument(&self, value: &str, directory: &Path) -> OsString {
        let mut argument = OsString::from(format!("--{}=", key(&self.option)));
        let join = |path: &Path| Ok::<_, Infallible>(directory.join(path));
        match self.kind.with_path(value, join) {
            Some(Ok(value)) => argument.push(value),
            None => argument.push(value),
        }
        argument
    }

    fn wrong_type(&self, value: &Spanned<DeValue<'_>>) -> Problem {
        Problem::WrongType {
            key: key(&self.option).to_owned(),
            found: match value.get_ref() {
                DeValue::String(_) => "a text",
                DeValue::Integer(_) | DeValue::Float(_) => "a number",
                DeValue::Boolean(_) => "true or false",
                DeValue::Datetime(_) => "a date or time of day",
                DeValue::Array(values) if values.is_empty() => "an empty list",
                DeValue::Array(_) => "a list",
                DeValue::Table(_) => "a table",
            },
            needed: match &self.kind {
                Kind::Switch => "true or false",
                Kind::KeyedList(_) => "true, false, a text, or a table of these",
                Kind::Number => "a number",
                Kind::Path(_) | Kind::Socket if repeats(&self.option) => {
                    "a text, or a list of texts"
                }
                Kind::Path(_) | Kind::Socket => "a text",
                Kind::Text => "a text or a number",
            },
            line: line_of(self.text, value),
        }
    }

    fn wrong_value(
        &self,
        key: String,
        value: String,
        reason: String,
        at: &Spanned<DeValue<'_>>,
    ) -> Problem {
        Problem::WrongValue {
            key,
            value,
            reason,
            line: line_of(self.text, at),
        }
    }
}

/// The text for a single value.
fn scalar_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(decimal(number)),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(on) => Some(switch_text(*on).to_owned()),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn switch_text(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// A whole number in decimal digits. One with more than 128 bits stays as it is: no option takes
/// it, and its refusal is to show it.
fn decimal(number: &DeInteger<'_>) -> String {
    i128::from_str_radix(number.as_str(), number.radix())
        .map_or_else(|_| number.to_string(), |number| number.to_string())
}

/// Why clap refuses a value, without the name of the option on the command line.
fn reason(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return source.to_string();
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
            format!("write {}", valid.join(" or "))
        }
        _ => "a value is needed".to_owned(),
    }
}

#[cfg(test)]
mod tests;
