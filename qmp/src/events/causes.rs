//! Why a machine ends, is reset or stops, by the names of QEMU's schema (`run-state.json`).

/// Why a machine ends or is reset (QEMU's `ShutdownCause`, those that a machine here can meet).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// An error on the host's side, such as a failed `KVM_RUN`.
    HostError,
    /// The command `quit`.
    HostQmpQuit,
    /// The command `system_reset`.
    HostQmpSystemReset,
    /// A signal that asks for the end.
    HostSignal,
    /// The user of the console.
    HostUi,
    /// The guest has switched off.
    GuestShutdown,
    /// The guest has asked for a reset.
    GuestReset,
    /// The guest has told of a panic.
    GuestPanic,
}

impl ShutdownCause {
    /// The names of all of them.
    pub const NAMES: &[&str] = &[
        "host-error",
        "host-qmp-quit",
        "host-qmp-system-reset",
        "host-signal",
        "host-ui",
        "guest-shutdown",
        "guest-reset",
        "guest-panic",
    ];

    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostError => "host-error",
            Self::HostQmpQuit => "host-qmp-quit",
            Self::HostQmpSystemReset => "host-qmp-system-reset",
            Self::HostSignal => "host-signal",
            Self::HostUi => "host-ui",
            Self::GuestShutdown => "guest-shutdown",
            Self::GuestReset => "guest-reset",
            Self::GuestPanic => "guest-panic",
        }
    }

    /// Whether the guest is the cause.
    pub fn is_guest(self) -> bool {
        match self {
            Self::HostError
            | Self::HostQmpQuit
            | Self::HostQmpSystemReset
            | Self::HostSignal
            | Self::HostUi => false,
            Self::GuestShutdown | Self::GuestReset | Self::GuestPanic => true,
        }
    }
}

/// What becomes of a machine whose guest has told of a panic (QEMU's `GuestPanicAction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanicAction {
    /// It stops.
    Pause,
    /// It ends.
    Poweroff,
    /// It runs on.
    Run,
}

impl PanicAction {
    /// The names of all of them.
    pub const NAMES: &[&str] = &["pause", "poweroff", "run"];

    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Poweroff => "poweroff",
            Self::Run => "run",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_say_in_their_name_whether_they_are_the_guest() {
        use ShutdownCause::*;
        for cause in [
            HostError,
            HostQmpQuit,
            HostQmpSystemReset,
            HostSignal,
            HostUi,
            GuestShutdown,
            GuestReset,
            GuestPanic,
        ] {
            assert_eq!(cause.is_guest(), cause.name().starts_with("guest-"));
        }
    }
}
