//! The options as clap knows them: names, help texts, defaults. Nothing is required here, because
//! what is needed may stand in the configuration file.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use aerostat_vmm::config::DEFAULT_CMDLINE;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, Args, Command, CommandFactory, Parser};

use super::balloon::BalloonArgument;
use super::memory::MemoryArgument;
use super::options::{BootArgument, ErrorPolicy, PanicPolicy, TermPolicy};
use super::socket::SocketArgument;
use super::values::{self, SerialValue};

/// The subcommand that checks a configuration.
pub const CHECK: &str = "check";

/// Options that cannot stand in a configuration file.
const NOT_IN_FILES: [&str; 3] = ["config", "help", "version"];

const USAGE: &str = "\
aerostat --kernel PATH --mem SIZE [OPTIONS]
       aerostat --config FILE [OPTIONS]
       aerostat check [OPTIONS]";

const CHECK_ABOUT: &str = "Check options and files without starting, and print the configuration";

const CHECK_AFTER_HELP: &str = "\
What is printed is a configuration file for --config; paths in it are absolute.

Exit status: 0 nothing was found that would keep the machine from starting; 2 something was.";

const AFTER_HELP: &str = "\
Example:
  aerostat --kernel bzImage --initrd initramfs.cpio --mem 2G --qmp /tmp/vm.sock
  socat - UNIX-CONNECT:/tmp/vm.sock
    {\"execute\": \"qmp_capabilities\"}
    {\"execute\": \"balloon\", \"arguments\": {\"value\": 1073741824}}

The console is standard input and output: Ctrl-A x quits, Ctrl-A h helps.

Configuration file (TOML): its keys are the long options, with the same values:
  kernel = \"bzImage\"
  mem = \"2G\"
  paused = true
  serial = [\"stdio\", \"file:console.log\"]
  [balloon]
  deflate-on-oom = true
The command line overrides the file, option by option: --serial replaces all that the file has,
--paused=off takes back `paused = true`, --verbose=0 `verbose = 2`. Relative paths in the file
count from the file's directory, or from the working directory when the file is a pipe.
`aerostat check` prints the configuration that its arguments make as such a file.

Exit status:
  0    the machine ended in order: the guest powered off, somebody quit, or the console showed
       the text of --expect
  1    the machine failed, the guest panicked, or the text of --expect never came
  2    the arguments, or the files that they name, are unusable
  124  the time of --timeout was up
  odd  with --debug-exit, what the guest wrote: (value << 1) | 1";

/// Runs a Linux kernel in a KVM virtual machine whose memory is steered over QMP, as QEMU's
/// balloon is.
#[derive(Debug, Parser)]
#[command(
    name = "aerostat",
    version,
    override_usage = USAGE,
    after_help = AFTER_HELP,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Arguments {
    #[command(flatten)]
    pub boot: BootOptions,
    #[command(flatten)]
    pub machine: MachineOptions,
    #[command(flatten)]
    pub control: ControlOptions,
    #[command(flatten)]
    pub life: LifeOptions,
    #[command(flatten)]
    pub testing: TestOptions,
    #[command(flatten)]
    pub output: OutputOptions,
}

/// What the machine boots, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Boot")]
pub struct BootOptions {
    /// Kernel (required): an x86-64 bzImage (Linux 3.8 or later) or ELF vmlinux
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,

    /// Who unpacks the kernel in a bzImage: direct, aerostat does, and moves it to where chance has it
    /// (KASLR, unless `nokaslr` is on the kernel command line), which is faster; guest-decompress, the
    /// guest does, with what the bzImage brings along
    #[arg(
        long,
        value_name = "METHOD",
        default_value = "direct",
        hide_possible_values = true
    )]
    pub boot: BootArgument,

    /// Keep kernels that were unpacked in this directory, which is made if there is none: the next boot
    /// of the same kernel is faster, unless it is compressed with LZ4, which is fast already
    #[arg(long, value_name = "DIR")]
    pub kernel_cache: Option<PathBuf>,

    /// Initial RAM disk
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,

    /// Kernel command line, in place of the default
    #[arg(
        long,
        value_name = "TEXT",
        default_value = DEFAULT_CMDLINE,
        allow_hyphen_values = true
    )]
    pub cmdline: String,
}

/// What the guest finds.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct MachineOptions {
    /// CPUs, 1 to 64
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        value_parser = values::cpus
    )]
    pub cpus: u8,

    /// Memory (required): 512M, 2G, 1.5G, 2GiB; powers of 1024, a bare number counts MiB; at
    /// least 64M. Options behind it: backing=anon|memfd|hugetlbfs is where it comes from (anon);
    /// hugepage=2M|1G is the size of hugetlbfs' pages (2M); thp=on|off asks for transparent huge
    /// pages, or for none (default: as the host does it); prealloc=on|off takes all of it from the
    /// host before the guest starts (off); lock=on|off keeps it from being swapped out (off)
    #[arg(long, value_name = "SIZE,KEY=VALUE,…")]
    pub mem: Option<MemoryArgument>,

    /// Memory balloon: off, on, or options: deflate-on-oom=on|off lets a guest that is short of
    /// memory take pages back (default off); free-page-reporting=on|off lets it give back what it
    /// does not use (on, with backing=hugetlbfs off); page-poison=on|off lets it say what it fills
    /// free pages with (on); id=NAME names it to QMP (balloon0); min=SIZE is what the guest always
    /// keeps (0); max-rate=SIZE/s is how fast it is asked to give memory (as fast as it can);
    /// stall-after=TIME is how long it may make no progress before it counts as stalled (5s)
    #[arg(long, value_name = "off|KEY=VALUE,…", default_value = "on")]
    pub balloon: BalloonArgument,

    /// Name of the machine, as QMP's `query-name` tells it: at most 255 bytes
    #[arg(
        long,
        value_name = "TEXT",
        value_parser = values::name
    )]
    pub name: Option<String>,

    /// UUID of the machine, as QMP's `query-uuid` tells it
    #[arg(
        long,
        value_name = "UUID",
        value_parser = values::uuid
    )]
    pub uuid: Option<String>,
}

/// How the machine is told what to do.
#[derive(Debug, Args)]
#[command(next_help_heading = "Control")]
pub struct ControlOptions {
    /// Read options from this TOML file; those given here as well count from here
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Unix socket on which QMP is served; may be repeated. mode=0660 and group=NAME let a group
    /// connect (default: mode=0600); with wait=on the guest starts when a client has negotiated.
    /// QEMU's unix:PATH,server=on,wait=off may stand here too; there, as in QEMU, wait is on by
    /// default. A comma in PATH is written twice
    #[arg(
        long,
        value_name = "PATH,KEY=VALUE,…",
        value_parser = OsStringValueParser::new().try_map(SocketArgument::parse)
    )]
    pub qmp: Vec<SocketArgument>,

    /// Do not run the guest before QMP's `cont`
    #[arg(long)]
    pub paused: bool,
}

/// What follows when something happens to the machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Life cycle")]
pub struct LifeOptions {
    /// End the machine when the guest or QMP resets it
    #[arg(long)]
    pub no_reboot: bool,

    /// Stay, stopped, after the guest has powered off
    #[arg(long)]
    pub no_shutdown: bool,

    /// What SIGTERM does: end the machine, or ask the guest to power off
    #[arg(
        long,
        value_name = "quit|powerdown",
        default_value = "quit",
        hide_possible_values = true
    )]
    pub on_term: TermPolicy,

    /// What follows when the guest tells of a panic
    #[arg(
        long,
        value_name = "exit|pause|reset",
        default_value = "exit",
        hide_possible_values = true
    )]
    pub on_panic: PanicPolicy,

    /// What follows when KVM cannot go on with the guest
    #[arg(
        long,
        value_name = "exit|pause",
        default_value = "exit",
        hide_possible_values = true
    )]
    pub on_error: ErrorPolicy,
}

/// What a test wants of a machine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Testing kernels")]
pub struct TestOptions {
    /// End with status 124 after this time: 60s, 2m, 500ms; a bare number counts seconds
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = values::timeout
    )]
    pub timeout: Option<Duration>,

    /// End with status 0 when the console shows this text, with status 1 when the machine ends
    /// before
    #[arg(
        long,
        value_name = "TEXT",
        value_parser = values::expected_text,
        allow_hyphen_values = true
    )]
    pub expect: Option<String>,

    /// Let the guest end the machine by writing to port 0xf4, as with QEMU's isa-debug-exit, with
    /// status (value << 1) | 1
    #[arg(long)]
    pub debug_exit: bool,

    /// Let the guest have the times of its boot logged by writing a byte of its choice to port 0xf8
    #[arg(long)]
    pub boot_timer: bool,
}

/// What is printed, and where.
#[derive(Debug, Args)]
#[command(next_help_heading = "Console and log")]
pub struct OutputOptions {
    /// Serial console: stdio, off, or file:PATH; may be repeated, off stands alone
    #[arg(long, value_name = "stdio|off|file:PATH", default_value = "stdio")]
    pub serial: Vec<SerialValue>,

    /// Log more: -v what happens, -vv details, -vvv everything; --verbose=0 warnings only
    #[arg(
        short,
        long,
        value_name = "0..3",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        default_value = "0",
        hide_default_value = true,
        value_parser = values::verbosity
    )]
    pub verbose: Vec<u8>,

    /// Log to this file rather than to standard error
    #[arg(long, value_name = "PATH")]
    pub log_file: Option<PathBuf>,
}

/// The whole command line: the options, or `check` and the options.
pub fn command() -> Command {
    let check = Arguments::augment_args(Command::new(CHECK))
        .mut_args(switch)
        // The attributes of the whole command came along with its options.
        .override_usage("aerostat check [OPTIONS]")
        .after_help(CHECK_AFTER_HELP)
        .disable_version_flag(true);
    with_check(check)
}

/// The same for `line`: the options of `check`, as many again as the program's own, are there only if
/// it has that word. To make them takes time at the start of every machine.
pub fn command_for(line: &[OsString]) -> Command {
    if line.iter().any(|word| word == CHECK) {
        command()
    } else {
        with_check(Command::new(CHECK))
    }
}

fn with_check(check: Command) -> Command {
    let check = check.about(CHECK_ABOUT);
    Arguments::command().mut_args(switch).subcommand(check)
}

/// Lets every flag be taken back: one that a configuration file sets is switched off by `=off`.
fn switch(option: Arg) -> Arg {
    if !matches!(option.get_action(), ArgAction::SetTrue) {
        return option;
    }
    option
        .action(ArgAction::Set)
        .value_name("on|off")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("on")
        .default_value("off")
        .hide_default_value(true)
        .value_parser(values::switch)
}

/// The options that can stand in a configuration file.
pub fn file_options(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|option| !NOT_IN_FILES.contains(&option.get_id().as_str()))
}

/// The name of an option, which is its key in a file.
pub fn key(option: &Arg) -> &str {
    option
        .get_long()
        .unwrap_or_else(|| option.get_id().as_str())
}
