//! How fast the framer reads large requests that a client may send: one line of JSON for each kind
//! and size, with the median. `cargo xtask bench qmp` shows them.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use aerostat_qmp::framer::Framer;
use aerostat_qmp::server::READ_TURN_BYTES;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Bytes that are parsed of each, with at least as many rounds.
const TOTAL_BYTES: usize = 64 * MIB;
const MIN_ROUNDS: usize = 5;

/// A request with an `id` of some `bytes`.
type Request = fn(bytes: usize) -> String;

/// What is measured. A message may have 2 Mi tokens, so that only a string can have 16 MiB.
const CASES: &[(&str, Request, usize)] = &[
    ("string_64k", string, 64 * KIB),
    ("string_1m", string, MIB),
    ("string_16m", string, 16 * MIB),
    ("numbers_64k", numbers, 64 * KIB),
    ("numbers_1m", numbers, MIB),
    ("numbers_4m", numbers, 4 * MIB),
    ("keys_64k", keys, 64 * KIB),
    ("keys_1m", keys, MIB),
    ("keys_4m", keys, 4 * MIB),
];

fn main() {
    for &(name, request, bytes) in CASES {
        let text = request(bytes);
        let rounds = (TOTAL_BYTES / bytes).max(MIN_ROUNDS);
        let mut framer = Framer::default();
        let mut times: Vec<_> = (0..rounds).map(|_| time(&mut framer, &text)).collect();
        times.sort_unstable();
        let seconds = times[rounds / 2].as_secs_f64();
        let rate = text.len() as f64 / 1e6 / seconds;
        println!("{{\"name\": \"{name}\", \"mb_per_second\": {rate:.1}}}");
    }
}

/// Reads the request as the server does, in the pieces that come from a socket.
fn time(framer: &mut Framer, request: &str) -> Duration {
    let begun = Instant::now();
    let mut message = None;
    for mut piece in request.as_bytes().chunks(READ_TURN_BYTES) {
        message = framer.next_message(&mut piece);
    }
    drop(black_box(message.unwrap().unwrap()));
    begun.elapsed()
}

fn with_id(id: &str) -> String {
    format!("{{\"execute\": \"query-balloon\", \"id\": {id}}}")
}

/// One long string.
fn string(bytes: usize) -> String {
    with_id(&format!("\"{}\"", "a".repeat(bytes)))
}

/// An array of numbers below 1000.
fn numbers(bytes: usize) -> String {
    let numbers = (0..).map(|number| (number % 1000).to_string());
    with_id(&format!("[{}]", filled(bytes, numbers)))
}

/// An object of many members.
fn keys(bytes: usize) -> String {
    let members = (0..).map(|number| format!("\"key-{number}\": {}", number % 10));
    with_id(&format!("{{{}}}", filled(bytes, members)))
}

fn filled(bytes: usize, parts: impl Iterator<Item = String>) -> String {
    let mut text = String::with_capacity(bytes);
    for part in parts {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&part);
        if text.len() >= bytes {
            break;
        }
    }
    text
}
