//! What holds for every input of the QMP server, each as a function that panics where it does not.
//!
//! The fuzz targets, the replay of their corpora and the tests with generated inputs share them.

#[path = "../../src/testing.rs"]
#[allow(dead_code, reason = "one property needs a machine")]
mod testing;

use std::time::Instant;

use aerostat_qmp::command::Context;
use aerostat_qmp::framer::Framer;
use aerostat_qmp::json;
use aerostat_qmp::message::{LINE_END, Reply};
use aerostat_qmp::monitor::Monitor;
use aerostat_qmp::session::{Answer, Session};
use aerostat_qmp::{Steering, SteeringOptions};
use serde_json::Value;
use testing::Machine;

/// Most cuts that the start of a fuzzer's input can choose.
const MAX_CUTS: usize = 8;

/// An input, and where it is cut in pieces.
#[derive(Debug)]
pub struct Cut<'a> {
    /// The whole input.
    pub input: &'a [u8],
    /// Offsets in it, in rising order.
    pub cuts: Vec<usize>,
}

impl<'a> Cut<'a> {
    /// The input and the cuts that a fuzzer chose: the number of cuts in a byte, two bytes for each,
    /// then the input.
    pub fn from_fuzzer(data: &'a [u8]) -> Self {
        let (&count, rest) = data.split_first().unwrap_or((&0, &[]));
        let places = (usize::from(count) % MAX_CUTS * 2).min(rest.len());
        let (places, input) = rest.split_at(places);
        let places = places.chunks_exact(2).map(|place| {
            let place = usize::from(place[0]) | usize::from(place[1]) << 8;
            place % (input.len() + 1)
        });
        Self::new(input, places.collect())
    }

    /// `input` cut at these offsets, each at most its length.
    pub fn new(input: &'a [u8], mut cuts: Vec<usize>) -> Self {
        cuts.sort_unstable();
        Self { input, cuts }
    }

    fn pieces(&self) -> impl Iterator<Item = &'a [u8]> {
        let ends = self.cuts.iter().copied().chain([self.input.len()]);
        let starts = [0].into_iter().chain(self.cuts.iter().copied());
        starts.zip(ends).map(|(start, end)| &self.input[start..end])
    }
}

/// Cut input gives the same messages and faults as the whole, and so does a byte at a time.
pub fn framer_is_blind_to_cuts(cut: &Cut) {
    let whole = messages([cut.input]);
    assert_eq!(messages(cut.pieces()), whole);
    assert_eq!(messages(cut.input.chunks(1)), whole);
}

/// Each message as its JSON text, each fault as the error's text.
fn messages<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
    let mut framer = Framer::default();
    let mut messages = Vec::new();
    for mut piece in pieces {
        while let Some(message) = framer.next_message(&mut piece) {
            messages.push(match message {
                Ok(value) => text(&value),
                Err(error) => format!("fault: {error}"),
            });
        }
        assert!(piece.is_empty());
    }
    messages
}

fn text(value: &Value) -> String {
    let mut text = Vec::new();
    json::write(value, &mut text);
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// Each message and each fault gets one reply, which is one line of ASCII and JSON, and cuts in the
/// input change none of them.
pub fn session_answers_each_message_with_one_line(cut: &Cut) {
    let whole = replies([cut.input]);
    assert_eq!(replies(cut.pieces()), whole);
    whole.iter().for_each(|reply| check_line(reply));
}

/// The bytes of each reply, up to that to `quit`. Commands that still wait then are answered at the
/// end.
fn replies<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let mut session = Session::default();
    let mut machine = Machine::default();
    let mut steering = Steering::new(SteeringOptions::default(), Instant::now());
    let monitors = [Monitor {
        path: "/monitor".into(),
        clients: 1,
    }];
    // As if no time passed: what waits ends for another reason.
    let now = Instant::now();
    let mut replies = Vec::new();
    let mut messages = 0;
    'input: for mut piece in pieces {
        while let Some(message) = session.next_message(&mut piece) {
            messages += 1;
            let mut context = Context::new(&mut machine, &monitors, &mut steering);
            let answer = session.execute(message, &mut context);
            let effects = context.effects;
            assert!(effects.yanked.iter().all(|&index| index < monitors.len()));
            if let Answer::Now(reply) = answer {
                replies.push(reply);
            }
            if effects.quit {
                break 'input;
            }
            steering.follow(&mut machine, now);
            replies.extend(session.due(&machine, steering.resize(), now));
        }
    }
    replies.extend(session.give_up());
    assert_eq!(replies.len(), messages);
    replies.iter_mut().map(line).collect()
}

/// The line of a reply, without what depends on the time.
fn line(reply: &mut Reply) -> Vec<u8> {
    if let Ok(Value::Object(members)) = &mut reply.result
        && members.contains_key("driver-present")
    {
        members.retain(|name, _| name != "since" && name != "rate");
    }
    let mut line = Vec::new();
    reply.write(&mut line);
    line
}

fn check_line(reply: &[u8]) {
    let line = reply.strip_suffix(LINE_END).expect("a line has its end");
    let printable = |&byte: &u8| (b' '..0x7F).contains(&byte);
    assert!(line.iter().all(printable), "{line:?}");
    match serde_json::from_slice::<Value>(line) {
        Ok(reply) => {
            let members = reply.as_object().expect("a reply is an object");
            let outcomes = ["return", "error"].map(|name| members.contains_key(name));
            assert!(outcomes == [true, false] || outcomes == [false, true]);
            assert_eq!(members.len(), 1 + usize::from(members.contains_key("id")));
        }
        // An `id` may nest deeper than this reader goes.
        Err(error) => assert!(error.to_string().starts_with("recursion limit"), "{error}"),
    }
}

/// What is written is read again as the same. Twice, since members that share a bucket of the hash
/// table change places each time, as they do in QEMU; and not at first, since `-0.0` is written as
/// `-0`, which is read as 0.
pub fn written_json_is_read_again(input: &[u8]) {
    let again = |text: &String| {
        let mut read = messages([text.as_bytes(), b"\n"]);
        assert_eq!(read.len(), 1, "{text}");
        read.remove(0)
    };
    for first in messages([input]) {
        if first.starts_with("fault: ") {
            continue;
        }
        let second = again(&first);
        assert_eq!(again(&again(&second)), second);
    }
}
