//! The command line: what can be asked for, and how wrong arguments are answered.

use std::path::PathBuf;
use std::str::FromStr;

use aerostat_devices::balloon::BalloonOptions;
use aerostat_vmm::MachineConfig;
use aerostat_vmm::config::DEFAULT_CMDLINE;
use aerostat_vmm::units::MemorySize;
use clap::error::ErrorKind;
use clap::{ArgAction, Parser};

const EXAMPLE: &str = "\
Example:
  aerostat --kernel bzImage --initrd initramfs.cpio --mem 2G --qmp /tmp/vm.sock
  socat - UNIX-CONNECT:/tmp/vm.sock
    {\"execute\": \"qmp_capabilities\"}
    {\"execute\": \"balloon\", \"arguments\": {\"value\": 1073741824}}

The console is standard input and output: Ctrl-A x quits, Ctrl-A h helps.

Exit status: 0 the guest powered off, or a clean quit; 1 the machine failed while it ran;
2 the arguments, or the files that they name, are unusable.";

/// Runs a Linux kernel in a KVM virtual machine whose memory is steered over QMP, as QEMU's
/// balloon is.
#[derive(Debug, Parser)]
#[command(name = "aerostat", version, after_help = EXAMPLE, max_term_width = 100)]
pub struct Cli {
    /// Kernel: an x86-64 bzImage (Linux 3.8 or later) or ELF vmlinux
    #[arg(long, value_name = "PATH", help_heading = "Boot")]
    kernel: PathBuf,

    /// Initial RAM disk
    #[arg(long, value_name = "PATH", help_heading = "Boot")]
    initrd: Option<PathBuf>,

    /// Kernel command line, in place of the default
    #[arg(
        long,
        value_name = "TEXT",
        help_heading = "Boot",
        default_value = DEFAULT_CMDLINE,
        allow_hyphen_values = true
    )]
    cmdline: String,

    /// Memory: 512M, 2G, 1.5G, 2GiB; powers of 1024, a bare number counts MiB; at least 64M
    #[arg(long, value_name = "SIZE", help_heading = "Memory")]
    mem: MemorySize,

    /// Memory balloon: off, on, or options: deflate-on-oom=on|off lets a guest that is short of
    /// memory take pages back (default off)
    #[arg(
        long,
        value_name = "off|KEY=VALUE,…",
        help_heading = "Memory",
        default_value = "on"
    )]
    balloon: BalloonArgument,

    /// Unix socket on which QMP is served; replaced when nobody serves it any more
    #[arg(long, value_name = "PATH", help_heading = "Control")]
    pub qmp: PathBuf,

    #[arg(long, default_value_t = 1)]
    pub cpus: u8,
    #[arg(long)]
    pub no_reboot: bool,
    #[arg(long)]
    pub no_shutdown: bool,
    #[arg(long, default_value = "exit")]
    pub on_panic: PanicPolicy,
    #[arg(long, default_value = "exit")]
    pub on_error: ErrorPolicy,
    #[arg(long, default_value = "quit")]
    pub on_term: TermPolicy,

    /// Do not run the guest before QMP's `cont`
    #[arg(long, help_heading = "Control")]
    pub paused: bool,

    /// Serial console: stdio, off, or file:PATH
    #[arg(
        long,
        value_name = "stdio|off|file:PATH",
        help_heading = "Console and log",
        default_value = "stdio"
    )]
    pub serial: SerialArgument,

    /// Log more: -v what happens, -vv details, -vvv everything (default: warnings)
    #[arg(short, action = ArgAction::Count, help_heading = "Console and log")]
    pub verbose: u8,

    /// Log to this file rather than to standard error
    #[arg(long, value_name = "PATH", help_heading = "Console and log")]
    pub log_file: Option<PathBuf>,
}

impl Cli {
    /// The arguments of this process.
    ///
    /// # Errors
    /// Help and version, which are to be printed, and wrong arguments.
    pub fn parse_arguments() -> Result<Self, clap::Error> {
        Self::try_parse()
    }

    /// The machine that was asked for.
    #[must_use]
    pub fn machine(&self) -> MachineConfig {
        MachineConfig {
            kernel: self.kernel.clone(),
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
            cpus: self.cpus,
            debug_exit: true,
            memory: self.mem,
            balloon: self.balloon.0,
        }
    }
}

/// A wrong argument in one line; `None` for help and version, which are no errors.
pub fn one_line(error: &clap::Error) -> Option<String> {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return None;
    }
    let text = error.to_string();
    let message = text.split("\nUsage:").next().unwrap_or(&text);
    let message = message
        .split_once("For more information")
        .map_or(message, |(head, _)| head);
    let words: Vec<_> = message
        .split_whitespace()
        .skip_while(|word| *word == "error:")
        .collect();
    Some(format!(
        "{} (aerostat --help shows the arguments)",
        words.join(" ")
    ))
}

/// What happens when the guest panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PanicPolicy {
    Exit,
    Pause,
    Reset,
}
/// When KVM fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ErrorPolicy {
    Exit,
    Pause,
}
/// On SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TermPolicy {
    Quit,
    PowerDown,
}

/// Where the serial console is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SerialArgument {
    /// Standard input and output.
    Stdio,
    /// There is no serial port.
    Off,
    /// Output to a file; no input.
    File(PathBuf),
}

impl FromStr for SerialArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "stdio" => Ok(Self::Stdio),
            None if text == "off" => Ok(Self::Off),
            Some(("file", "")) => Err("file: needs a path".to_owned()),
            Some(("file", path)) => Ok(Self::File(path.into())),
            _ => Err("write stdio, off or file:PATH".to_owned()),
        }
    }
}

/// `off`, `on`, or options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BalloonArgument(Option<BalloonOptions>);

impl FromStr for BalloonArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => return Ok(Self(None)),
            "on" => return Ok(Self(Some(BalloonOptions::default()))),
            _ => {}
        }
        let mut options = BalloonOptions::default();
        for option in text.split(',') {
            match option.split_once('=') {
                Some(("deflate-on-oom", value)) => options.deflate_on_oom = switch(option, value)?,
                _ => {
                    return Err(format!(
                        "{option:?} is no option: write off, on or deflate-on-oom=on|off"
                    ));
                }
            }
        }
        Ok(Self(Some(options)))
    }
}

fn switch(option: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{option:?}: the value is on or off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDED: [&str; 7] = ["aerostat", "--kernel", "k", "--mem", "2G", "--qmp", "s"];

    fn parse(more: &[&str]) -> Result<Cli, String> {
        let arguments = NEEDED.iter().chain(more);
        Cli::try_parse_from(arguments).map_err(|error| one_line(&error).unwrap())
    }

    #[test]
    fn definitions_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn needed_arguments_make_a_machine_with_the_defaults() {
        let machine = parse(&[]).unwrap().machine();
        assert_eq!(machine.memory.bytes(), 2 << 30);
        assert_eq!(machine.cmdline, DEFAULT_CMDLINE);
        assert_eq!(
            machine.balloon,
            Some(BalloonOptions {
                deflate_on_oom: false
            })
        );
    }

    #[test]
    fn balloon_options_are_taken() {
        let balloon = |text| parse(&["--balloon", text]).map(|cli| cli.machine().balloon);
        assert_eq!(balloon("off"), Ok(None));
        assert_eq!(
            balloon("on"),
            Ok(Some(BalloonOptions {
                deflate_on_oom: false
            }))
        );
        assert_eq!(
            balloon("deflate-on-oom=on"),
            Ok(Some(BalloonOptions {
                deflate_on_oom: true
            }))
        );
    }

    #[test]
    fn wrong_balloon_options_are_named() {
        let refusal = |text| parse(&["--balloon", text]).unwrap_err();
        assert!(refusal("size=3").contains("\"size=3\" is no option"));
        assert!(refusal("deflate-on-oom=maybe").contains("the value is on or off"));
    }

    #[test]
    fn serial_targets_are_taken() {
        let serial = |text| parse(&["--serial", text]).map(|cli| cli.serial);
        assert_eq!(serial("off"), Ok(SerialArgument::Off));
        assert_eq!(
            serial("file:/tmp/a:b"),
            Ok(SerialArgument::File("/tmp/a:b".into()))
        );
        assert!(serial("file:").unwrap_err().contains("needs a path"));
        assert!(
            serial("pty")
                .unwrap_err()
                .contains("stdio, off or file:PATH")
        );
    }

    #[test]
    fn wrong_arguments_are_answered_in_one_line_with_their_value() {
        for arguments in [
            &["--cmdline", "x", "--cmdline"][..],
            &["--frobnicate"],
            &["stray"],
        ] {
            let line = parse(arguments).unwrap_err();
            assert!(!line.contains('\n'));
            assert!(line.contains(arguments.last().unwrap()), "{line}");
        }
    }

    #[test]
    fn missing_arguments_are_all_named() {
        let error = Cli::try_parse_from(["aerostat", "--mem", "2G"]).unwrap_err();
        let line = one_line(&error).unwrap();
        assert!(
            line.contains("--kernel") && line.contains("--qmp"),
            "{line}"
        );
    }

    #[test]
    fn command_line_may_begin_with_a_dash() {
        assert_eq!(
            parse(&["--cmdline", "-x y"]).unwrap().machine().cmdline,
            "-x y"
        );
    }
}
