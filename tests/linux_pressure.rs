//! A stock Linux that cannot give what it is asked for, or needs again what it has given.

mod common;

use std::time::Duration;

use common::machine::Machine;
use common::qmp::Client;
use common::setup::Setup;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const MEM: u64 = 512 * MIB;
/// What a guest that is short of memory is left with.
const LITTLE: u64 = 128 * MIB;
/// What it needs then, and has not.
const NEED_MIB: u64 = 160;
/// Time for a balloon to reach its target, or to make no progress any more.
const BALLOON_MS: u64 = 60_000;
const BALLOON: Duration = Duration::from_millis(BALLOON_MS);

fn boot(balloon: &str) -> (Machine, Client) {
    let setup = Setup::linux("512M")
        .expect("guest files")
        .argument("--balloon", balloon);
    let mut machine = setup.start().expect("start");
    machine.wait_for_shell().expect("boot");
    let qmp = machine.qmp().expect("QMP");
    (machine, qmp)
}

/// Sets a target, and says how it went.
fn resize(qmp: &mut Client, target: u64) -> Value {
    let limit = common::scaled(BALLOON).as_millis();
    let wish = json!({"value": target, "timeout-ms": limit});
    let waited = qmp.execute_with("x-balloon-wait", &wish).expect("wait");
    waited["outcome"].clone()
}

fn state(qmp: &mut Client) -> Value {
    qmp.execute("x-query-balloon").expect("x-query-balloon")
}

#[test]
fn guest_that_has_nothing_to_give_is_left_alone() {
    let (mut machine, mut qmp) = boot("deflate-on-oom=off,stall-after=3s");
    // Nothing of this can be dropped or swapped out.
    machine
        .console
        .run_for("dd if=/dev/zero of=/tmp/kept bs=1M count=300", BALLOON)
        .expect("fill");

    let outcome = resize(&mut qmp, LITTLE);
    let stuck = state(&mut qmp);
    // It could not even start a program now.
    let relieved = resize(&mut qmp, MEM);
    let oom_kills = machine
        .console
        .run("grep oom_kill /proc/vmstat")
        .expect("vmstat");
    machine.console.run("rm /tmp/kept").expect("free");
    let outcome_after = resize(&mut qmp, LITTLE);
    let after = state(&mut qmp);

    assert_eq!(outcome, "stalled");
    assert_eq!(
        (&stuck["state"], &stuck["target"]),
        (&"stalled".into(), &LITTLE.into())
    );
    // It is asked for what it has given, and for no more.
    let asked = MEM - stuck["asked-pages"].as_u64().expect("pages") * 4096;
    assert!(asked > LITTLE, "{stuck}");
    assert_eq!(
        (relieved, oom_kills.as_str()),
        ("reached".into(), "oom_kill 0")
    );
    assert_eq!(outcome_after, "reached");
    assert_eq!(after["asked-pages"], (MEM - LITTLE) / 4096);
}

#[test]
fn guest_short_of_memory_takes_pages_back_and_keeps_its_processes() {
    // It keeps what it must have, whoever asks for all.
    let (mut machine, mut qmp) = boot("deflate-on-oom=on,min=128M,max-rate=32M/s");
    let outcome = resize(&mut qmp, 1);
    let before = state(&mut qmp);

    let need = format!("dd if=/dev/zero of=/tmp/need bs=1M count={NEED_MIB}");
    let written = machine.console.run_for(&need, BALLOON);
    let followed = common::wait_until(BALLOON, || {
        let state = state(&mut qmp);
        state["target"] == state["actual"] && state["state"] == "reached"
    });
    let after = state(&mut qmp);
    let oom_kills = machine
        .console
        .run("grep oom_kill /proc/vmstat")
        .expect("vmstat");
    let told = qmp
        .wait_event("X_BALLOON_DEFLATED", BALLOON)
        .expect("event");

    assert_eq!(
        (&outcome, &before["actual"]),
        (&"reached".into(), &LITTLE.into())
    );
    // The first step comes at once.
    let fastest = 32 * MIB + 32 * MIB / 10;
    assert!(before["rate"].as_u64() <= Some(fastest), "{before}");
    let features = before["features"].as_array().expect("features");
    assert!(features.contains(&"deflate-on-oom".into()), "{before}");
    written.expect("the guest has the memory that it needs");
    assert!(followed, "{after}");
    assert!(after["target"].as_u64() > Some(LITTLE), "{after}");
    assert_eq!(oom_kills, "oom_kill 0");
    assert_eq!(told["data"]["before"], LITTLE);
}
