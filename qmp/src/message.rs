//! Messages: a request out of a JSON value (QMP specification, "Issuing Commands"), a reply and a
//! greeting into bytes.
//!
//! Every message out is one line that ends in CR LF. The order of the members is that of QEMU's
//! hash table, fixed here for the envelopes.

use serde_json::Value;

use crate::backend::CommandError;
use crate::command::types::Arguments;
use crate::json::{self, object};

/// What ends each line the server sends. Some clients split at exactly these two bytes.
pub const LINE_END: &[u8] = b"\r\n";

/// QEMU's version whose protocol this server speaks. In QEMU's order: `minor` and `micro` share a
/// bucket, where the last inserted leads.
const PROTOCOL_VERSION: [(&str, u64); 3] = [("major", 10), ("minor", 0), ("micro", 2)];

/// The program that speaks it.
const PACKAGE: &str = concat!("aerostat ", env!("CARGO_PKG_VERSION"));

/// A request that has passed the structural checks.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// The name of the command.
    pub command: String,
    /// The arguments; empty if the request has none.
    pub arguments: Arguments,
    /// Sent with `exec-oob` instead of `execute`.
    pub out_of_band: bool,
}

/// A request, or what is wrong with it, and in both cases the `id` to echo.
#[derive(Debug, PartialEq)]
pub struct Received {
    /// The `id` of the request, of any type.
    pub id: Option<Value>,
    /// The request.
    pub request: Result<Request, CommandError>,
}

impl Received {
    /// Checks the structure of a request. `allow_oob` tells whether the client has enabled
    /// out-of-band execution; without it `exec-oob` is an unknown member.
    pub fn from_value(value: Value, allow_oob: bool) -> Self {
        let Value::Object(members) = value else {
            let error = CommandError::generic("QMP input must be a JSON object");
            return Self {
                id: None,
                request: Err(error),
            };
        };
        let mut id = None;
        let mut command: Option<(String, String)> = None;
        let mut arguments = Arguments::new();
        let mut fault = None;
        // In hash order, and the first fault stands. The walk goes on for the sake of the id.
        for (name, value) in members {
            let checked = match name.as_str() {
                "id" => {
                    id = Some(value);
                    continue;
                }
                "execute" | "exec-oob" if name == "execute" || allow_oob => {
                    check_command(name, value, &mut command)
                }
                "arguments" => match value {
                    Value::Object(members) => {
                        arguments = members;
                        Ok(())
                    }
                    _ => Err((name, "must be an object".to_owned())),
                },
                _ => Err((name, "is unexpected".to_owned())),
            };
            fault = fault.or(checked.err());
        }
        let request = match (fault, command) {
            (Some((name, what)), _) => Err(CommandError::Generic(format!(
                "QMP input member '{name}' {what}"
            ))),
            (None, None) => Err(CommandError::generic("QMP input lacks member 'execute'")),
            (None, Some((key, command))) => Ok(Request {
                command,
                arguments,
                out_of_band: key == "exec-oob",
            }),
        };
        Self { id, request }
    }
}

/// Checks the member that names the command. `command` holds the member and the name found so
/// far; the error is the member and what is wrong with it.
fn check_command(
    member: String,
    value: Value,
    command: &mut Option<(String, String)>,
) -> Result<(), (String, String)> {
    let Value::String(name) = value else {
        return Err((member, "must be a string".to_owned()));
    };
    if let Some((other, _)) = command {
        return Err((member, format!("clashes with '{other}'")));
    }
    *command = Some((member, name));
    Ok(())
}

/// The answer to one request, or to input that is none.
#[derive(Debug, PartialEq)]
pub struct Reply {
    /// The `id` of the request.
    pub id: Option<Value>,
    /// What the command returned.
    pub result: Result<Value, CommandError>,
}

impl Reply {
    /// Appends the reply's line to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        match &self.result {
            Ok(value) => {
                out.extend_from_slice(b"{\"return\": ");
                json::write(value, out);
                if let Some(id) = &self.id {
                    out.extend_from_slice(b", \"id\": ");
                    json::write(id, out);
                }
            }
            Err(error) => {
                out.push(b'{');
                if let Some(id) = &self.id {
                    out.extend_from_slice(b"\"id\": ");
                    json::write(id, out);
                    out.extend_from_slice(b", ");
                }
                out.extend_from_slice(b"\"error\": {\"class\": ");
                json::write_string(error.class(), out);
                out.extend_from_slice(b", \"desc\": ");
                json::write_string(error.desc(), out);
                out.push(b'}');
            }
        }
        out.push(b'}');
        out.extend_from_slice(LINE_END);
    }
}

/// The same as [`version`] for people.
pub fn version_text() -> String {
    let [major, minor, micro] = PROTOCOL_VERSION.map(|(_, number)| number);
    format!("{major}.{minor}.{micro} ({PACKAGE})")
}

/// The return of `query-version`, also part of the greeting: the version of the protocol, and in
/// `package` the program that speaks it.
pub fn version() -> Value {
    let qemu = PROTOCOL_VERSION.map(|(name, number)| (name, number.into()));
    object([("qemu", object(qemu)), ("package", PACKAGE.into())])
}

/// Appends the greeting, which offers out-of-band execution, to `out`.
pub fn write_greeting(out: &mut Vec<u8>) {
    let capabilities = vec!["oob"].into();
    let greeting = object([("version", version()), ("capabilities", capabilities)]);
    json::write(&object([("QMP", greeting)]), out);
    out.extend_from_slice(LINE_END);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fault(received: Received) -> String {
        received.request.unwrap_err().to_string()
    }

    fn line(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn faults_are_reported_in_hash_order_and_keep_the_id() {
        let request = object([
            ("arguments", Value::Null),
            ("id", 1.into()),
            ("execute", Value::Null),
        ]);
        let received = Received::from_value(request, false);
        assert_eq!(received.id, Some(1.into()));
        assert_eq!(
            fault(received),
            "QMP input member 'execute' must be a string"
        );
    }

    #[test]
    fn exec_oob_is_a_member_only_when_enabled() {
        let received = |allow_oob| Received::from_value(json!({"exec-oob": "x"}), allow_oob);
        assert_eq!(
            fault(received(false)),
            "QMP input member 'exec-oob' is unexpected"
        );
        assert!(received(true).request.unwrap().out_of_band);
    }

    #[test]
    fn execute_clashes_with_exec_oob() {
        let request = object([("execute", "x".into()), ("exec-oob", "x".into())]);
        assert_eq!(
            fault(Received::from_value(request, true)),
            "QMP input member 'execute' clashes with 'exec-oob'"
        );
    }

    #[test]
    fn envelopes_have_the_order_of_objects() {
        let id = Some(Value::from("x"));
        let result = Ok(json!({}));
        let reply = line(|out| {
            Reply {
                id: id.clone(),
                result,
            }
            .write(out)
        });
        let value = object([("id", "x".into()), ("return", json!({}))]);
        assert_eq!(reply, line(|out| json::write(&value, out)) + "\r\n");

        let result = Err(CommandError::generic("d"));
        let reply = line(|out| Reply { id, result }.write(out));
        let error = object([("desc", "d".into()), ("class", "GenericError".into())]);
        let value = object([("error", error), ("id", "x".into())]);
        assert_eq!(reply, line(|out| json::write(&value, out)) + "\r\n");
    }

    #[test]
    fn greeting_names_the_protocol_version() {
        let package = env!("CARGO_PKG_VERSION");
        assert_eq!(
            line(write_greeting),
            format!(
                "{{\"QMP\": {{\"version\": {{\"qemu\": {{\"micro\": 2, \"minor\": 0, \"major\": 10}}, \
                 \"package\": \"aerostat {package}\"}}, \"capabilities\": [\"oob\"]}}}}\r\n"
            )
        );
    }
}
