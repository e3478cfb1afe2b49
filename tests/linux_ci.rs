//! The script for CI, `resources/ci/boot-test.sh`, boots a stock Linux, resizes its memory, and
//! tells a test that passes from one that fails.
//!
//! The script is part of this program: where Linux guests run nested, the source tree is not there.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::scaled;
use common::setup::{LinuxFiles, binary_under_test};
use tempfile::TempDir;

const SCRIPT: &str = include_str!("../resources/ci/boot-test.sh");
/// Time for a whole run.
const RUN: Duration = Duration::from_secs(60);
/// Time for a resize, the first of which has to wait for the boot.
const RESIZE: Duration = Duration::from_secs(30);

/// The guest has one CPU, and all its memory again: with the balloon inflated it would have less
/// than 256 MiB. `deflate-on-oom` is off, so that ballooned pages are not part of MemTotal.
const PASSING: &str = "#!/bin/sh
set -e
[ \"$(nproc)\" -eq 1 ]
total=$(sed -n 's/^MemTotal: *\\([0-9]*\\) kB$/\\1/p' /proc/meminfo)
echo \"the guest has $total kB\"
[ \"$total\" -gt 400000 ]
";

/// 137, as of a killed program, is more than the machine's status can hold.
const FAILING: &str = "#!/bin/sh
echo no such luck
exit 137
";

/// Runs the script with `test` in the guest: its exit status, and all that it printed.
fn boot_test(test: &str) -> (Option<i32>, String) {
    let files = LinuxFiles::find().expect("guest files");
    let directory = TempDir::new().expect("temporary directory");
    let output = Command::new("sh")
        .arg(write(directory.path(), "boot-test.sh", SCRIPT))
        .arg(files.bzimage())
        .arg(files.initramfs())
        .arg(write(directory.path(), "test", test))
        .env("AEROSTAT", binary_under_test().expect("binary"))
        .env("MEM", "512M")
        .env("TIMEOUT", format!("{}s", scaled(RUN).as_secs()))
        .env("RESIZE_TIMEOUT", scaled(RESIZE).as_secs().to_string())
        .env("TMPDIR", directory.path())
        .env_remove("BALLOON")
        .stdin(Stdio::null())
        .output()
        .expect("sh");
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .expect("temporary directory")
        .map(|entry| entry.expect("entry").file_name())
        .filter(|name| name != "boot-test.sh" && name != "test")
        .collect();
    assert!(left.is_empty(), "the script left {left:?}");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.code(), text)
}

fn write(directory: &Path, name: &str, content: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, content).expect("write");
    path
}

#[test]
fn passing_test_is_reported_with_the_resize_and_status_0() {
    let (status, text) = boot_test(PASSING);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("the guest has "), "{text}");
    assert!(text.contains("\nboot-test: kernel: "), "{text}");
    assert!(text.contains("\nboot-test: test: passed\n"), "{text}");
    let memory = "\nboot-test: memory: 536870912 bytes, resized to 268435456 bytes and back\n";
    assert!(text.contains(memory), "{text}");
    assert!(text.contains("\nboot-test: time: "), "{text}");
}

#[test]
fn failing_test_is_reported_with_its_last_lines_and_status_1() {
    let (status, text) = boot_test(FAILING);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("\n  | no such luck\n"), "{text}");
    let test = "\nboot-test: test: FAILED with 127 (the machine's status is 255)\n";
    assert!(text.contains(test), "{text}");
    assert!(text.contains(" bytes and back\n"), "{text}");
}
