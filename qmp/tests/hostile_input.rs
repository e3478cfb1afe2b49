//! What holds for every input holds for what fuzzing has found, and for inputs near to JSON.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../fuzz/src/properties.rs"]
mod properties;

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

use properties::Cut;

/// Hands each input of a fuzz target's corpus to `check`.
fn replay(target: &str, check: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let files = std::fs::read_dir(corpus.join(target)).unwrap();
    let inputs: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert!(!inputs.is_empty());
    for path in inputs {
        eprintln!("{}", path.display());
        check(&std::fs::read(path).unwrap());
    }
}

#[test]
fn corpus_of_the_framer_holds() {
    replay("framer", |data| {
        properties::framer_is_blind_to_cuts(&Cut::from_fuzzer(data));
    });
}

#[test]
fn corpus_of_the_session_holds() {
    replay("session", |data| {
        properties::session_answers_each_message_with_one_line(&Cut::from_fuzzer(data));
    });
}

#[test]
fn corpus_of_the_round_trip_holds() {
    replay("json_roundtrip", properties::written_json_is_read_again);
}

/// A scalar, or what a careless client takes for one.
fn scalar() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?(0|[1-9][0-9]{0,20})",
        "-?[0-9]{1,3}(\\.[0-9]{0,3})?([eE][+-]?[0-9]{0,3})?",
        "true|false|null|True|nul|[a-z]{1,4}",
        "\"([ -~é€😀]|\\\\[\"'\\\\/bfnrtux]|\\\\u[0-9a-fD-F]{4}){0,6}\"",
        "'[a-zA-Z\"]{0,6}'",
        "\"(a|b|minor|micro|execute|id)\"",
    ]
}

/// JSON with single quotes, double keys and values of no type; braces always pair.
fn near_json() -> impl Strategy<Value = String> {
    scalar().prop_recursive(6, 40, 6, |inner| {
        let elements = prop::collection::vec(inner.clone(), 0..6);
        let members = prop::collection::vec((scalar(), inner), 0..6);
        prop_oneof![
            (elements, separator()).prop_map(|(elements, comma)| {
                let elements = elements.join(&comma);
                format!("[{elements}]")
            }),
            (members, separator()).prop_map(|(members, comma)| {
                let members = members
                    .into_iter()
                    .map(|(key, value)| format!("{key}:{value}"));
                let members = members.collect::<Vec<_>>().join(&comma);
                format!("{{{members}}}")
            }),
        ]
    })
}

/// A comma, most often.
fn separator() -> impl Strategy<Value = String> {
    prop_oneof![8 => Just(",".to_owned()), 4 => Just(" ,\r\n".to_owned()), 1 => "[ ,:]{0,2}"]
}

/// A request, as far as its members go.
fn near_request() -> impl Strategy<Value = String> {
    let command = prop_oneof![
        2 => Just("'qmp_capabilities'".to_owned()),
        4 => "'(query-(balloon|status|commands|version|kvm|cpus-fast|name)|balloon|stop|cont)'",
        1 => "'(quit|system_reset|system_powerdown)'",
        2 => near_json(),
    ];
    let member = prop_oneof![Just("execute"), Just("exec-oob"), Just("excute")];
    let arguments = prop_oneof![
        Just("{}".to_owned()),
        "\\{'value': -?[0-9]{1,20}\\}",
        Just("{'enable': ['oob']}".to_owned()),
        near_json(),
    ];
    (
        member,
        command,
        prop::option::of(arguments),
        prop::option::of(near_json()),
    )
        .prop_map(|(member, command, arguments, id)| {
            let arguments = arguments.map(|value| format!(", 'arguments': {value}"));
            let id = id.map(|value| format!(", 'id': {value}"));
            let [arguments, id] = [arguments, id].map(Option::unwrap_or_default);
            format!("{{'{member}': {command}{arguments}{id}}}")
        })
}

/// Messages of all these kinds, one after the other, with some bytes of any value between them.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => near_request().prop_map(String::into_bytes),
        2 => near_json().prop_map(String::into_bytes),
        1 => "[ \t\r\n{}:,a-z0-9.eE+\\-\"'\\\\\\[\\]]{0,8}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..8)
}

fn cut<'a>(input: &'a [u8], cuts: &[Index]) -> Cut<'a> {
    let places = cuts.iter().map(|cut| cut.index(input.len() + 1));
    Cut::new(input, places.collect())
}

proptest! {
    #[test]
    fn any_split_gives_the_same_messages(input in stream(), cuts in cuts()) {
        properties::framer_is_blind_to_cuts(&cut(&input, &cuts));
    }

    #[test]
    fn any_split_gives_the_same_replies_one_line_a_message(input in stream(), cuts in cuts()) {
        properties::session_answers_each_message_with_one_line(&cut(&input, &cuts));
    }

    #[test]
    fn generated_json_is_read_as_it_was_written(input in near_json()) {
        properties::written_json_is_read_again(input.as_bytes());
    }
}
