//! Negotiation and dispatch, and that splitting the input changes nothing.

use proptest::prelude::*;

use super::*;
use crate::testing::{Machine, in_context};

/// The bytes the session sends for `input`, until it is told to quit.
fn replies(session: &mut Session, mut input: &[u8]) -> String {
    let mut machine = Machine::default();
    let mut out = Vec::new();
    while let Some(message) = session.next_message(&mut input) {
        match in_context(&mut machine, |context| session.execute(message, context)) {
            Answer::Now(reply) => reply.write(&mut out),
            Answer::Later => {}
        }
    }
    String::from_utf8(out).unwrap()
}

fn negotiated(enable: &str) -> Session {
    let mut session = Session::default();
    let command = format!("{{'execute': 'qmp_capabilities', 'arguments': {{'enable': {enable}}}}}");
    assert_eq!(
        replies(&mut session, command.as_bytes()),
        "{\"return\": {}}\r\n"
    );
    session
}

fn error(id: &str, class: &str, desc: &str) -> String {
    format!("{{{id}\"error\": {{\"class\": \"{class}\", \"desc\": \"{desc}\"}}}}\r\n")
}

#[test]
fn enable_must_be_a_list_of_strings() {
    for (enable, desc) in [
        ("1", "Invalid parameter type for 'enable', expected: array"),
        (
            "['oob', 1]",
            "Invalid parameter type for 'enable[1]', expected: string",
        ),
        ("['x']", "Parameter 'null' does not accept value 'x'"),
    ] {
        let mut session = Session::default();
        let command =
            format!("{{'execute': 'qmp_capabilities', 'arguments': {{'enable': {enable}}}}}");
        assert_eq!(
            replies(&mut session, command.as_bytes()),
            error("", "GenericError", desc)
        );
        assert!(!session.is_negotiated());
    }
}

#[test]
fn oob_is_refused_by_each_command_once_enabled() {
    let input = b"{'exec-oob': 'qmp_capabilities', 'id': 1} {'exec-oob': 'x', 'id': 2}";
    assert_eq!(
        replies(&mut negotiated("['oob', 'oob']"), input),
        error(
            "\"id\": 1, ",
            "GenericError",
            "The command qmp_capabilities does not support OOB"
        ) + &error(
            "\"id\": 2, ",
            "CommandNotFound",
            "The command x has not been found"
        )
    );
}

#[test]
fn id_that_is_kept_is_short() {
    let ask = |id: usize| {
        let id = "x".repeat(id - 2);
        let input = format!(
            "{{'execute': 'x-balloon-wait', 'arguments': {{'value': 1, 'timeout-ms': 1000}}, \
             'id': '{id}'}}"
        );
        replies(&mut negotiated("[]"), input.as_bytes())
    };
    assert_eq!(ask(MAX_WAITING_ID_BYTES), "");
    assert!(ask(MAX_WAITING_ID_BYTES + 1).contains("may have 4096 bytes"));
}

#[test]
fn name_with_nul_is_another_command() {
    assert_eq!(
        replies(&mut negotiated("[]"), br#"{"execute": "query-name\u0000"}"#),
        error(
            "",
            "CommandNotFound",
            r"The command query-name\u0000 has not been found"
        )
    );
}

#[test]
fn only_quit_ends_the_service() {
    let mut machine = Machine::default();
    let mut session = negotiated("[]");
    for (input, quit) in [
        (&b"{'execute': 'stop'}"[..], false),
        (b"{'execute': 'quit', 'arguments': {'x': 1}}", false),
        (b"{'execute': 'quit'}", true),
    ] {
        let message = session.next_message(&mut &*input).unwrap();
        let effects = in_context(&mut machine, |context| {
            session.execute(message, context);
            context.effects.clone()
        });
        assert_eq!(effects.quit, quit);
        assert_eq!(machine.quit, quit);
    }
}

/// Requests and faults of every kind.
const PIECES: &[&[u8]] = &[
    b"{\"execute\": \"qmp_capabilities\"}",
    b"{'execute': 'qmp_capabilities', 'arguments': {'enable': ['oob']}}",
    b"{\"execute\": \"query-status\", \"id\": {\"b\": 1.5, \"a\": [\"\\u00e9\"]}}",
    b"{\"execute\": \"balloon\", \"arguments\": {\"value\": 0}}\r\n",
    b"{\"exec-oob\": \"stop\"}",
    b"{\"a\": TRUE}",
    b"12 info 0e1 \"text\" \xFF\t{\x01",
];

proptest! {
    #[test]
    fn any_split_gives_the_same_replies(
        pieces in prop::collection::vec(
            prop::sample::select(PIECES),
            0..8,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let input = pieces.concat();
        let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        at.sort_unstable();
        let mut session = Session::default();
        let mut split = String::new();
        let mut start = 0;
        for end in at.into_iter().chain([input.len()]) {
            split += &replies(&mut session, &input[start..end]);
            start = end;
        }
        prop_assert_eq!(split, replies(&mut Session::default(), &input));
    }
}
