//! Arguments of commands as people type them: one JSON object, or words as `key=value`.
//!
//! A value that is JSON counts as that, any other text as a string; dots in a key lead into objects:
//! `a.b=1` is `{"a": {"b": 1}}`.

use aerostat_qmp::client::Arguments;
use serde_json::{Map, Value};

use crate::json::{self, TextError};

/// A command with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Name of the command.
    pub command: String,
    /// Its arguments; `None` if none were given.
    pub arguments: Option<Arguments>,
}

/// Why words are no arguments.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentsError {
    /// Broken JSON.
    #[error("The arguments are no JSON: {0}")]
    Json(TextError),
    /// JSON, but no object.
    #[error("The arguments must be a JSON object, as {{\"value\": 1}}: {0}")]
    NoObject(String),
    /// Bytes.
    #[error("The line is not UTF-8")]
    NotText,
    /// A word without a key.
    #[error("{0:?} is no argument: write KEY=VALUE, or one JSON object")]
    NoKey(String),
    /// A value that begins as JSON and is none.
    #[error("The value of {key} is no JSON: {error}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong.
        error: TextError,
    },
    /// A key that is set already, or leads into something else than an object.
    #[error("{0} is given twice, or is no object")]
    Twice(String),
}

/// The request that the words of a command line are.
///
/// # Errors
///
/// When the words behind the first are no arguments.
pub fn from_words<W: AsRef<str>>(words: &[W]) -> Result<Request, ArgumentsError> {
    let mut words = words.iter().map(AsRef::as_ref);
    let command = words.next().unwrap_or_default().to_owned();
    let words: Vec<&str> = words.collect();
    let arguments = match words.as_slice() {
        [] => None,
        [text] if !has_key(text) => Some(object(text)?),
        words => Some(from_pairs(words)?),
    };
    Ok(Request { command, arguments })
}

/// The object that `text` is.
///
/// # Errors
///
/// When it is another value, or none.
pub fn object(text: &str) -> Result<Arguments, ArgumentsError> {
    let begins_as_json = text.trim_start().starts_with(['{', '[', '"', '\'']);
    match json::parse(text) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(ArgumentsError::NoObject(text.to_owned())),
        Err(_) if !begins_as_json => Err(ArgumentsError::NoKey(text.to_owned())),
        Err(error) => Err(ArgumentsError::Json(error)),
    }
}

fn has_key(word: &str) -> bool {
    !word.trim_start().starts_with('{') && word.contains('=')
}

fn from_pairs(words: &[&str]) -> Result<Arguments, ArgumentsError> {
    let mut arguments = Arguments::new();
    for word in words {
        let pair = word.split_once('=').filter(|(key, _)| is_key(key));
        let (key, text) = pair.ok_or_else(|| ArgumentsError::NoKey((*word).to_owned()))?;
        let value = value(text).map_err(|error| ArgumentsError::Value {
            key: key.to_owned(),
            error,
        })?;
        insert(&mut arguments, key, value).ok_or_else(|| ArgumentsError::Twice(key.to_owned()))?;
    }
    Ok(arguments)
}

fn is_key(key: &str) -> bool {
    let plain = |c: char| !c.is_whitespace() && !"{}[]\"'".contains(c);
    key.chars().all(plain) && key.split('.').all(|part| !part.is_empty())
}

/// The JSON value that a text is, or else the text itself.
fn value(text: &str) -> Result<Value, TextError> {
    match json::parse(text) {
        Err(error) if text.starts_with(['{', '[', '"', '\'']) => Err(error),
        Err(_) => Ok(text.into()),
        Ok(value) => Ok(value),
    }
}

/// Puts `value` where `key` leads; `None` if something else is there.
fn insert(into: &mut Map<String, Value>, key: &str, value: Value) -> Option<()> {
    let Some((first, rest)) = key.split_once('.') else {
        return into.insert(key.to_owned(), value).is_none().then_some(());
    };
    let inner = into.entry(first).or_insert_with(|| Map::new().into());
    insert(inner.as_object_mut()?, rest, value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arguments(words: &[&str]) -> Value {
        let words = [&["command"], words].concat();
        from_words(&words).unwrap().arguments.into()
    }

    fn fault(words: &[&str]) -> String {
        let words = [&["command"], words].concat();
        from_words(&words).unwrap_err().to_string()
    }

    #[test]
    fn command_alone_has_no_arguments() {
        assert_eq!(from_words(&["stop"]).unwrap().arguments, None);
    }

    #[test]
    fn object_is_taken_as_it_is() {
        assert_eq!(arguments(&[r#"{"value": 1}"#]), json!({"value": 1}));
        assert_eq!(arguments(&["{'a': 'x=y'}"]), json!({"a": "x=y"}));
    }

    #[test]
    fn values_are_json_or_else_strings() {
        let words = ["a=1", "b=true", "c=on", "d=", "e=[1, 2]", "f='g h'", "g=1G"];
        let expected = json!({
            "a": 1, "b": true, "c": "on", "d": "", "e": [1, 2], "f": "g h", "g": "1G"
        });
        assert_eq!(arguments(&words), expected);
    }

    #[test]
    fn dots_lead_into_objects() {
        let words = ["a.b=1", "a.c.d=x=y", "e=2"];
        assert_eq!(
            arguments(&words),
            json!({"a": {"b": 1, "c": {"d": "x=y"}}, "e": 2})
        );
    }

    #[test]
    fn faults_are_named() {
        assert!(fault(&["{\"value\": }"]).ends_with("expected value at line 1 column 11"));
        assert!(fault(&["a={\"b\""]).starts_with("The value of a is no JSON: "));
        assert!(fault(&["[1]"]).contains("must be a JSON object"));
        assert!(fault(&["5"]).contains("must be a JSON object"));
        assert!(fault(&["256M"]).starts_with("\"256M\" is no argument"));
        assert!(fault(&["a=1", "b"]).starts_with("\"b\" is no argument"));
        assert!(fault(&["=1"]).starts_with("\"=1\" is no argument"));
        assert!(fault(&["a=1", "a=2"]).starts_with("a is given twice"));
        assert!(fault(&["a=1", "a.b=2"]).starts_with("a.b is given twice"));
    }
}
