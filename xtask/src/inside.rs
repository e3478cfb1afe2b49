//! What runs inside the outer machine: the job that its init file system carries.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::bench::balloon::linux;
use crate::bench::boot;
use crate::demo;
use crate::error::{Error, FileContext, Result};
use crate::job::{JOB_FILE, Job, MESSAGE_PORT, Message, TestProgram};
use crate::process;

/// Reads the job, does it, and says how it ended.
///
/// # Errors
///
/// When there is no job or nobody to report to, as outside of the outer machine.
pub fn run() -> Result<()> {
    let path = Path::new(JOB_FILE);
    let text = std::fs::read(path).file("read", path)?;
    let job = serde_json::from_slice(&text).map_err(|source| Error::Json {
        what: "The job",
        source,
    })?;
    let port = Path::new(MESSAGE_PORT);
    let mut line = Line(File::options().write(true).open(port).file("open", port)?);

    let outcome = match job {
        Job::Tests(programs) => run_tests(&programs, &mut line),
        Job::Demo(files) => demo::drive(&files, &mut |event| line.send(&Message::Demo(event))),
        Job::Balloon(files) => linux::drive(&files, &mut |round| {
            line.send(&Message::Resized(round));
        }),
        Job::Boot(files) => boot::drive(&files, &mut |round| {
            line.send(&Message::Booted(round));
        }),
        Job::Shell { hint } => {
            println!("{hint}");
            process::run(Command::new("/bin/sh").env("HOME", "/root"))
        }
    };
    line.send(&Message::Done(
        outcome.map_err(|error| crate::chain(&error)),
    ));
    Ok(())
}

fn run_tests(programs: &[TestProgram], line: &mut Line) -> Result<()> {
    let mut failed = Vec::new();
    for program in programs {
        println!("\n     Running {} of {}", program.name, program.package);
        let outcome = run_test(program);
        if let Err(error) = &outcome {
            println!("{}", crate::chain(error));
            failed.push(program.name.clone());
        }
        line.send(&Message::Tested {
            name: program.name.clone(),
            passed: outcome.is_ok(),
        });
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(Error::Check(format!(
        "Failed tests in: {}",
        failed.join(", ")
    )))
}

/// How long a test program may take: one that hangs is named.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Runs one test program as Cargo does; tests in turn, since a guest needs the CPU for itself.
pub fn run_test(program: &TestProgram) -> Result<()> {
    process::run_within(
        Command::new(&program.path)
            .args(&program.filters)
            .arg("--test-threads=1")
            .current_dir(&program.directory)
            .envs(
                program
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            ),
        LIMIT,
    )
}

/// The line to the machine outside.
#[derive(Debug)]
struct Line(File);

impl Line {
    fn send(&mut self, message: &Message) {
        // Where the line fails, the machine outside sees that the job never ended.
        if let Ok(mut text) = serde_json::to_string(message) {
            text.push('\n');
            let _ = self.0.write_all(text.as_bytes());
        }
    }
}
