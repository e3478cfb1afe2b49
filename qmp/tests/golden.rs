//! Replays conversations recorded from QEMU 10.0.2 against a server on a real socket, and compares
//! byte for byte.
//!
//! `golden/*.json` hold one case each: steps that a client and the guest take, and what arrives.
//! `$ANY` stands for any one scalar. Where QEMU has two servers on one machine, the recordings
//! name `"socket": 2`; here that is one more client of the same server.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod player;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

/// A case spends its time waiting for silence, so many run at once.
const PARALLEL_CASES: usize = 16;

#[test]
fn server_answers_as_qemu_did() {
    let dir = std::env::var_os("QMP_GOLDEN").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"),
        Into::into,
    );
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    assert!(!files.is_empty());

    let next = AtomicUsize::new(0);
    let run = || {
        let mut failures = Vec::new();
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let text = std::fs::read_to_string(file).unwrap();
            let case: Value = serde_json::from_str(&text).unwrap();
            if let Err(failure) = player::play(&case) {
                failures.push(format!("{}: {failure}", file.display()));
            }
        }
        failures
    };
    let failures: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..PARALLEL_CASES).map(|_| scope.spawn(run)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(
        failures.is_empty(),
        "{} cases fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
