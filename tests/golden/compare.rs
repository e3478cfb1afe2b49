//! Compares what came with what was recorded.

use serde_json::Value;

/// Whether the bytes `got` are what the step of a case wants.
pub fn matches(step: &Value, wanted: &[Value], got: &str) -> bool {
    let lines: Vec<_> = got.split_inclusive('\n').collect();
    if lines.len() != wanted.len() {
        return false;
    }
    let raw = step["recv_raw"].as_str();
    let raw: Vec<_> = raw
        .map(|raw| raw.split_inclusive('\n').collect())
        .unwrap_or_default();
    let line_matches = |index: usize, line: &str| match raw.get(index) {
        Some(raw) => raw_matches(raw, line),
        None => value_matches(&wanted[index], line),
    };
    if step["unordered"] == true {
        return (0..wanted.len()).all(|index| lines.iter().any(|line| line_matches(index, line)));
    }
    lines
        .iter()
        .enumerate()
        .all(|(index, line)| line_matches(index, line))
}

/// Whether `line` is `pattern`, in which `$ANY` stands for one scalar.
fn raw_matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("$ANY");
    let first = parts.next().unwrap_or_default();
    let rest = line.strip_prefix(first);
    let rest = parts.try_fold(rest, |rest, part| {
        Some(rest.and_then(|rest| after_scalar(rest)?.strip_prefix(part)))
    });
    rest.flatten() == Some("")
}

fn after_scalar(text: &str) -> Option<&str> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let _ = values.next()?.ok()?;
    text.get(values.byte_offset()..)
}

/// Whether `line` holds the value `wanted`, with the wildcards of the recordings.
fn value_matches(wanted: &Value, line: &str) -> bool {
    if let Some(raw) = wanted["$RAW"].as_str() {
        return line.trim_end() == raw;
    }
    serde_json::from_str(line).is_ok_and(|got| is_like(wanted, &got))
}

fn is_like(wanted: &Value, got: &Value) -> bool {
    match (wanted, got) {
        (Value::String(any), _) if any == "$ANY" => true,
        (Value::Array(wanted), Value::Array(got))
            if wanted.first().is_some_and(|first| first == "$CONTAINS") =>
        {
            wanted[1..]
                .iter()
                .all(|element| got.iter().any(|other| is_like(element, other)))
        }
        (Value::Array(wanted), Value::Array(got)) => {
            wanted.len() == got.len() && wanted.iter().zip(got).all(|(w, g)| is_like(w, g))
        }
        (Value::Object(wanted), Value::Object(got)) => {
            let like = |key| {
                got.get(key)
                    .is_some_and(|value| is_like(&wanted[key], value))
            };
            wanted.len() == got.len() && wanted.keys().all(like)
        }
        _ => wanted == got,
    }
}
