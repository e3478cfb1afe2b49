//! Running other programs: checked, with what they said in the error.

use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Lines of a failed program's output that go into the error.
const ERROR_LINES: usize = 30;

/// The command line of `command`, for messages.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| quote(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs `command` with its output passed through.
///
/// # Errors
///
/// When it cannot be started or ends with another status than 0.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|source| Error::Start {
        command: describe(command),
        source,
    })?;
    check(command, status)
}

/// As [`run`], for at most `limit`; then the process is ended.
///
/// # Errors
///
/// As [`run`], and when the time is up.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + limit;
    let described = describe(command);
    let failed = |source| Error::Start {
        command: described.clone(),
        source,
    };
    let mut child = command.spawn().map_err(failed)?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if Instant::now() >= deadline {
            // Whatever comes of it, it did not end in time.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Check(format!(
                "{described} did not end within {} s",
                limit.as_secs()
            )));
        }
        thread::sleep(PAUSE);
    };
    check(command, status)
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed {
        command: describe(command),
        status,
        output: String::new(),
    })
}

/// Runs `command` and returns what it wrote to its standard output.
///
/// # Errors
///
/// When it cannot be started or ends with another status than 0; the error holds the end of what
/// it wrote to either output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Start {
            command: describe(command),
            source,
        })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let said = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    Err(Error::Failed {
        command: describe(command),
        status: output.status,
        output: last_lines(&said, ERROR_LINES),
    })
}

/// The last `count` lines of `text`.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Whether `program` is found on the search path.
pub fn is_on_path(program: &str) -> bool {
    find_on_path(program).is_some()
}

/// The file that `program` names on the search path, with the directories that only an
/// administrator has on it as well.
pub fn find_on_path(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describe_quotes_what_a_shell_would_split() {
        let mut command = Command::new("echo");
        command.args(["a b", "c"]);
        assert_eq!(describe(&command), "echo 'a b' c");
    }

    #[test]
    fn last_lines_of_a_shorter_text_is_the_text() {
        assert_eq!(last_lines("a\nb", 5), "a\nb");
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc");
    }

    #[test]
    fn output_of_a_failing_program_is_in_the_error() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"]));
        assert!(error.is_err_and(|error| error.to_string().contains("why")));
    }
}
