//! Messages as a client sees them: a request into a line, a value into greeting, reply or event
//! (QMP specification, "Protocol Specification").

use serde_json::{Map, Value};

use super::error::{ClientError, Refusal};
use crate::json::{self, object};

/// What a server says first.
#[derive(Clone, Debug, PartialEq)]
pub struct Greeting {
    /// As `query-version` returns it: `qemu` with `major`, `minor` and `micro`, and `package`.
    pub version: Value,
    /// What the server offers to negotiate, such as `oob`.
    pub capabilities: Vec<String>,
}

/// What a server says after its greeting.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// The answer to a request.
    Reply(Reply),
    /// Something happened.
    Event(Event),
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The request's `id`.
    pub id: Option<Value>,
    /// What the command returned, or why it did not.
    pub result: Result<Value, Refusal>,
}

/// Something that happened, as the server told it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The event's name.
    pub name: String,
    /// The whole message: `event`, `timestamp` and, for most, `data`.
    pub message: Value,
}

impl Reply {
    /// Whether this is the answer to the request with this id. A server that could not read a
    /// request does not know its id, and neither has an error that no request is the cause of.
    #[must_use]
    pub fn answers(&self, id: &Value) -> bool {
        match &self.id {
            Some(own) => own == id,
            None => self.result.is_err(),
        }
    }
}

impl Event {
    /// What the event carries; null if nothing.
    #[must_use]
    pub fn data(&self) -> &Value {
        &self.message["data"]
    }
}

impl Greeting {
    /// The greeting that a message is.
    pub(super) fn from_value(message: &Value) -> Result<Self, ClientError> {
        if let Some(error) = message.get("error") {
            return Err(refusal(error).into());
        }
        let content = message["QMP"].as_object();
        let content = content.ok_or_else(|| ClientError::not_qmp(message))?;
        let offered = content.get("capabilities").and_then(Value::as_array);
        let names = offered.into_iter().flatten().filter_map(Value::as_str);
        Ok(Self {
            version: content.get("version").cloned().unwrap_or_default(),
            capabilities: names.map(str::to_owned).collect(),
        })
    }
}

impl Incoming {
    /// The reply or event that a message is.
    pub(super) fn from_value(message: Value) -> Result<Self, ClientError> {
        if let Some(name) = message["event"].as_str() {
            return Ok(Self::Event(Event {
                name: name.to_owned(),
                message,
            }));
        }
        let Value::Object(mut members) = message else {
            return Err(ClientError::not_qmp(&message));
        };
        let result = match (members.remove("return"), members.get("error")) {
            (Some(value), _) => Ok(value),
            (None, Some(error)) => Err(refusal(error)),
            (None, None) => return Err(ClientError::not_qmp(&members.into())),
        };
        let id = members.remove("id");
        Ok(Self::Reply(Reply { id, result }))
    }
}

fn refusal(error: &Value) -> Refusal {
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    Refusal {
        class: text("class"),
        desc: text("desc"),
    }
}

/// The line of a request.
pub(super) fn request(command: &str, arguments: Option<Map<String, Value>>, id: Value) -> Vec<u8> {
    let mut request = object([("execute", command.into()), ("id", id)]);
    if let Some(arguments) = arguments {
        request["arguments"] = arguments.into();
    }
    line(&request)
}

/// A value as a line.
pub(super) fn line(value: &Value) -> Vec<u8> {
    let mut line = Vec::new();
    json::write(value, &mut line);
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn event_is_known_by_its_name() {
        let message = json!({"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}});
        let Ok(Incoming::Event(event)) = Incoming::from_value(message) else {
            panic!("no event");
        };
        assert_eq!((&*event.name, event.data()), ("STOP", &Value::Null));
    }

    #[test]
    fn error_reply_has_class_and_text() {
        let message = json!({"error": {"class": "CommandNotFound", "desc": "no"}, "id": 7});
        let Ok(Incoming::Reply(reply)) = Incoming::from_value(message) else {
            panic!("no reply");
        };
        assert_eq!(reply.id, Some(json!(7)));
        let refusal = reply.result.unwrap_err();
        assert!(refusal.is_unknown_command());
        assert_eq!(refusal.to_string(), "CommandNotFound: no");
    }

    #[test]
    fn error_without_id_answers_what_was_asked() {
        let of = |message| match Incoming::from_value(message) {
            Ok(Incoming::Reply(reply)) => reply,
            other => panic!("{other:?}"),
        };
        let error = of(json!({"error": {"class": "GenericError", "desc": "deep"}}));
        assert!(error.answers(&json!(1)));
        let other = of(json!({"error": {"class": "GenericError", "desc": "x"}, "id": 2}));
        assert!(!other.answers(&json!(1)) && other.answers(&json!(2)));
        assert!(!of(json!({"return": {}})).answers(&json!(1)));
    }

    #[test]
    fn server_may_refuse_instead_of_greeting() {
        let message = json!({"error": {"class": "GenericError", "desc": "Too many clients"}});
        let error = Greeting::from_value(&message).unwrap_err();
        assert_eq!(error.to_string(), "GenericError: Too many clients");
    }

    #[test]
    fn message_of_another_kind_is_no_qmp() {
        for message in [json!({"hello": 1}), json!([]), json!(220)] {
            assert!(Incoming::from_value(message.clone()).is_err(), "{message}");
            assert!(Greeting::from_value(&message).is_err(), "{message}");
        }
    }

    #[test]
    fn request_without_arguments_has_no_member_for_them() {
        let line = request("stop", None, 1.into());
        assert_eq!(line, b"{\"execute\": \"stop\", \"id\": 1}\n");
    }
}
