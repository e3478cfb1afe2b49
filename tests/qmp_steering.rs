//! What a guest is asked for, where that is not simply what a client wants: limits, guests that
//! are stuck, and guests that take memory back. And what becomes of what it tells by itself.

mod common;

use aerostat_tiny_guest::{BalloonDriver, Script};
use common::machine::Machine;
use common::setup::Setup;
use common::tiny::{DEVICE, RINGS};
use common::typist::{LIMIT, Typist};
use serde_json::{Value, json};

/// Where the pages begin that the guest gives away.
const FIRST_PFN: u32 = 0x1000;
const COUNT: u32 = 1024;
const MEMORY: u64 = 64 << 20;
/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM.
const DEFLATE_ON_OOM: u32 = 1 << 2;

/// What the guest is left with when it has given so many pages.
fn without(pages: u32) -> u64 {
    MEMORY - u64::from(pages) * 4096
}

fn start(script: Script, options: &str) -> Machine {
    let setup = Setup::tiny(script).expect("guest");
    let machine = setup.argument("--balloon", options).start();
    machine.expect("start")
}

/// A client that has negotiated and gets the events that QEMU does not have.
fn client(machine: &Machine) -> Typist {
    let (mut client, _) = Typist::sit_down(machine).expect("sit down");
    for command in ["qmp_capabilities", "x-query-balloon"] {
        client
            .type_in(&json!({"execute": command}).to_string())
            .expect("type");
        client.line().expect("line");
    }
    client
}

/// What the command returns; events that come before are passed over.
fn returned(client: &mut Typist, command: &str, arguments: &Value) -> Value {
    let request = json!({"execute": command, "arguments": arguments, "id": "it"});
    client.type_in(&request.to_string()).expect("type");
    loop {
        let message = client.message().expect("message");
        if message["id"] == "it" {
            return message["return"].clone();
        }
    }
}

fn event(client: &mut Typist, name: &str) -> Value {
    loop {
        let message = client.message().expect("message");
        if message["event"] == name {
            return message["data"].clone();
        }
    }
}

fn wait_for(machine: &mut Machine, text: &str) {
    machine.console.wait_for(text, LIMIT).expect("console");
}

/// A guest that gives so many pages when it is asked for `asked` in all.
fn gives(driver: &mut BalloonDriver, script: Script, asked: u32, from: u32, to: u32) -> Script {
    let script = script.wait32(driver.num_pages(), u32::MAX, asked);
    driver.inflate(script, FIRST_PFN + from, to - from, 1, to)
}

#[test]
fn guest_is_never_asked_to_have_less_than_the_least() {
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let script = driver.init(Script::new());
    let script = gives(&mut driver, script, COUNT, 0, COUNT);
    let machine = start(script, "min=60M,stall-after=10m");
    let mut client = client(&machine);

    let wish = json!({"value": 1, "timeout-ms": 60_000});
    let waited = returned(&mut client, "x-balloon-wait", &wish);
    let state = returned(&mut client, "x-query-balloon", &json!({}));

    let least = without(COUNT);
    assert_eq!(
        waited,
        json!({"outcome": "reached", "target": least, "actual": least})
    );
    assert_eq!(
        (&state["min"], &state["asked-pages"]),
        (&least.into(), &COUNT.into())
    );
}

#[test]
fn guest_is_asked_step_by_step_where_there_is_a_rate() {
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    // A tenth of a second's part of 10 MiB/s is a MiB: a guest that is asked for more hangs.
    let step = COUNT / 4;
    let script = (0..4).fold(driver.init(Script::new()), |script, number| {
        let (from, to) = (number * step, (number + 1) * step);
        gives(&mut driver, script, to, from, to)
    });
    let machine = start(script, "max-rate=10M/s,stall-after=10m");
    let mut client = client(&machine);

    let target = without(COUNT);
    let wish = json!({"value": target, "timeout-ms": 60_000});
    let waited = returned(&mut client, "x-balloon-wait", &wish);
    let state = returned(&mut client, "x-query-balloon", &json!({}));

    assert_eq!(
        waited,
        json!({"outcome": "reached", "target": target, "actual": target})
    );
    assert_eq!(state["max-rate"], 10 << 20);
}

#[test]
fn guest_that_is_stuck_is_left_alone() {
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let script = driver.init(Script::new());
    let script = gives(&mut driver, script, COUNT, 0, COUNT / 2);
    let script = script
        .wait32(driver.num_pages(), u32::MAX, COUNT / 2)
        .puts("left alone\n");
    let mut machine = start(script, "stall-after=300ms");
    let mut client = client(&machine);

    let wish = json!({"value": without(COUNT), "timeout-ms": 60_000});
    let waited = returned(&mut client, "x-balloon-wait", &wish);
    wait_for(&mut machine, "left alone");
    let state = returned(&mut client, "x-query-balloon", &json!({}));

    assert_eq!(waited["outcome"], "stalled");
    assert_eq!(state["state"], "stalled");
    assert_eq!(state["target"], without(COUNT));
}

#[test]
fn target_follows_a_guest_that_takes_memory_back() {
    let mut driver = BalloonDriver::new(DEVICE, RINGS).with_features(DEFLATE_ON_OOM);
    let script = driver.init(Script::new());
    let script = gives(&mut driver, script, COUNT, 0, COUNT).echo_serial();
    let script = driver.deflate(script, FIRST_PFN, COUNT / 4, COUNT / 4 * 3);
    let script = script
        .wait32(driver.num_pages(), u32::MAX, COUNT / 4 * 3)
        .puts("followed\n");
    let mut machine = start(script, "deflate-on-oom=on,stall-after=10m");
    let mut client = client(&machine);
    let wish = json!({"value": without(COUNT), "timeout-ms": 60_000});
    let given = returned(&mut client, "x-balloon-wait", &wish);

    machine.console.send("k").expect("type");
    let told = event(&mut client, "X_BALLOON_DEFLATED");
    wait_for(&mut machine, "followed");

    assert_eq!(given["outcome"], "reached");
    let now = without(COUNT / 4 * 3);
    assert_eq!(
        told,
        json!({"before": without(COUNT), "target": now, "actual": now})
    );
}

#[test]
fn guest_after_a_reset_has_given_nothing_before_it_does() {
    let mut driver = BalloonDriver::new(DEVICE, RINGS);
    let script = driver.init(Script::new()).puts("driving\n").echo_serial();
    let script = gives(&mut driver, script, COUNT, 0, COUNT);
    let mut machine = start(script, "stall-after=10m");
    let mut client = client(&machine);
    wait_for(&mut machine, "driving");
    machine.console.send("k").expect("type");
    let wish = json!({"value": without(COUNT), "timeout-ms": 60_000});
    returned(&mut client, "x-balloon-wait", &wish);

    returned(&mut client, "system_reset", &json!({}));
    wait_for(&mut machine, "driving");
    let short = json!({"timeout-ms": 100});
    let before = returned(&mut client, "x-balloon-wait", &short);
    machine.console.send("k").expect("type");
    let long = json!({"timeout-ms": 60_000});
    let after = returned(&mut client, "x-balloon-wait", &long);

    assert_eq!(
        before,
        json!({"outcome": "timeout", "target": without(COUNT), "actual": MEMORY})
    );
    assert_eq!(
        after,
        json!({"outcome": "reached", "target": without(COUNT), "actual": without(COUNT)})
    );
}

#[test]
fn reporting_is_switched_and_limited_at_run_time() {
    let machine = start(Script::new(), "on");
    let mut qmp = machine.qmp().expect("connect");
    let path = "/machine/peripheral/balloon0";
    let property = |name: &str| json!({"path": path, "property": name});
    for (name, before, after) in [
        ("x-free-page-reporting", json!(true), json!(false)),
        ("x-free-page-reporting-max-rate", json!(0), json!(256 << 20)),
    ] {
        let read = qmp.execute_with("qom-get", &property(name)).expect("get");
        assert_eq!(read, before);
        let set = json!({"path": path, "property": name, "value": after});
        qmp.execute_with("qom-set", &set).expect("set");
        let read = qmp.execute_with("qom-get", &property(name)).expect("get");
        assert_eq!(read, after);
    }
    let low = json!({"path": path, "property": "x-free-page-reporting-max-rate", "value": 1});
    let refused = qmp.execute_with("qom-set", &low).expect_err("too low");
    assert!(
        refused
            .to_string()
            .contains("134217728 bytes a second or more"),
        "{refused}"
    );
}

#[test]
fn reporting_that_is_not_on_offer_cannot_be_switched() {
    let machine = start(Script::new(), "free-page-reporting=off");
    let mut qmp = machine.qmp().expect("connect");
    let set = json!({
        "path": "balloon0", "property": "x-free-page-reporting", "value": true
    });
    let refused = qmp.execute_with("qom-set", &set).expect_err("not on offer");
    assert!(
        refused.to_string().contains("free-page-reporting=on"),
        "{refused}"
    );
}
