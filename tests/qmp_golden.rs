//! Replays conversations recorded from QEMU 10.0.2 against a machine of this program, and compares
//! byte for byte.
//!
//! `tests/qmp/golden/*.json` hold one case each: steps that clients and the guest take, and what
//! arrives. `$ANY` stands for any one value. `QMP_GOLDEN_DIR` names another folder with cases, to
//! be played instead. What is QEMU's own in them is translated by `tests/qmp/translation.json`.

mod common;
mod golden;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use golden::Translation;
use serde_json::Value;

/// A case spends its time waiting for silence, so many run at once.
const PARALLEL_CASES: usize = 16;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn translation() -> Translation {
    let text = std::fs::read_to_string(project("tests/qmp/translation.json")).expect("read");
    serde_json::from_str(&text).expect("translation.json")
}

/// Plays the case of a file; the error names the file.
fn play(file: &Path, translation: &Translation) -> Result<(), String> {
    let play = || {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        let mut case: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        translation.apply(&mut case)?;
        golden::play(&case)
    };
    play().map_err(|failure| format!("{}: {failure}", file.display()))
}

#[test]
fn server_answers_as_qemu_did() {
    let folder = std::env::var_os("QMP_GOLDEN_DIR");
    let folder = folder.map_or_else(|| project("tests/qmp/golden"), PathBuf::from);
    let entries = std::fs::read_dir(&folder).expect("read the folder of the cases");
    let files = entries.map(|entry| entry.expect("entry").path());
    let is_case = |file: &PathBuf| file.extension().is_some_and(|suffix| suffix == "json");
    let mut files: Vec<_> = files.filter(is_case).collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {}", folder.display());

    let translation = translation();
    let next = AtomicUsize::new(0);
    let run = || {
        let mut failures = Vec::new();
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            failures.extend(play(file, &translation).err());
        }
        failures
    };
    let failures: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..PARALLEL_CASES).map(|_| scope.spawn(run)).collect();
        let threads = threads.into_iter();
        threads
            .flat_map(|thread| thread.join().expect("join"))
            .collect()
    });
    assert!(
        failures.is_empty(),
        "{} of {} cases fail:\n{}",
        failures.len(),
        files.len(),
        failures.join("\n")
    );
}

#[test]
fn every_difference_is_explained_in_the_documentation() {
    let text = std::fs::read_to_string(project("docs/qmp.md")).expect("read");
    for difference in translation().differences {
        let name = format!("`{}`", difference.case);
        assert!(text.contains(&name), "docs/qmp.md does not mention {name}");
    }
}
