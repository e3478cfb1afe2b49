//! Developer commands: `cargo xtask demo`, `test`, `bench`, `dist`, `licenses`.
//!
//! Never part of the shipped binary.

mod bench;
mod bzimage;
mod check;
mod clients;
mod cpio;
mod demo;
mod dist;
mod error;
// Shared with the integration tests, so that the demo shows what they check.
#[path = "../../tests/common/mod.rs"]
mod harness;
mod host;
mod initramfs;
mod inside;
mod job;
mod kernel;
mod licenses;
mod outer;
mod packages;
mod pinned;
mod process;
mod report;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of Aerostat.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a stock Linux kernel and steer its memory, step by step
    Demo(demo::Options),
    /// Check everything: format, lints, docs, licences, tests with and without Linux guests
    Test {
        /// Only these test programs, without the other checks: `boot`, or `boot::part_of_a_name`
        names: Vec<String>,
    },
    /// Measure start-up, footprint, QMP, the balloon and density beside QEMU
    Bench(bench::Options),
    /// Build the program as users get it: statically linked
    Dist,
    /// Write the licences of the shipped binaries' dependencies to THIRD-PARTY.md
    Licenses,
    /// What the outer machine of the nested set-up runs
    #[command(hide = true)]
    Inside,
    /// The server that the benchmark of QMP takes for the limit
    #[command(hide = true)]
    Echo {
        /// Where it listens
        socket: std::path::PathBuf,
    },
    /// The process in which the benchmark of the balloon releases pages
    #[command(hide = true)]
    Release(bench::balloon::release::Task),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test { names } => check::run(&names),
        Command::Bench(options) => bench::run(&options),
        Command::Dist => build_dist(),
        Command::Licenses => licenses::run(),
        Command::Inside => inside::run(),
        Command::Echo { socket } => bench::qmp::echo::serve(&socket),
        Command::Release(task) => bench::balloon::release::run(&task),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn build_dist() -> error::Result<()> {
    let program = dist::build(&workspace::Workspace::find()?)?;
    println!("{}", program.display());
    Ok(())
}

/// An error with its causes, in one text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
