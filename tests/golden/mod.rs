//! Plays one recorded case: connections, steps, comparison.

mod compare;
mod host;
mod translation;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use compare::matches;
use host::Host;
pub use translation::Translation;

/// How long a server may take to answer, unless the step says otherwise.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a line must be quiet to count as having nothing more to say.
const QUIET: Duration = Duration::from_millis(60);

/// A step that waits for silence and takes so much longer was not played in time: this process did
/// not get a CPU.
const LATE: Duration = Duration::from_millis(250);
/// How often a case is played until it is played in time.
const ATTEMPTS: usize = 5;

/// Plays `case`; the error tells the step and what came instead. Much in a case is a matter of
/// time: one that fails and was not played in time is played again.
pub fn play(case: &Value) -> Result<(), String> {
    let mut outcome = Err("not played".to_owned());
    for _ in 0..ATTEMPTS {
        let mut is_late = false;
        outcome = play_once(case, &mut is_late);
        if outcome.is_ok() || !is_late {
            break;
        }
    }
    outcome
}

fn play_once(case: &Value, is_late: &mut bool) -> Result<(), String> {
    let host = Host::start(&case["vm"])?;
    let mut connections = BTreeMap::from([("a".to_owned(), host.connect(1)?)]);
    let steps = case["steps"].as_array().ok_or("no steps")?;
    for (index, step) in steps.iter().enumerate() {
        let begun = Instant::now();
        let outcome = take(step, &host, &mut connections);
        let planned = ["within_ms", "sleep_ms"].map(|key| step[key].as_u64().unwrap_or(0));
        let planned = Duration::from_millis(planned.iter().sum()) + 2 * QUIET;
        *is_late |= begun.elapsed() > planned + LATE;
        outcome.map_err(|what| format!("step {index}: {what}"))?;
    }
    Ok(())
}

fn take(
    step: &Value,
    host: &Host,
    connections: &mut BTreeMap<String, UnixStream>,
) -> Result<(), String> {
    let text = |key: &str| step[key].as_str().map(str::to_owned);
    let number = |key: &str| step[key].as_u64();
    let name = text("conn").unwrap_or_else(|| "a".to_owned());
    if let Some(pages) = number("guest_set_actual_pages") {
        host.set_actual_pages(pages)?;
    } else if let Some(pages) = number("guest_num_pages") {
        let actual = u64::from(host.num_pages());
        if actual != pages {
            return Err(format!("num_pages is {actual}, not {pages}"));
        }
    } else if let Some(ms) = number("sleep_ms") {
        std::thread::sleep(Duration::from_millis(ms));
    } else if let Some(name) = text("connect") {
        let socket = number("socket").unwrap_or(1);
        connections.insert(name, host.connect(socket)?);
    } else if let Some(name) = text("close") {
        connections.remove(&name).ok_or("no such connection")?;
    } else if let Some(name) = text("shutdown_write") {
        let connection = connections.get(&name).ok_or("no such connection")?;
        connection
            .shutdown(Shutdown::Write)
            .map_err(|error| error.to_string())?;
    } else {
        let connection = connections.get_mut(&name).ok_or("no such connection")?;
        if step.get("recv").is_some() {
            return receive(step, connection);
        }
        let bytes = bytes_to_send(step)?;
        send(step, &bytes, connection).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn bytes_to_send(step: &Value) -> Result<Vec<u8>, String> {
    let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let repeat = &step["send_repeat"];
    if repeat.is_object() {
        let count = repeat["count"].as_u64().ok_or("no count")?;
        let count = usize::try_from(count).map_err(|error| error.to_string())?;
        let body = part(&repeat["text"]).repeat(count);
        return Ok((part(&repeat["prefix"]) + &body + &part(&repeat["suffix"])).into_bytes());
    }
    if let Some(text) = step["send_b64"].as_str() {
        let bytes = BASE64_STANDARD.decode(text);
        return bytes.map_err(|error| error.to_string());
    }
    let text = step["send"].as_str();
    text.map(|text| text.as_bytes().to_vec())
        .ok_or_else(|| format!("no such step: {step}"))
}

fn send(step: &Value, bytes: &[u8], connection: &mut UnixStream) -> std::io::Result<()> {
    if step["bytewise"] == true {
        return bytes
            .chunks(1)
            .try_for_each(|byte| connection.write_all(byte));
    }
    connection.write_all(bytes)
}

fn receive(step: &Value, connection: &mut UnixStream) -> Result<(), String> {
    let wanted = step["recv"].as_array().ok_or("recv is no list")?;
    let at_eof = step["eof"] == true;
    let within = step["within_ms"].as_u64().map(Duration::from_millis);
    let within = within.unwrap_or(if wanted.is_empty() && !at_eof {
        2 * QUIET
    } else {
        ANSWER
    });
    let end = Instant::now() + within;

    /// What has come is read even when the time is up.
    const AT_ONCE: Duration = Duration::from_millis(1);
    let mut got = Vec::new();
    let mut eof = false;
    let mut is_last = false;
    while !is_last {
        let lines = got.iter().filter(|&&byte| byte == b'\n').count();
        let complete = lines >= wanted.len() && !at_eof && !wanted.is_empty();
        let left = if complete {
            QUIET
        } else {
            end.saturating_duration_since(Instant::now())
        };
        is_last = left.is_zero();
        connection
            .set_read_timeout(Some(left.max(AT_ONCE)))
            .map_err(|error| error.to_string())?;
        let mut buffer = [0; 65536];
        match connection.read(&mut buffer) {
            Ok(0) => {
                eof = true;
                break;
            }
            Ok(count) => got.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error.to_string()),
        }
    }
    let got = String::from_utf8(got).map_err(|error| error.to_string())?;
    if eof != at_eof {
        return Err(format!("end of file: {eof}, after {got:?}"));
    }
    matches(step, wanted, &got)
        .then_some(())
        .ok_or_else(|| format!("wanted {step}\ngot {got:?}"))
}
