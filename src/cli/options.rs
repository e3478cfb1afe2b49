//! What was asked for, validated as a whole: the only thing that the rest of the program sees.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aerostat_devices::{Backing, HugePageSize, RamOptions};
use aerostat_units::Size;
use aerostat_vmm::units::MemorySize;
use aerostat_vmm::{BootMethod, MachineConfig};
use clap::ValueEnum;

use super::arguments::Arguments;
use super::balloon::BalloonSettings;
use super::socket::SocketArgument;
use super::values::{SerialArgument, SerialValue, sum_of_verbosity};

/// Who unpacks the kernel in a bzImage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BootArgument {
    /// The VMM, if it understands it.
    Direct,
    /// The guest.
    GuestDecompress,
}

impl From<BootArgument> for BootMethod {
    fn from(argument: BootArgument) -> Self {
        match argument {
            BootArgument::Direct => Self::Direct,
            BootArgument::GuestDecompress => Self::GuestDecompress,
        }
    }
}

/// What SIGTERM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TermPolicy {
    /// Ends the machine.
    Quit,
    /// Asks the guest to power off.
    #[value(name = "powerdown")]
    PowerDown,
}

/// What follows when the guest tells of a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PanicPolicy {
    /// The machine ends; status 1.
    Exit,
    /// The machine stays, stopped.
    Pause,
    /// The machine starts anew.
    Reset,
}

/// What follows when KVM cannot go on with the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ErrorPolicy {
    /// The machine ends; status 1.
    Exit,
    /// The machine stays, stopped.
    Pause,
}

/// A machine and how to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The kernel.
    pub kernel: PathBuf,
    /// Who unpacks it, where it is a bzImage.
    pub boot: BootArgument,
    /// A directory of kernels that were unpacked before.
    pub kernel_cache: Option<PathBuf>,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel command line.
    pub cmdline: String,
    /// CPUs, 1 to 64.
    pub cpus: u8,
    /// Guest memory.
    pub mem: MemorySize,
    /// Where guest memory comes from.
    pub ram: RamOptions,
    /// The balloon, if there is to be one.
    pub balloon: Option<BalloonSettings>,
    /// What the machine is called: 1 to 255 bytes without control characters.
    pub name: Option<String>,
    /// Its UUID, in canonical form and lower case.
    pub uuid: Option<String>,
    /// The sockets on which QMP is served, each at a path of its own.
    pub qmp: Vec<SocketArgument>,
    /// The guest waits for QMP's `cont`.
    pub paused: bool,
    /// A reset by guest or QMP ends the machine.
    pub no_reboot: bool,
    /// The process stays after the guest has powered off.
    pub no_shutdown: bool,
    /// What SIGTERM does.
    pub on_term: TermPolicy,
    /// What follows when the guest tells of a panic.
    pub on_panic: PanicPolicy,
    /// What follows when KVM cannot go on with the guest.
    pub on_error: ErrorPolicy,
    /// After this time the machine ends with status 124. Not zero, at most 365 days.
    pub timeout: Option<Duration>,
    /// The machine ends with status 0 when the console shows this. Not empty, and only with a
    /// serial console.
    pub expect: Option<String>,
    /// The guest can end the machine by writing to port 0xf4. Never with `no_shutdown`.
    pub debug_exit: bool,
    /// The guest can have the times of its boot logged by writing to port 0xf8.
    pub boot_timer: bool,
    /// Where the serial console is: at most one [`SerialArgument::Stdio`], each file once; none
    /// when there is no serial port.
    pub serial: Vec<SerialArgument>,
    /// From 0, warnings, to 3, everything.
    pub verbose: u8,
    /// The log's file, in place of standard error.
    pub log_file: Option<PathBuf>,
}

/// Options that make no machine together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// What has no default was not given.
    #[error(
        "{} must be given, here or in the file of --config (aerostat --help shows the arguments)",
        .0.join(" and ")
    )]
    Missing(Vec<&'static str>),
    /// `off` and other consoles.
    #[error("--serial off stands alone: there is no serial port whose output could go elsewhere")]
    OffAmongOthers,
    /// Standard input can be typed into one console only.
    #[error("--serial stdio is given twice: one is enough")]
    TwoStdio,
    /// Two consoles would write over each other.
    #[error("--serial file:{} names a file that another --serial names already", .0.display())]
    SameFile(PathBuf),
    /// A path can be listened at only once.
    #[error("--qmp {} names a socket that another --qmp names already", .0.display())]
    SameSocket(PathBuf),
    /// Nothing shows the text.
    #[error("--expect waits for a text on the serial console, which --serial off leaves out")]
    ExpectWithoutConsole,
    /// Nobody could start the guest.
    #[error("--paused waits for QMP's cont: name a socket with --qmp")]
    PausedWithoutQmp,
    /// Nothing that the guest reports could be given back.
    #[error(
        "--balloon free-page-reporting=on gives nothing back here: guests report blocks of at most 4 \
         MiB, which no huge page of --mem hugepage=1G is in; leave it out, or choose hugepage=2M"
    )]
    ReportingOfGibibytes,
    /// The guest could not give anything.
    #[error(
        "--balloon min={min} is more than the guest has, --mem {mem}: nothing could be asked of it",
        min = Size(*.min)
    )]
    MinAboveMemory {
        /// What the guest always keeps, in bytes.
        min: u64,
        /// What it has.
        mem: MemorySize,
    },
    /// One ends the process, the other keeps it.
    #[error(
        "--debug-exit ends the process when the guest says so, --no-shutdown keeps it: use one"
    )]
    DebugExitWithoutShutdown,
}

impl Options {
    /// The machine that was asked for.
    #[must_use]
    pub fn machine(&self) -> MachineConfig {
        MachineConfig {
            kernel: self.kernel.clone(),
            boot: self.boot.into(),
            kernel_cache: self.kernel_cache.clone(),
            initrd: self.initrd.clone(),
            cmdline: self.cmdline.clone(),
            cpus: self.cpus,
            memory: self.mem,
            ram: self.ram,
            balloon: self.balloon.as_ref().map(|balloon| balloon.device),
            debug_exit: self.debug_exit,
        }
    }
}

impl TryFrom<Arguments> for Options {
    type Error = OptionsError;

    fn try_from(arguments: Arguments) -> Result<Self, OptionsError> {
        let Arguments {
            boot,
            machine,
            control,
            life,
            testing,
            output,
        } = arguments;
        let (kernel, mem) = match (boot.kernel, machine.mem) {
            (Some(kernel), Some(mem)) => (kernel, mem),
            (kernel, mem) => {
                let kernel = kernel.is_none().then_some("--kernel PATH");
                let mem = mem.is_none().then_some("--mem SIZE");
                return Err(OptionsError::Missing(
                    kernel.into_iter().chain(mem).collect(),
                ));
            }
        };
        let serial = consoles(output.serial)?;
        if testing.expect.is_some() && serial.is_empty() {
            return Err(OptionsError::ExpectWithoutConsole);
        }
        if control.paused && control.qmp.is_empty() {
            return Err(OptionsError::PausedWithoutQmp);
        }
        let mut balloon = machine.balloon.0;
        if let Some(balloon) = &mut balloon
            && let Backing::HugeTlb(size) = mem.ram.backing
        {
            // Nobody hears when the guest uses again what it has reported, and its huge pages may
            // be somebody else's then.
            let device = &mut balloon.device;
            device.free_page_reporting &= balloon.chooses_reporting;
            if device.free_page_reporting && size == HugePageSize::Size1G {
                return Err(OptionsError::ReportingOfGibibytes);
            }
        }
        let min = balloon.as_ref().map_or(0, |it| it.steering.limits.min);
        if min > mem.size.bytes() {
            let mem = mem.size;
            return Err(OptionsError::MinAboveMemory { min, mem });
        }
        distinct_sockets(&control.qmp)?;
        if testing.debug_exit && life.no_shutdown {
            return Err(OptionsError::DebugExitWithoutShutdown);
        }
        Ok(Self {
            kernel,
            boot: boot.boot,
            kernel_cache: boot.kernel_cache,
            initrd: boot.initrd,
            cmdline: boot.cmdline,
            cpus: machine.cpus,
            mem: mem.size,
            ram: mem.ram,
            balloon,
            name: machine.name,
            uuid: machine.uuid,
            qmp: control.qmp,
            paused: control.paused,
            no_reboot: life.no_reboot,
            no_shutdown: life.no_shutdown,
            on_term: life.on_term,
            on_panic: life.on_panic,
            on_error: life.on_error,
            timeout: testing.timeout,
            expect: testing.expect,
            debug_exit: testing.debug_exit,
            boot_timer: testing.boot_timer,
            serial,
            verbose: sum_of_verbosity(output.verbose),
            log_file: output.log_file,
        })
    }
}

/// Where the serial console is; nowhere for `off`.
fn consoles(values: Vec<SerialValue>) -> Result<Vec<SerialArgument>, OptionsError> {
    let count = values.len();
    let consoles: Vec<_> = values.into_iter().filter_map(|value| value.0).collect();
    if consoles.len() < count && count > 1 {
        return Err(OptionsError::OffAmongOthers);
    }
    let mut places = BTreeSet::new();
    let mut has_stdio = false;
    for console in &consoles {
        match console {
            SerialArgument::Stdio if has_stdio => return Err(OptionsError::TwoStdio),
            SerialArgument::Stdio => has_stdio = true,
            SerialArgument::File(path) if !places.insert(place(path)) => {
                return Err(OptionsError::SameFile(path.clone()));
            }
            SerialArgument::File(_) => {}
        }
    }
    Ok(consoles)
}

/// Checks that no path is there twice.
fn distinct_sockets(sockets: &[SocketArgument]) -> Result<(), OptionsError> {
    if let [] | [_] = sockets {
        return Ok(());
    }
    let mut places = BTreeSet::new();
    let twice = sockets
        .iter()
        .find(|socket| !places.insert(place(&socket.path)));
    twice.map_or(Ok(()), |socket| {
        Err(OptionsError::SameSocket(socket.path.clone()))
    })
}

/// The same path for all ways to write that of one file, whether it exists yet or not.
fn place(path: &Path) -> PathBuf {
    let in_its_directory = || {
        let directory = std::path::absolute(path)
            .ok()?
            .parent()?
            .canonicalize()
            .ok()?;
        Some(directory.join(path.file_name()?))
    };
    path.canonicalize()
        .ok()
        .or_else(in_its_directory)
        .unwrap_or_else(|| path.to_owned())
}
