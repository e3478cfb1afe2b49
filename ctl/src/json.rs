//! JSON as people type it: QEMU's dialect, in which strings may have single quotes, with the place
//! of a fault.

use aerostat_qmp::framer::Framer;
use serde_json::Value;

/// Why a text is no JSON.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A fault with its place.
    #[error("{0}")]
    Fault(serde_json::Error),
    /// A fault that is none for others, such as the same key twice.
    #[error("{0}")]
    Dialect(String),
}

/// The value that all of `text` is.
///
/// # Errors
///
/// When it is none, or more than one.
pub fn parse(text: &str) -> Result<Value, TextError> {
    match parse_dialect(text) {
        Ok(value) => Ok(value),
        // The parser of the protocol knows no places.
        Err(fault) => Err(match serde_json::from_str::<Value>(text) {
            Err(error) if !begins_single_quoted(text, &error) => TextError::Fault(error),
            _ => TextError::Dialect(fault),
        }),
    }
}

/// Whether what the strict parser does not like is a string in single quotes, which is none here.
fn begins_single_quoted(text: &str, error: &serde_json::Error) -> bool {
    let line = text.lines().nth(error.line().saturating_sub(1));
    let at = error.column().saturating_sub(1);
    line.is_some_and(|line| line.as_bytes().get(at) == Some(&b'\''))
}

fn parse_dialect(text: &str) -> Result<Value, String> {
    // A number ends only where something else begins.
    let line = format!("{text}\n");
    let mut input = line.as_bytes();
    let message = Framer::default().next_message(&mut input);
    let message = message.ok_or("the text ends too early")?;
    let value = message.map_err(|error| error.to_string())?;
    if input.iter().all(u8::is_ascii_whitespace) {
        Ok(value)
    } else {
        Err("more follows the value".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_both_dialects_are_taken() {
        for (text, value) in [
            ("1", json!(1)),
            ("18446744073709551615", json!(u64::MAX)),
            ("-9223372036854775808", json!(i64::MIN)),
            ("1.5", json!(1.5)),
            ("true", json!(true)),
            (r#"{"a": [1, {"b": null}]}"#, json!({"a": [1, {"b": null}]})),
            ("'a b'", json!("a b")),
            ("\"é\"", json!("é")),
        ] {
            assert_eq!(parse(text).unwrap(), value, "{text}");
        }
    }

    #[test]
    fn faults_have_a_place() {
        for (text, said) in [
            ("{\"a\": }", "line 1 column 7"),
            ("{\"a\":\n 1,, }", "line 2 column 4"),
            ("{", "line 1 column 1"),
            ("1 2", "line 1 column 3"),
            ("{} x", "line 1 column 4"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn single_quotes_are_not_blamed() {
        for text in ["{'value': }", "['a', }", "[1,\n 'b' 2]"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("JSON parse error, "), "{text}: {error}");
        }
    }

    #[test]
    fn same_key_twice_is_a_fault() {
        let error = parse(r#"{"a": 1, "a": 2}"#).unwrap_err();
        assert_eq!(error.to_string(), "JSON parse error, duplicate key");
    }
}
