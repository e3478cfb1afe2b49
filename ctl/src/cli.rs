//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use aerostat_units::{parse_size, parse_time};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

/// Steers a machine over its QMP socket: Aerostat's, or QEMU's
#[derive(Debug, Parser)]
#[command(
    name = "aerostat-ctl",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = false,
    override_usage = "aerostat-ctl [OPTIONS] SOCKET COMMAND [ARGS]...\n       \
                      aerostat-ctl [OPTIONS] SOCKET QMP-COMMAND [JSON | KEY=VALUE...]",
    after_help = "Any other COMMAND goes to the machine as it is, and what it returns is printed as \
                  JSON:\n  aerostat-ctl vm.sock query-balloon\n  \
                  aerostat-ctl vm.sock balloon '{\"value\": 268435456}'\n  \
                  aerostat-ctl vm.sock balloon value=268435456\n\n\
                  Exit status: 0 done, 1 the machine answered with an error, 2 wrong arguments or no \
                  connection,\n3 the guest did not reach its size, 124 the time of --timeout was up.",
    max_term_width = 100
)]
pub struct CommandLine {
    /// Path of the machine's QMP socket
    pub socket: PathBuf,
    /// Gives up when this time is up, as 30s or 2m [default: 10s to connect, no limit after that]
    #[arg(long, value_name = "TIME", global = true, value_parser = time)]
    pub timeout: Option<Duration>,
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set the memory that the guest shall have, by its balloon
    Resize(ResizeOptions),
    /// Show the state of the machine and of its memory
    Status(StatusOptions),
    /// Print events as they come, one JSON text a line, until the machine ends
    Events(EventsOptions),
    /// Type commands, with completion, history and events above the prompt; --timeout limits each
    /// reply
    Shell,
    /// A command of QMP: its name, and what follows it.
    #[command(external_subcommand)]
    Qmp(Vec<String>),
}

/// What may follow the name of a command of QMP.
#[derive(Debug, Parser)]
#[command(
    name = "aerostat-ctl SOCKET QMP-COMMAND",
    about = "Sends a command of QMP and prints what it returns as JSON",
    disable_version_flag = true,
    override_usage = "aerostat-ctl SOCKET QMP-COMMAND [JSON | KEY=VALUE...]"
)]
struct QmpArguments {
    /// Name of the command
    command: String,
    /// Its arguments: one JSON object, or words as key=value and nested.key=value
    #[arg(value_name = "JSON | KEY=VALUE", allow_negative_numbers = true)]
    words: Vec<String>,
    /// Gives up when this time is up
    #[arg(long, value_name = "TIME", value_parser = time)]
    timeout: Option<Duration>,
}

impl CommandLine {
    /// Reads the command line.
    ///
    /// # Errors
    ///
    /// When it is wrong, or asks for help.
    pub fn read(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut all = Self::try_parse_from(line)?;
        // Clap leaves all behind the name of an external command alone, options too.
        if let Command::Qmp(words) = &mut all.command {
            let program = std::iter::once("aerostat-ctl");
            let line = program.chain(words.iter().map(String::as_str));
            let read = QmpArguments::try_parse_from(line)?;
            all.timeout = read.timeout.or(all.timeout);
            *words = std::iter::once(read.command).chain(read.words).collect();
        }
        Ok(all)
    }
}

/// A time that can pass.
fn time(text: &str) -> Result<Duration, String> {
    parse_time(text).map_err(|error| error.to_string())
}

/// A size that a guest can have.
fn size(text: &str) -> Result<u64, String> {
    match parse_size(text) {
        Ok(0) => Err("a guest cannot do without any memory".to_owned()),
        Ok(size) => Ok(size),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether help or version was asked for, which is no error.
pub fn is_answer(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    )
}

/// A wrong command line in one line.
pub fn one_line(error: &clap::Error) -> String {
    let text = match error.kind() {
        ErrorKind::MissingSubcommand => "SOCKET and COMMAND are missing, or one of them".to_owned(),
        _ => error.to_string(),
    };
    let message = text.split("\nUsage:").next().unwrap_or(&text);
    let message = message
        .split_once("For more information")
        .map_or(message, |(head, _)| head);
    let words: Vec<_> = message
        .split_whitespace()
        .skip_while(|word| *word == "error:")
        .collect();
    format!(
        "{} (aerostat-ctl --help shows the arguments)",
        words.join(" ")
    )
}

/// Options of `resize`.
#[derive(Debug, Args)]
pub struct ResizeOptions {
    /// The memory that the guest shall have, as 256M or 1.5G; a bare number counts MiB
    #[arg(value_parser = size)]
    pub size: u64,
    /// Wait until the guest has this size, and show how it gets there
    #[arg(long)]
    pub wait: bool,
    /// With --wait: give up when nothing has moved for this time [default: 5s, or what the machine
    /// takes for a stall]
    #[arg(long, value_name = "TIME", value_parser = time, requires = "wait")]
    pub stall: Option<Duration>,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub struct StatusOptions {
    /// Print it as JSON, sizes in bytes
    #[arg(long)]
    pub json: bool,
}

/// Options of `events`.
#[derive(Debug, Args)]
pub struct EventsOptions {
    /// Only events of these names, as BALLOON_CHANGE
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// End after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn read(line: &str) -> Result<CommandLine, String> {
        let words = line.split(' ').map(OsString::from);
        CommandLine::read(words).map_err(|error| one_line(&error))
    }

    #[test]
    fn definitions_are_consistent() {
        CommandLine::command().debug_assert();
        QmpArguments::command().debug_assert();
    }

    #[test]
    fn time_out_may_stand_before_and_behind_every_command() {
        for line in [
            "ctl --timeout 2m s status",
            "ctl s status --timeout 2m",
            "ctl --timeout 2m s stop",
            "ctl s stop --timeout 2m",
            "ctl s resize 1G --timeout 2m --wait",
        ] {
            let timeout = read(line).unwrap().timeout;
            assert_eq!(timeout, Some(Duration::from_secs(120)), "{line}");
        }
    }

    #[test]
    fn other_commands_are_those_of_qmp() {
        let line = read("ctl s balloon value=1 a.b=2").unwrap();
        let Command::Qmp(words) = line.command else {
            panic!("{line:?}");
        };
        assert_eq!(words, ["balloon", "value=1", "a.b=2"]);
    }

    #[test]
    fn wrong_arguments_are_answered_in_one_line() {
        for (line, said) in [
            ("ctl", "SOCKET and COMMAND are missing"),
            ("ctl s", "SOCKET and COMMAND are missing"),
            ("ctl s resize", "<SIZE>"),
            ("ctl s resize 12Q", "not a size"),
            ("ctl s resize 0", "without any memory"),
            ("ctl s resize 1G --stall 1s", "--wait"),
            ("ctl s --timeout 0 status", "no time at all"),
            ("ctl s events --count 0", "0 is not in"),
            ("ctl s stop --wrong", "--wrong"),
        ] {
            let answer = read(line).unwrap_err();
            assert!(answer.contains(said), "{line}: {answer}");
            assert_eq!(answer.lines().count(), 1, "{answer}");
        }
    }
}
