//! The shell on a terminal and on pipes.

mod common;

use std::process::Command;

use common::fake::{Fake, end, event, refuse, reply, unknown};
use common::terminal::Terminal;
use common::{ctl, run_with_input};
use serde_json::json;

/// A server with three commands and a schema, which sends an event with each `stop`, `refuse`s, and goes after
/// `quit` and `gone`.
fn server() -> Fake {
    let schema = json!([
        {"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
        {"name": "balloon", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
        {"name": "query-status", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
        {"name": "0", "meta-type": "object", "members": []},
        {"name": "1", "meta-type": "object", "members": [{"name": "value", "type": "int"}]},
        {"name": "int", "meta-type": "builtin", "json-type": "int"},
    ]);
    Fake::new(move |request| match request["execute"].as_str() {
        Some("query-qmp-schema") => vec![reply(request, schema.clone())],
        Some("stop") => vec![event("STOP", &json!({})), reply(request, json!({}))],
        Some("later") => vec![reply(request, json!({})), event("LATER", &json!({}))],
        Some("balloon") => vec![reply(request, request["arguments"].clone())],
        Some("never") => Vec::new(),
        Some("quit" | "gone") => vec![reply(request, json!({})), end()],
        Some("refuse") => vec![refuse(request, "GenericError", "No")],
        _ => vec![unknown(request)],
    })
}

fn shell(server: &Fake) -> Command {
    let mut command = ctl(&server.socket(), &["shell"]);
    command
        .env("XDG_STATE_HOME", server.directory().join("state"))
        .env("TERM", "xterm");
    command
}

#[test]
fn terminal_completes_runs_and_shows_events() {
    let server = server();
    let mut terminal = Terminal::new();
    let mut running = terminal.start(shell(&server));
    terminal.wait_for("Connected to QEMU 7.2.1 (fake).");
    terminal.wait_for("qmp> ");

    terminal.type_in("ba\t");
    terminal.wait_for("balloon");
    terminal.type_in(" v\t");
    terminal.wait_for("value=");
    terminal.type_in("5\r");
    terminal.wait_for("\"value\": 5");
    terminal.type_in("later\r");
    terminal.wait_for("\"event\":\"LATER\"");
    terminal.type_in("refuse\r");
    terminal.wait_for("GenericError: No");
    terminal.type_in("balloon {\"value\": }\r");
    terminal.wait_for("expected value at line 1 column 11");
    terminal.type_in("help balloon\r");
    terminal.wait_for("value  int");
    terminal.wait_for("qmp> ");
    terminal.type_in("\x04");

    assert_eq!(running.wait(), Some(0));
    let history = server.directory().join("state/aerostat/ctl_history");
    let history = std::fs::read_to_string(history).expect("history");
    assert!(history.contains("balloon value=5\n"), "{history}");
}

#[test]
fn history_comes_back_in_the_next_shell() {
    let server = server();
    let mut terminal = Terminal::new();
    let mut first = terminal.start(shell(&server));
    terminal.wait_for("qmp> ");
    terminal.type_in("balloon value=77\r");
    terminal.wait_for("\"value\": 77");
    terminal.wait_for("qmp> ");
    terminal.type_in("\x04");
    assert_eq!(first.wait(), Some(0));

    let mut second = terminal.start(shell(&server));
    terminal.wait_for("Connected");
    terminal.wait_for("qmp> ");
    terminal.type_in("\x1b[A\r");
    terminal.wait_for("\"value\": 77");
    terminal.wait_for("qmp> ");
    terminal.type_in("exit\r");
    assert_eq!(second.wait(), Some(0));
}

#[test]
fn script_runs_line_by_line_in_order() {
    let input =
        "# comment\nhelp balloon\nstop\n\n{'execute': 'balloon', 'arguments': {'value': 1}}\n";
    let ended = run_with_input(&server().socket(), &["shell"], input.as_bytes());
    let stop = r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"STOP","data":{}}"#;
    let help = "balloon value=…\n  value  int\n  returns nothing\n";
    assert_eq!(
        ended.stdout,
        format!("{help}{stop}\n{{}}\n{{\n  \"value\": 1\n}}\n")
    );
    assert_eq!((ended.stderr.as_str(), ended.status), ("", Some(0)));
}

#[test]
fn script_goes_on_after_a_failure_and_tells_of_it_at_the_end() {
    let ended = run_with_input(
        &server().socket(),
        &["shell"],
        b"refuse\nballoon 5x\nstop\n",
    );
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(lines[0], "aerostat-ctl: Line 1: GenericError: No");
    assert!(lines[1].starts_with("aerostat-ctl: Line 2: \"5x\" is no argument"));
    assert!(ended.stdout.ends_with("{}\n"), "{ended:?}");
    assert_eq!((lines.len(), ended.status), (2, Some(2)));
}

#[test]
fn line_that_is_no_text_does_not_end_the_script() {
    let ended = run_with_input(&server().socket(), &["shell"], b"# caf\xe9\nstop\n");
    assert_eq!(
        ended.stderr,
        "aerostat-ctl: Line 1: The line is not UTF-8\n"
    );
    assert!(ended.stdout.ends_with("{}\n"), "{ended:?}");
    assert_eq!(ended.status, Some(2));
}

#[test]
fn pasted_lines_run_one_by_one() {
    let server = server();
    let mut terminal = Terminal::new();
    let mut running = terminal.start(shell(&server));
    terminal.wait_for("qmp> ");
    terminal.type_in("\x1b[200~# pause\rballoon value=41\rballoon value=42\x1b[201~\r");
    terminal.wait_for("\"value\": 41");
    terminal.wait_for("\"value\": 42");
    terminal.wait_for("qmp> ");
    terminal.type_in("exit\r");
    assert_eq!(running.wait(), Some(0));
}

#[test]
fn terminal_that_can_nothing_will_do() {
    let server = server();
    let mut terminal = Terminal::new();
    let mut command = shell(&server);
    command.env("TERM", "dumb");
    let mut running = terminal.start(command);
    terminal.wait_for("Connected");
    terminal.type_in("later\r");
    terminal.wait_for("\"event\":\"LATER\"");
    terminal.type_in("exit\r");
    assert_eq!(running.wait(), Some(0));
}

#[test]
fn machine_that_quits_is_no_news_and_one_that_goes_is() {
    for (line, status) in [("quit", 0), ("{'execute': 'quit'}", 0), ("gone", 2)] {
        let server = server();
        let mut terminal = Terminal::new();
        let mut running = terminal.start(shell(&server));
        terminal.wait_for("qmp> ");
        terminal.type_in(&format!("{line}\r"));
        if status != 0 {
            terminal.wait_for("press Enter to leave");
            terminal.type_in("\r");
        }
        assert_eq!(running.wait(), Some(status), "{line}");
    }
}

#[test]
fn time_out_counts_for_each_reply_of_a_script() {
    let input = "stop\nnever\n";
    let ended = run_with_input(
        &server().socket(),
        &["shell", "--timeout", "3s"],
        input.as_bytes(),
    );
    assert!(ended.stdout.ends_with("{}\n"), "{ended:?}");
    assert_eq!(
        ended.stderr,
        "aerostat-ctl: Line 2: No reply came in time\n"
    );
    assert_eq!(ended.status, Some(124));
}
