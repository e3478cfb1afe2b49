//! Watching a resize: `x-query-balloon`, `x-balloon-wait` and `X_BALLOON_STATE`.

mod common;

use aerostat_tiny_guest::{BalloonDriver, Script};
use common::machine::Machine;
use common::setup::Setup;
use common::tiny::{DEVICE, PAGE, RINGS};
use common::typist::Typist;
use serde_json::{Value, json};

/// Where the pages begin that the guest gives away.
const FIRST_PFN: u32 = 0x1000;
const COUNT: u32 = 1024;
const MEMORY: u64 = 64 << 20;
/// What the guest is left with when it has given [`COUNT`] pages.
const TARGET: u64 = MEMORY - COUNT as u64 * PAGE;

/// A guest that gives [`COUNT`] pages for each character that is typed, and takes them again for
/// the next.
fn obedient() -> Script {
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let script = driver.init(Script::new()).puts("driving\n").echo_serial();
    let script = driver.inflate(script, FIRST_PFN, COUNT, 1, COUNT);
    let script = script.puts("given\n").echo_serial();
    driver.deflate(script, FIRST_PFN, COUNT, 0).puts("taken\n")
}

fn start(script: Script) -> Machine {
    let setup = Setup::tiny(script).expect("guest");
    // What these tests wait for is no stall, however long it takes.
    let setup = setup.argument("--balloon", "stall-after=10m");
    setup.start().expect("start")
}

/// A client that has negotiated.
fn client(machine: &Machine) -> Typist {
    let (mut client, _) = Typist::sit_down(machine).expect("sit down");
    client
        .type_in("{\"execute\": \"qmp_capabilities\"}")
        .expect("type");
    client.line().expect("line");
    client
}

fn ask(client: &mut Typist, command: &str, arguments: &Value, id: &str) {
    let request = json!({"execute": command, "arguments": arguments, "id": id});
    client.type_in(&request.to_string()).expect("type");
}

/// The next reply, and the events that came before it, `BALLOON_CHANGE` apart.
fn reply(client: &mut Typist) -> (Value, Vec<Value>) {
    let mut events = Vec::new();
    loop {
        let message = client.message().expect("message");
        match message["event"].as_str() {
            None => return (message, events),
            Some("BALLOON_CHANGE") => {}
            Some(_) => events.push(message),
        }
    }
}

fn returned(client: &mut Typist, command: &str, arguments: &Value) -> Value {
    ask(client, command, arguments, "now");
    let (reply, _) = reply(client);
    assert_eq!(reply["id"], "now", "{reply}");
    reply["return"].clone()
}

#[test]
fn waiting_is_answered_when_the_guest_is_there_and_other_commands_at_once() {
    let mut machine = start(obedient());
    let mut client = client(&machine);
    machine
        .console
        .wait_for("driving", common::typist::LIMIT)
        .expect("console");

    let wish = json!({"value": TARGET, "timeout-ms": 30_000});
    ask(&mut client, "x-balloon-wait", &wish, "later");
    assert_eq!(
        returned(&mut client, "query-balloon", &json!({}))["actual"],
        MEMORY
    );
    let before = returned(&mut client, "x-query-balloon", &json!({}));
    machine.console.send("k").expect("type");
    let (answer, events) = reply(&mut client);

    assert_eq!(before["state"], "inflating");
    assert_eq!(before["asked-pages"], COUNT);
    assert_eq!(before["driver-present"], true);
    let expected = json!({"outcome": "reached", "target": TARGET, "actual": TARGET});
    assert_eq!(answer, json!({"return": expected, "id": "later"}));
    let states: Vec<_> = events.iter().map(|event| &event["data"]["state"]).collect();
    assert_eq!(states, ["reached"]);
    let after = returned(&mut client, "x-query-balloon", &json!({}));
    assert_eq!(after["state"], "reached");
    assert_eq!(after["released"], u64::from(COUNT) * PAGE);
    assert!(after["rate"].as_u64().is_some_and(|rate| rate > 0));
    assert!(after["since"]["seconds"].as_u64() >= before["since"]["seconds"].as_u64());
}

#[test]
fn states_are_told_to_those_who_have_asked_for_more_than_qemu_has() {
    let mut machine = start(obedient());
    let mut knowing = client(&machine);
    let mut plain = client(&machine);
    machine
        .console
        .wait_for("driving", common::typist::LIMIT)
        .expect("console");
    assert_eq!(
        returned(&mut knowing, "x-query-balloon", &json!({}))["state"],
        "idle"
    );

    returned(&mut plain, "balloon", &json!({"value": TARGET}));
    let inflating = knowing.message().expect("event");
    machine.console.send("k").expect("type");
    machine
        .console
        .wait_for("given", common::typist::LIMIT)
        .expect("console");
    // The guest has written its size before, so its event is on the way.
    let mut events = Vec::new();
    while events.len() < 2 {
        events.push(knowing.message().expect("event"));
    }
    ask(&mut plain, "query-status", &json!({}), "status");
    let (_, to_plain) = reply(&mut plain);

    assert_eq!(inflating["event"], "X_BALLOON_STATE");
    assert_eq!(
        inflating["data"],
        json!({"state": "inflating", "target": TARGET, "actual": MEMORY})
    );
    let state = events
        .iter()
        .find(|event| event["event"] == "X_BALLOON_STATE");
    assert_eq!(
        state.expect("state")["data"],
        json!({"state": "reached", "target": TARGET, "actual": TARGET})
    );
    assert_eq!(to_plain, Vec::<Value>::new());
}

#[test]
fn waiting_ends_when_the_time_is_up_or_the_target_replaced() {
    // Nobody drives the balloon.
    let machine = start(Script::new());
    let mut first = client(&machine);
    let mut second = client(&machine);

    let short = json!({"value": TARGET, "timeout-ms": 100});
    ask(&mut first, "x-balloon-wait", &short, "short");
    let (timeout, _) = reply(&mut first);
    let long = json!({"timeout-ms": 60_000});
    ask(&mut first, "x-balloon-wait", &long, "long");
    returned(&mut first, "query-status", &json!({}));
    returned(&mut second, "balloon", &json!({"value": MEMORY}));
    let (replaced, _) = reply(&mut first);

    assert_eq!(
        timeout["return"],
        json!({"outcome": "timeout", "target": TARGET, "actual": MEMORY})
    );
    assert_eq!(replaced["id"], "long");
    assert_eq!(
        replaced["return"],
        json!({"outcome": "replaced", "target": MEMORY, "actual": MEMORY})
    );
}

#[test]
fn guest_that_does_not_move_stalls_and_has_no_driver() {
    let setup = Setup::tiny(Script::new()).expect("guest");
    let machine = setup
        .argument("--balloon", "stall-after=200ms")
        .start()
        .expect("start");
    let mut client = client(&machine);

    let wish = json!({"value": TARGET, "timeout-ms": 60_000});
    ask(&mut client, "x-balloon-wait", &wish, "later");
    let (answer, events) = reply(&mut client);
    let state = returned(&mut client, "x-query-balloon", &json!({}));

    assert_eq!(answer["return"]["outcome"], "stalled");
    let states: Vec<_> = events.iter().map(|event| &event["data"]["state"]).collect();
    assert_eq!(states, ["inflating", "stalled"]);
    assert_eq!(
        (&state["state"], &state["rate"]),
        (&"stalled".into(), &0.into())
    );
    assert_eq!(
        (&state["driver-present"], &state["features"]),
        (&false.into(), &json!([]))
    );
}

#[test]
fn waiting_needs_an_id_of_its_own_and_asks_for_nothing_without() {
    let machine = start(Script::new());
    let mut client = client(&machine);
    let request = json!({"execute": "x-balloon-wait", "arguments": {"value": 1, "timeout-ms": 1}});
    client.type_in(&request.to_string()).expect("type");
    let (without, _) = reply(&mut client);
    assert_eq!(
        without["error"]["desc"],
        "A command that is answered later needs an 'id'"
    );
    assert_eq!(
        returned(&mut client, "x-query-balloon", &json!({}))["target"],
        MEMORY
    );

    let wish = json!({"value": TARGET, "timeout-ms": 60_000});
    for _ in 0..2 {
        ask(&mut client, "x-balloon-wait", &wish, "same");
    }
    let (again, _) = reply(&mut client);
    assert_eq!(
        again["error"]["desc"],
        "Another command with this 'id' has not been answered yet"
    );
}

#[test]
fn number_of_waiting_commands_is_limited() {
    let machine = start(Script::new());
    let mut client = client(&machine);
    returned(&mut client, "balloon", &json!({"value": TARGET}));
    for number in 0..17 {
        let wish = json!({"timeout-ms": 60_000});
        ask(&mut client, "x-balloon-wait", &wish, &number.to_string());
    }
    let (refused, _) = reply(&mut client);
    assert_eq!(refused["id"], "16");
    assert_eq!(
        refused["error"]["desc"],
        "16 commands of this client have not been answered yet"
    );
}

#[test]
fn client_that_falls_silent_still_gets_its_answer_and_then_the_end() {
    let machine = start(Script::new());
    let mut client = client(&machine);
    let wish = json!({"value": TARGET, "timeout-ms": 300});
    ask(&mut client, "x-balloon-wait", &wish, "last");
    client.fall_silent().expect("shutdown");
    let (answer, _) = reply(&mut client);
    assert_eq!(answer["return"]["outcome"], "timeout");
    assert_eq!(client.line().expect("end"), "");
}

#[test]
fn waiting_ends_with_an_error_when_the_machine_does() {
    let machine = start(Script::new());
    let mut client = client(&machine);
    let wish = json!({"value": TARGET, "timeout-ms": 60_000});
    ask(&mut client, "x-balloon-wait", &wish, "last");
    ask(&mut client, "quit", &json!({}), "quit");
    let (quit, _) = reply(&mut client);
    let (answer, _) = reply(&mut client);
    assert_eq!(quit, json!({"return": {}, "id": "quit"}));
    assert_eq!(answer["id"], "last");
    assert_eq!(answer["error"]["desc"], "The machine has ended");
    assert_eq!(client.line().expect("end"), "");
}
