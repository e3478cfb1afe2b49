//! What the protocol asks of a machine, and how a machine refuses.

use thiserror::Error;

/// A machine that QMP commands act on.
///
/// Runs on the control thread, between two events of its loop, and so must never wait: not for
/// the guest, not for a client. What a command sets off and finishes later is told by an
/// [`Event`](crate::Event).
pub trait Backend {
    /// The name the user gave the machine.
    fn name(&self) -> Option<String>;

    /// Whether KVM runs the guest.
    fn kvm(&self) -> KvmInfo;

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

    /// Sets how many bytes the guest shall have left, more than 0. Values above the size of its
    /// RAM mean all of it.
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
}

/// The return of `query-kvm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// The `class` of the error reply.
    pub fn class(&self) -> &'static str {
        match self {
            Self::CommandNotFound(_) => "CommandNotFound",
            Self::DeviceNotActive(_) => "DeviceNotActive",
            Self::KvmMissingCap(_) => "KVMMissingCap",
            Self::Generic(_) => "GenericError",
        }
    }
}
