//! What state a machine is in, for people and for programs.

use std::fmt::Write as _;

use aerostat_qmp::client::ClientError;
use serde_json::{Map, Value};

use crate::amount::amount;
use crate::connect::Session;
use crate::failure::Failure;
use crate::output::print;

/// Prints the state as a table, or as JSON with sizes in bytes.
///
/// # Errors
///
/// When the machine has gone, or does not answer in time.
pub fn run(session: &mut Session, as_json: bool) -> Result<(), Failure> {
    let status = gather(session)?;
    if as_json {
        return print(&format!("{:#}", Value::from(status)));
    }
    print(table(&status.into()).trim_end())
}

/// What the machine says of itself; what it does not say is left out.
fn gather(session: &mut Session) -> Result<Map<String, Value>, ClientError> {
    let mut status = Map::new();
    let mut set = |name: &str, value: &Value| {
        if !value.is_null() {
            status.insert(name.to_owned(), value.clone());
        }
    };
    let mut ask = |command| session.ask(command).map(Option::unwrap_or_default);
    set("name", &ask("query-name")?["name"]);
    set("version", &ask("query-version")?);
    let run_state = ask("query-status")?;
    set("status", &run_state["status"]);
    set("running", &run_state["running"]);
    let memory = ask("query-memory-size-summary")?;
    set("memory", &total(&memory));
    set("cpus", &ask("query-cpus-fast")?);
    set("balloon", &balloon(&mut ask)?);
    Ok(status)
}

/// Memory at boot and what was plugged in since.
pub fn total(summary: &Value) -> Value {
    let part = |name: &str| summary[name].as_u64();
    part("base-memory").map_or(Value::Null, |base| {
        base.saturating_add(part("plugged-memory").unwrap_or(0))
            .into()
    })
}

/// The balloon with all that the server says of it.
fn balloon(
    ask: &mut impl FnMut(&'static str) -> Result<Value, ClientError>,
) -> Result<Value, ClientError> {
    let extended = ask("x-query-balloon")?;
    if !extended.is_null() {
        return Ok(extended);
    }
    ask("query-balloon")
}

/// The table: a row for each thing that is known.
fn table(status: &Value) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<10}{value}");
        }
    };
    let text_of = |value: &Value| value.as_str().map(str::to_owned);
    let amount_of = |value: &Value| value.as_u64().map(amount);
    row("name", text_of(&status["name"]));
    row("version", version(&status["version"]));
    row("state", text_of(&status["status"]));
    row("cpus", cpus(&status["cpus"]));
    row("memory", amount_of(&status["memory"]));
    let balloon = &status["balloon"];
    row("guest has", amount_of(&balloon["actual"]));
    row("target", amount_of(&balloon["target"]));
    row("balloon", balloon_state(balloon));
    row("released", amount_of(&balloon["released"]));
    text
}

/// The program with the version of the protocol, as a greeting or `query-version` has them.
pub fn version(version: &Value) -> Option<String> {
    let number = |name: &str| version["qemu"][name].as_u64();
    let [major, minor, micro] = ["major", "minor", "micro"].map(number);
    let protocol = format!("{}.{}.{}", major?, minor?, micro?);
    Some(match version["package"].as_str().map(str::trim) {
        None | Some("") => format!("QEMU {protocol}"),
        Some(package) if package.starts_with("aerostat") => {
            format!("{package} (QMP of QEMU {protocol})")
        }
        Some(package) => format!("QEMU {protocol} ({package})"),
    })
}

/// The number of CPUs, with the host's threads that run them.
fn cpus(cpus: &Value) -> Option<String> {
    let cpus = cpus.as_array()?;
    let threads: Vec<String> = cpus
        .iter()
        .filter_map(|cpu| cpu["thread-id"].as_u64())
        .map(|thread| thread.to_string())
        .collect();
    Some(match threads.as_slice() {
        [] => cpus.len().to_string(),
        [thread] => format!("{} (thread {thread})", cpus.len()),
        threads => format!("{} (threads {})", cpus.len(), threads.join(", ")),
    })
}

/// The balloon's state in words.
fn balloon_state(balloon: &Value) -> Option<String> {
    let mut state = balloon["state"].as_str()?.to_owned();
    if let Some(rate @ 1..) = balloon["rate"].as_u64() {
        // Writing to a String cannot fail.
        let _ = write!(state, ", {}/s", amount(rate));
    }
    if balloon["driver-present"] == false {
        state.push_str(", no driver in the guest");
    }
    Some(state)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_has_no_row() {
        let status = json!({"status": "paused", "balloon": {"actual": 1 << 28}});
        assert_eq!(table(&status), "state     paused\nguest has 256 MiB\n");
    }

    #[test]
    fn extension_adds_target_and_state() {
        let status = json!({
            "name": "vm1",
            "status": "running",
            "memory": 1u64 << 29,
            "cpus": [{"cpu-index": 0, "thread-id": 7}, {"cpu-index": 1, "thread-id": 8}],
            "balloon": {
                "actual": 300 << 20, "target": 256 << 20, "state": "inflating",
                "rate": 20 << 20, "driver-present": true, "released": 212 << 20
            },
        });
        assert_eq!(
            table(&status),
            "name      vm1\n\
             state     running\n\
             cpus      2 (threads 7, 8)\n\
             memory    512 MiB\n\
             guest has 300 MiB\n\
             target    256 MiB\n\
             balloon   inflating, 20 MiB/s\n\
             released  212 MiB\n"
        );
    }

    #[test]
    fn balloon_without_driver_says_so() {
        let balloon = json!({"state": "stalled", "rate": 0, "driver-present": false});
        let state = balloon_state(&balloon).unwrap();
        assert_eq!(state, "stalled, no driver in the guest");
    }

    #[test]
    fn version_names_the_program() {
        let version_of = |package: &str| {
            let qemu = json!({"major": 7, "minor": 2, "micro": 19});
            version(&json!({"qemu": qemu, "package": package})).unwrap()
        };
        assert_eq!(version_of(""), "QEMU 7.2.19");
        assert_eq!(version_of("v7.2.19"), "QEMU 7.2.19 (v7.2.19)");
        assert_eq!(
            version_of("aerostat 0.1.0"),
            "aerostat 0.1.0 (QMP of QEMU 7.2.19)"
        );
        assert_eq!(
            version_of("Debian 1:7.2+dfsg-7"),
            "QEMU 7.2.19 (Debian 1:7.2+dfsg-7)"
        );
    }

    #[test]
    fn plugged_memory_counts() {
        assert_eq!(total(&json!({"base-memory": 4, "plugged-memory": 2})), 6);
        assert_eq!(total(&Value::Null), Value::Null);
    }
}
