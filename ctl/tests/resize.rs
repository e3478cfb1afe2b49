//! Resizing against servers whose balloons move as a test lays down.

mod common;

use common::balloon::{extended, overruled, plain};
use common::fake::{Fake, refuse, reply, unknown};
use common::terminal::{Running, Terminal};
use common::{ctl, run};
use serde_json::json;

const MIB: u64 = 1 << 20;

#[test]
fn target_alone_is_set_and_not_waited_for() {
    let server = plain(0, 1);
    let ended = run(&server.socket(), &["resize", "256M"]);
    assert_eq!(ended.stdout, "The guest shall have 256 MiB.\n");
    assert_eq!(ended.status, Some(0));
    let set = server.arguments_of("balloon");
    assert_eq!(set, [json!({"value": 256 * MIB})]);
}

#[test]
fn size_that_is_reached_ends_with_status_0() {
    let ended = run(&plain(0, 100).socket(), &["resize", "0.25G", "--wait"]);
    assert_eq!(ended.stdout, "The guest has 256 MiB.\n");
    let first = "aerostat-ctl: The guest has 412 MiB, target 256 MiB\n";
    assert!(ended.stderr.starts_with(first), "{ended:?}");
    assert_eq!(ended.status, Some(0));
}

#[test]
fn guest_that_stops_on_its_way_ends_with_status_3() {
    let arguments = ["resize", "100M", "--wait", "--stall", "5s"];
    let ended = run(&plain(300, 100).socket(), &arguments);
    let said = "aerostat-ctl: Stalled: the guest has 300 MiB, not 100 MiB\n";
    assert!(ended.stderr.ends_with(said), "{ended:?}");
    assert_eq!((ended.stdout.as_str(), ended.status), ("", Some(3)));
}

#[test]
fn time_that_is_up_ends_with_status_124() {
    let arguments = ["resize", "100M", "--wait", "--timeout", "3s"];
    let ended = run(&plain(500, 1).socket(), &arguments);
    let said = "aerostat-ctl: The time is up: the guest has 5";
    assert!(ended.stderr.contains(said), "{ended:?}");
    assert_eq!((ended.stdout.as_str(), ended.status), ("", Some(124)));
}

#[test]
fn more_than_the_machine_has_is_all_of_it() {
    let ended = run(&plain(0, 100).socket(), &["resize", "2G", "--wait"]);
    assert!(ended.stderr.contains("has only 512 MiB"), "{ended:?}");
    assert_eq!(ended.stdout, "The guest has 512 MiB.\n");
}

#[test]
fn machine_without_balloon_ends_with_status_1() {
    let server = Fake::new(|request| vec![refuse(request, "DeviceNotActive", "No balloon")]);
    let ended = run(&server.socket(), &["resize", "256M", "--wait"]);
    assert_eq!(ended.stderr, "aerostat-ctl: DeviceNotActive: No balloon\n");
    assert_eq!(ended.status, Some(1));
}

#[test]
fn server_that_can_wait_says_how_it_ended() {
    for (outcome, status, said) in [
        ("reached", 0, ""),
        (
            "stalled",
            3,
            "Stalled: the guest has 512 MiB, not 100 MiB, and has no driver",
        ),
        (
            "deflated",
            3,
            "The guest is short of memory and took some back: it has 512 MiB, not 100 MiB",
        ),
        ("replaced", 3, "Another client set another size"),
    ] {
        // The same target again would not count.
        let overruled_from = if outcome == "replaced" { 2 } else { u32::MAX };
        let server = overruled(512, 1, outcome, 3, overruled_from);
        let ended = run(&server.socket(), &["resize", "100M", "--wait"]);
        assert_eq!(ended.status, Some(status), "{ended:?}");
        assert!(ended.stderr.contains(said), "{ended:?}");
        let waits = server.arguments_of("x-balloon-wait");
        assert_eq!(waits, [json!({"value": 100 * MIB, "timeout-ms": 60_000})]);
    }
}

#[test]
fn other_target_is_noticed_though_the_server_no_longer_waits() {
    let server = overruled(512, 1, "stalled", 1, 3);
    let arguments = ["resize", "100M", "--wait", "--stall", "1m"];
    let ended = run(&server.socket(), &arguments);
    let said = "Another client set another size: the guest has 512 MiB, not 100 MiB";
    assert!(ended.stderr.contains(said), "{ended:?}");
    assert_eq!(ended.status, Some(3));
}

#[test]
fn same_target_set_again_is_waited_for() {
    let server = extended(0, 20, "replaced", 2);
    let ended = run(&server.socket(), &["resize", "400M", "--wait"]);
    assert_eq!(ended.stdout, "The guest has 400 MiB.\n");
}

#[test]
fn stall_is_the_servers_word_however_long_nothing_moves() {
    // The guest does not move, and the server says so after six seconds.
    let server = extended(512, 1, "stalled", 30);
    let begun = std::time::Instant::now();
    let ended = run(&server.socket(), &["resize", "100M", "--wait"]);
    assert!(begun.elapsed().as_millis() > 5500, "{ended:?}");
    assert_eq!(ended.status, Some(3));
}

#[test]
fn largest_size_is_all_that_the_machine_has() {
    let server = plain(0, 100);
    let ended = run(&server.socket(), &["resize", "8388608T", "--wait"]);
    assert_eq!(ended.stdout, "The guest has 512 MiB.\n");
    assert_eq!(server.arguments_of("balloon"), [json!({"value": i64::MAX})]);
}

#[test]
fn server_whose_wait_was_too_short_is_asked_again() {
    let server = extended(0, 20, "timeout", 3);
    let ended = run(&server.socket(), &["resize", "400M", "--wait"]);
    assert_eq!(ended.stdout, "The guest has 400 MiB.\n");
    assert!(server.arguments_of("x-balloon-wait").len() > 1);
}

#[test]
fn stall_of_the_users_choice_outlasts_the_servers_word() {
    let server = extended(0, 20, "stalled", 2);
    let arguments = ["resize", "400M", "--wait", "--stall", "20s"];
    let ended = run(&server.socket(), &arguments);
    assert_eq!(ended.stdout, "The guest has 400 MiB.\n");
}

#[test]
fn terminal_shows_a_bar() {
    let server = plain(0, 64);
    let mut terminal = Terminal::new();
    let mut command = ctl(&server.socket(), &["resize", "256M", "--wait"]);
    command.env("TERM", "xterm").stderr(terminal.end());
    let mut running = Running(command.spawn().expect("start"));

    terminal.wait_for("===>");
    terminal.wait_for("320 MiB, target 256 MiB");
    terminal.wait_for("================================ 256 MiB, target 256 MiB");

    assert_eq!(running.wait(), Some(0));
}

#[test]
fn less_than_the_guest_always_keeps_is_that() {
    let state = json!({"target": 512 * MIB, "actual": 512 * MIB, "min": 300 * MIB});
    let server = Fake::new(move |request| match request["execute"].as_str() {
        Some("x-query-balloon") => vec![reply(request, state.clone())],
        Some("balloon") => vec![reply(request, json!({}))],
        _ => vec![unknown(request)],
    });
    let ended = run(&server.socket(), &["resize", "100M"]);
    assert_eq!(ended.stdout, "The guest shall have 300 MiB.\n");
    assert!(
        ended.stderr.contains("leaves its guest 300 MiB or more"),
        "{ended:?}"
    );
}
