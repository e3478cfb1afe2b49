//! What the protocol asks of a machine, and how a machine refuses.

use thiserror::Error;

use crate::governor::View;

/// A machine that QMP commands act on.
///
/// Runs on the control thread, between two events of its loop, and so must never wait: not for
/// the guest, not for a client. What a command sets off and finishes later is told by an
/// [`Event`](crate::Event).
pub trait Backend {
    /// What does not change while the machine is there.
    fn info(&self) -> MachineInfo;

    /// The virtual CPUs, by index.
    fn cpus(&self) -> Vec<CpuInfo>;

    /// The run state now.
    fn status(&self) -> RunState;

    /// Stops the virtual CPUs. Without effect unless the machine runs.
    ///
    /// # Errors
    ///
    /// Whatever keeps the machine from stopping.
    fn stop(&mut self) -> Result<(), CommandError>;

    /// Starts the virtual CPUs again. Without effect if the machine runs.
    ///
    /// # Errors
    ///
    /// Whatever keeps the machine from running.
    fn cont(&mut self) -> Result<(), CommandError>;

    /// Puts the machine back to where it was when it was built. One that runs goes on running;
    /// any other is in [`RunState::Prelaunch`] afterwards, whatever kept it from running.
    /// [`Event::Reset`](crate::Event::Reset) is sent before this returns.
    ///
    /// # Errors
    ///
    /// Whatever keeps the machine from being reset.
    fn reset(&mut self) -> Result<(), CommandError>;

    /// Asks the guest to switch itself off, as the power button does; it may not react. Sends
    /// [`Event::Powerdown`](crate::Event::Powerdown) each time, whatever the run state.
    fn power_down(&mut self);

    /// Asks for the end of the process; it comes after this returns.
    fn quit(&mut self);

    /// Asks the guest to have so many bytes left, more than 0. Values above the size of its RAM
    /// mean all of it; what it is asked for already is asked again.
    ///
    /// # Errors
    ///
    /// [`CommandError::no_balloon`] or [`CommandError::no_sync_mmu`].
    fn set_balloon(&mut self, guest_bytes: u64) -> Result<(), CommandError>;

    /// How many bytes the guest has: RAM minus what it says is in the balloon.
    ///
    /// # Errors
    ///
    /// [`CommandError::no_balloon`] or [`CommandError::no_sync_mmu`].
    fn balloon_actual(&self) -> Result<u64, CommandError>;

    /// What the guest is asked to have and what it has; `None` without a balloon that can be set.
    fn balloon_view(&self) -> Option<View>;

    /// What else is known of the balloon; `None` without one.
    fn balloon(&self) -> Option<BalloonInfo>;

    /// Sets how often the guest is asked for its statistics, in seconds; 0 for never. Without
    /// effect when there is no balloon.
    fn set_polling_interval(&mut self, seconds: u32);

    /// Chooses whether memory that the guest reports as free is given back to the host.
    ///
    /// # Errors
    ///
    /// When the balloon does not let its guest report.
    fn switch_reporting(&mut self, is_on: bool) -> Result<(), CommandError>;

    /// Chooses how fast such memory is given back at most: bytes per second, 0 for as fast as it
    /// comes.
    ///
    /// # Errors
    ///
    /// When the balloon does not let its guest report, or the rate is too low.
    fn set_reporting_rate(&mut self, bytes_per_second: u64) -> Result<(), CommandError>;

    /// Asks the guest for its statistics now. Returns how many times it had answered before; the
    /// server is [woken](crate::EventSender::wake) when it does.
    ///
    /// # Errors
    ///
    /// [`CommandError::no_balloon`] or [`CommandError::no_sync_mmu`].
    fn ask_for_statistics(&mut self) -> Result<u64, CommandError>;

    /// What the guest said last of its memory; `None` while it has no driver that does.
    fn statistics(&self) -> Option<GuestStatistics>;
}

/// What does not change while a machine is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineInfo {
    /// The name the user gave it.
    pub name: Option<String>,
    /// Its UUID, in lower case.
    pub uuid: String,
    /// Its RAM.
    pub memory_bytes: u64,
    /// Where its RAM comes from.
    pub ram: RamInfo,
    /// How many CPUs such a machine can have.
    pub max_cpus: u32,
    /// Whether KVM runs the guest.
    pub kvm: KvmInfo,
    /// Where its serial port is connected to, in QEMU's words: `stdio`, `file`.
    pub consoles: Vec<String>,
}

/// Where RAM comes from, as far as QEMU has words for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RamInfo {
    /// It is a memfd, which can be shared, rather than memory of the process alone.
    pub memfd: bool,
    /// The size of the huge pages of the host's pool that it is made of; `None` for other pages.
    pub huge_page_bytes: Option<u64>,
    /// All of it was taken from the host at the start.
    pub prealloc: bool,
}

impl RamInfo {
    /// Whether the host keeps all of it for the guest: huge pages of its pool, and nothing else.
    pub fn is_reserved(&self) -> bool {
        self.huge_page_bytes.is_some()
    }
}

/// The balloon as the host and the guest's driver have it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BalloonInfo {
    /// Its id, the last part of its QOM path.
    pub id: String,
    /// How many pages of 4 KiB the guest is asked to give.
    pub asked_pages: u32,
    /// How much was given back to the host since the start. What the guest has taken again is not
    /// subtracted.
    pub released_bytes: u64,
    /// How much of that the guest had reported as free.
    pub reported_bytes: u64,
    /// Whether what it reports is given back.
    pub is_reporting: bool,
    /// How fast at most, in bytes per second; 0 for as fast as it comes.
    pub reporting_rate: u64,
    /// The features on offer, by the names of their properties.
    pub offered: Vec<&'static str>,
    /// The features that the guest's driver uses; `None` while there is no driver.
    pub driver: Option<Vec<&'static str>>,
    /// How often the guest is asked for its statistics, in seconds; 0 for never.
    pub polling_interval: u32,
    /// What it said last.
    pub statistics: GuestStatistics,
}

/// What a guest says of its memory (virtio 1.2 §5.5.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestStatistics {
    /// The values by tag; memory in bytes. `u64::MAX` for what the guest did not say.
    pub values: [u64; 16],
    /// When, in seconds since 1970; 0 for never.
    pub last_update: u64,
    /// How many times it has answered when it was asked, since its driver is there.
    pub answers: u64,
}

impl Default for GuestStatistics {
    fn default() -> Self {
        Self {
            values: [u64::MAX; 16],
            last_update: 0,
            answers: 0,
        }
    }
}

/// The return of `query-kvm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvmInfo {
    /// KVM runs this machine.
    pub enabled: bool,
    /// This program can use KVM.
    pub present: bool,
}

/// One virtual CPU, as `query-cpus-fast` tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuInfo {
    /// The thread of the host that runs it, as `gettid` numbers it.
    pub thread_id: u32,
}

/// The run states of QEMU that a machine here can be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Built or reset, and not started since.
    Prelaunch,
    /// The virtual CPUs run.
    Running,
    /// Stopped by `stop`.
    Paused,
    /// The guest has switched off, the process is still there.
    Shutdown,
    /// The VMM cannot go on running the guest.
    InternalError,
    /// The guest has told of a panic.
    GuestPanicked,
}

impl RunState {
    /// All of them, in the order of the schema.
    pub const NAMES: &[&str] = &[
        "prelaunch",
        "running",
        "paused",
        "shutdown",
        "internal-error",
        "guest-panicked",
    ];

    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prelaunch => "prelaunch",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Shutdown => "shutdown",
            Self::InternalError => "internal-error",
            Self::GuestPanicked => "guest-panicked",
        }
    }

    /// Whether the virtual CPUs run.
    pub fn is_running(self) -> bool {
        self == Self::Running
    }
}

/// Why a command failed: the class that clients may act on, and the text.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CommandError {
    /// The command does not exist, or not in this state of the session.
    #[error("{0}")]
    CommandNotFound(String),
    /// The device that the command acts on has not been activated.
    #[error("{0}")]
    DeviceNotActive(String),
    /// There is no such object.
    #[error("{0}")]
    DeviceNotFound(String),
    /// KVM lacks a capability that the command needs.
    #[error("{0}")]
    KvmMissingCap(String),
    /// Anything else.
    #[error("{0}")]
    Generic(String),
}

impl CommandError {
    /// The machine has no balloon.
    pub fn no_balloon() -> Self {
        Self::DeviceNotActive("No balloon device has been activated".into())
    }

    /// KVM does not follow changes of the host's page tables, so a balloon would free nothing.
    pub fn no_sync_mmu() -> Self {
        Self::KvmMissingCap("Using KVM without synchronous MMU, balloon unavailable".into())
    }

    /// A [`CommandError::Generic`] with this text.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self::Generic(desc.into())
    }

    /// The `desc` of the error reply.
    pub fn desc(&self) -> &str {
        match self {
            Self::CommandNotFound(desc)
            | Self::DeviceNotActive(desc)
            | Self::DeviceNotFound(desc)
            | Self::KvmMissingCap(desc)
            | Self::Generic(desc) => desc,
        }
    }

    /// The `class` of the error reply.
    pub fn class(&self) -> &'static str {
        match self {
            Self::CommandNotFound(_) => "CommandNotFound",
            Self::DeviceNotActive(_) => "DeviceNotActive",
            Self::DeviceNotFound(_) => "DeviceNotFound",
            Self::KvmMissingCap(_) => "KVMMissingCap",
            Self::Generic(_) => "GenericError",
        }
    }
}
