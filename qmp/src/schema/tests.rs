//! What the server takes and produces is what its schema says, checked by a reader of the schema
//! that knows nothing of the table.

use std::collections::BTreeMap;

use serde_json::{Map, json};

use super::*;
use crate::backend::{GuestStatistics, RunState};
use crate::events::{Event, PanicAction, ShutdownCause, TimedEvent};
use crate::resize::{BalloonState, Outcome, Sizes};
use crate::session::{Answer, Session};
use crate::testing::{Machine, in_context};

/// The schema by name.
struct Schema(BTreeMap<String, Value>);

impl Schema {
    fn new() -> Self {
        let infos = schema();
        let infos = infos.as_array().unwrap().iter();
        let by_name = infos.map(|info| (info["name"].as_str().unwrap().to_owned(), info.clone()));
        Self(by_name.collect())
    }

    fn info(&self, name: &Value) -> &Value {
        &self.0[name.as_str().unwrap()]
    }

    /// Whether a value is of a type.
    fn allows(&self, ty: &Value, value: &Value) -> bool {
        let info = self.info(ty);
        match info["meta-type"].as_str().unwrap() {
            "builtin" => match info["json-type"].as_str().unwrap() {
                "string" => value.is_string(),
                "int" => value.is_i64() || value.is_u64(),
                "boolean" => value.is_boolean(),
                other => other == "value",
            },
            "enum" => {
                let members = info["members"].as_array().unwrap();
                members.iter().any(|member| member["name"] == *value)
            }
            "array" => value.as_array().is_some_and(|all| {
                all.iter()
                    .all(|one| self.allows(&info["element-type"], one))
            }),
            "object" => value
                .as_object()
                .is_some_and(|object| self.allows_members(info, object)),
            other => panic!("{other} is no type"),
        }
    }

    fn allows_members(&self, info: &Value, object: &Map<String, Value>) -> bool {
        let members = info["members"].as_array().unwrap();
        let known = |key: &String| members.iter().any(|member| member["name"] == **key);
        let fits = |member: &Value| match object.get(member["name"].as_str().unwrap()) {
            Some(value) => self.allows(&member["type"], value),
            None => member.get("default").is_some(),
        };
        object.keys().all(known) && members.iter().all(fits)
    }
}

/// Arguments with which a command succeeds; several for one that returns different things.
fn samples(command: &str) -> Vec<Value> {
    let balloon = "/machine/peripheral/balloon0";
    match command {
        "balloon" => vec![json!({"value": 1})],
        "x-balloon-wait" => vec![
            json!({"timeout-ms": 0}),
            json!({"value": 1, "timeout-ms": 0}),
        ],
        "x-query-guest-stats" => vec![json!({"timeout-ms": 0})],
        "human-monitor-command" => vec![
            json!({"command-line": "help"}),
            json!({"command-line": "nope", "cpu-index": 0}),
        ],
        "yank" => vec![
            json!({"instances": []}),
            json!({"instances": [{"type": "chardev", "id": "compat_monitor0"}]}),
        ],
        "query-blockstats" => vec![json!({}), json!({"query-nodes": true})],
        "qom-list" => ["/", "/machine", "/machine/unattached/device[0]", balloon]
            .map(|path| json!({ "path": path }))
            .to_vec(),
        "qom-get" => ["type", "realized", "parent_bus", "guest-stats"]
            .map(|property| json!({"path": balloon, "property": property}))
            .to_vec(),
        "qom-set" => {
            vec![json!({"path": balloon, "property": "guest-stats-polling-interval", "value": 2})]
        }
        "qom-list-types" => vec![json!({}), json!({"implements": "device", "abstract": true})],
        "qom-list-properties" | "device-list-properties" => {
            vec![json!({"typename": "virtio-balloon-device"})]
        }
        // All others take nothing.
        _ => vec![json!({})],
    }
}

#[test]
fn every_command_takes_and_returns_what_the_schema_says() {
    let schema = Schema::new();
    for command in COMMANDS {
        let info = &schema.0[command.name];
        assert_eq!(info["meta-type"], "command");
        assert_eq!(info.get("allow-oob").is_some(), command.allow_oob);
        for arguments in samples(command.name) {
            assert!(
                schema.allows(&info["arg-type"], &arguments),
                "{}: {arguments}",
                command.name
            );
            let returned = executed(command.name, &arguments);
            assert!(
                schema.allows(&info["ret-type"], &returned),
                "{} returns {returned}",
                command.name
            );
        }
    }
}

/// What a command returns to a client that has negotiated, unless it is the negotiation.
fn executed(command: &str, arguments: &Value) -> Value {
    let mut machine = Machine {
        status: RunState::Running,
        statistics: Some(GuestStatistics::default()),
        answers_at_once: true,
        ..Machine::default()
    };
    let mut session = Session::default();
    if command != "qmp_capabilities" {
        run(
            &mut session,
            &mut machine,
            json!({"execute": "qmp_capabilities"}),
        );
    }
    let request = json!({"execute": command, "arguments": arguments, "id": 0});
    run(&mut session, &mut machine, request)
}

fn run(session: &mut Session, machine: &mut Machine, request: Value) -> Value {
    in_context(machine, |context| {
        let reply = match session.execute(Ok(request), context) {
            Answer::Now(reply) => reply,
            Answer::Later => {
                let now = std::time::Instant::now();
                session
                    .due(context.machine, context.steering.resize(), now)
                    .remove(0)
            }
        };
        reply.result.unwrap()
    })
}

#[test]
fn what_the_schema_does_not_allow_is_refused() {
    let schema = Schema::new();
    for (command, arguments) in [
        ("balloon", json!({})),
        ("balloon", json!({"value": 1.5})),
        ("balloon", json!({"value": "1"})),
        ("balloon", json!({"value": 1, "x": 1})),
        ("stop", json!({"x": 1})),
        ("yank", json!({"instances": [{"type": "x", "id": "y"}]})),
        ("qom-get", json!({"path": "/"})),
    ] {
        let ty = &schema.0[command]["arg-type"];
        assert!(!schema.allows(ty, &arguments), "{command} {arguments}");
        let members = crate::command::find(command).unwrap().arguments;
        let arguments = arguments.as_object().unwrap();
        assert!(crate::command::types::check_arguments(members, arguments).is_err());
    }
}

#[test]
fn every_event_is_in_the_schema_with_its_data() {
    let schema = Schema::new();
    let action = PanicAction::Pause;
    let all = [
        Event::Stop,
        Event::Resume,
        Event::Shutdown(ShutdownCause::HostUi),
        Event::Reset(ShutdownCause::GuestReset),
        Event::Powerdown,
        Event::GuestPanicked { action },
        Event::GuestCrashloaded { action },
        Event::BalloonChange { actual_bytes: 1 },
        Event::BalloonState {
            state: BalloonState::Reached,
            sizes: Sizes::default(),
        },
        Event::BalloonDeflated {
            before: 1,
            sizes: Sizes::default(),
        },
    ];
    assert_eq!(all.len(), EVENTS.len());
    for event in all {
        let mut line = Vec::new();
        TimedEvent::now(event).write(&mut line);
        let message: Value = serde_json::from_slice(&line).unwrap();
        let info = schema.info(&message["event"]);
        assert_eq!(info["meta-type"], "event");
        let data = message.get("data").cloned().unwrap_or_else(|| json!({}));
        assert!(schema.allows(&info["arg-type"], &data), "{message}");
    }
}

#[test]
fn names_of_enumerations_are_those_that_are_used() {
    use BalloonState::*;
    for state in [Idle, Inflating, Deflating, Stalled, Reached] {
        assert!(BalloonState::NAMES.contains(&state.name()));
    }
    for outcome in [
        Outcome::Reached,
        Outcome::Stalled,
        Outcome::Deflated,
        Outcome::Timeout,
        Outcome::Replaced,
    ] {
        assert!(Outcome::NAMES.contains(&outcome.name()));
    }
    for action in [PanicAction::Pause, PanicAction::Poweroff, PanicAction::Run] {
        assert!(PanicAction::NAMES.contains(&action.name()));
    }
}

#[test]
fn schema_says_everything_once_and_of_every_type_it_names() {
    let schema = Schema::new();
    let infos = super::schema();
    let infos = infos.as_array().unwrap();
    assert_eq!(infos.len(), schema.0.len());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    for info in infos {
        let members = info["members"].as_array().into_iter().flatten();
        let types = members.filter_map(|member| text(&member["type"]));
        let others = ["arg-type", "ret-type", "element-type"].map(|key| text(&info[key]));
        for name in types.chain(others.into_iter().flatten()) {
            assert!(schema.0.contains_key(&name), "{name}");
        }
    }
    assert_eq!(
        schema.0["0"],
        json!({"name": "0", "meta-type": "object", "members": []})
    );
}
