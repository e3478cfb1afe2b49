//! Events: what they say and how they are written, and the queue ([`channel`]) that brings them
//! from any thread to the server on the control thread.
//!
//! QMP specification, "Asynchronous events". A timestamp is the wall clock at the creation of the
//! event, however long it is held back afterwards.

mod causes;
mod queue;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::command::types::{Member, Type};
use crate::json::{self, object};
use crate::message::LINE_END;
use crate::resize::{BalloonState, Sizes};
pub use causes::{PanicAction, ShutdownCause};
pub use queue::{EventReceiver, EventSender, channel};

/// The events and the members of their data, for the schema.
pub static EVENTS: &[(&str, &[Member])] = &[
    ("STOP", &[]),
    ("RESUME", &[]),
    ("SHUTDOWN", CAUSE),
    ("RESET", CAUSE),
    ("POWERDOWN", &[]),
    ("GUEST_PANICKED", ACTION),
    ("GUEST_CRASHLOADED", ACTION),
    ("BALLOON_CHANGE", &[Member::required("actual", Type::Int)]),
    (
        "X_BALLOON_STATE",
        &[
            Member::required("state", Type::Enum(BalloonState::NAMES)),
            Member::required("target", Type::Int),
            Member::required("actual", Type::Int),
        ],
    ),
    (
        "X_BALLOON_DEFLATED",
        &[
            Member::required("before", Type::Int),
            Member::required("target", Type::Int),
            Member::required("actual", Type::Int),
        ],
    ),
];

const CAUSE: &[Member] = &[
    Member::required("guest", Type::Bool),
    Member::required("reason", Type::Enum(ShutdownCause::NAMES)),
];

const ACTION: &[Member] = &[Member::required("action", Type::Enum(PanicAction::NAMES))];

/// Something that happened to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The virtual CPUs have stopped.
    Stop,
    /// The virtual CPUs run again.
    Resume,
    /// The machine ends.
    Shutdown(ShutdownCause),
    /// The machine has been reset.
    Reset(ShutdownCause),
    /// The guest has been asked to switch itself off.
    Powerdown,
    /// The guest has told of a panic.
    GuestPanicked {
        /// What becomes of the machine.
        action: PanicAction,
    },
    /// The guest has told of a panic that its own crash kernel deals with.
    GuestCrashloaded {
        /// What becomes of the machine.
        action: PanicAction,
    },
    /// The guest has told a new size of its balloon.
    BalloonChange {
        /// How many bytes the guest has: RAM minus what it says is in the balloon.
        actual_bytes: u64,
    },
    /// The balloon is in another state than before. An extension: QEMU does not know it.
    BalloonState {
        /// The state that has come about.
        state: BalloonState,
        /// What the guest is to have, and what it has.
        sizes: Sizes,
    },
    /// The guest has taken back what it had given, since it was short of memory, and the target
    /// has followed. An extension: QEMU does not know it.
    BalloonDeflated {
        /// What the guest was to have.
        before: u64,
        /// What it is to have now, and what it has.
        sizes: Sizes,
    },
}

/// The kinds of events that a guest can cause as often as it likes.
///
/// The queue between the threads holds at most two of each kind, and the
/// [throttle](crate::throttle) limits how many of them reach the clients in a second, so that the
/// guest can neither fill the host's memory nor get a client cut off that reads its events late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GuestDriven {
    /// [`Event::BalloonChange`].
    BalloonChange,
    /// [`Event::Reset`] with a cause that is the guest. A reset that a client has asked for is
    /// never dropped or held back.
    Reset,
    /// [`Event::GuestPanicked`].
    GuestPanicked,
    /// [`Event::GuestCrashloaded`].
    GuestCrashloaded,
    /// [`Event::BalloonState`].
    BalloonState,
    /// [`Event::BalloonDeflated`].
    BalloonDeflated,
}

impl GuestDriven {
    /// Whether it is one that a vCPU tells of, as fast as it can run: seeing only the last of some
    /// loses nothing. The others cost the guest much more than their like.
    pub fn can_wait(self) -> bool {
        match self {
            Self::BalloonChange | Self::GuestCrashloaded => true,
            Self::Reset | Self::GuestPanicked | Self::BalloonState | Self::BalloonDeflated => false,
        }
    }
}

impl Event {
    /// The name in the protocol.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stop => "STOP",
            Self::Resume => "RESUME",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::Reset(_) => "RESET",
            Self::Powerdown => "POWERDOWN",
            Self::GuestPanicked { .. } => "GUEST_PANICKED",
            Self::GuestCrashloaded { .. } => "GUEST_CRASHLOADED",
            Self::BalloonChange { .. } => "BALLOON_CHANGE",
            Self::BalloonState { .. } => "X_BALLOON_STATE",
            Self::BalloonDeflated { .. } => "X_BALLOON_DEFLATED",
        }
    }

    /// Its kind, if the guest can cause it as often as it likes.
    pub fn guest_driven(&self) -> Option<GuestDriven> {
        match self {
            Self::BalloonChange { .. } => Some(GuestDriven::BalloonChange),
            Self::Reset(cause) => cause.is_guest().then_some(GuestDriven::Reset),
            Self::GuestPanicked { .. } => Some(GuestDriven::GuestPanicked),
            Self::GuestCrashloaded { .. } => Some(GuestDriven::GuestCrashloaded),
            Self::BalloonState { .. } => Some(GuestDriven::BalloonState),
            Self::BalloonDeflated { .. } => Some(GuestDriven::BalloonDeflated),
            Self::Stop | Self::Resume | Self::Shutdown(_) | Self::Powerdown => None,
        }
    }

    /// Whether it is one that QEMU does not have: for clients that know such things only.
    pub fn is_extension(&self) -> bool {
        matches!(
            self,
            Self::BalloonState { .. } | Self::BalloonDeflated { .. }
        )
    }

    fn data(&self) -> Option<Value> {
        match *self {
            Self::Stop | Self::Resume | Self::Powerdown => None,
            Self::Shutdown(cause) | Self::Reset(cause) => Some(object([
                ("guest", cause.is_guest().into()),
                ("reason", cause.name().into()),
            ])),
            Self::GuestPanicked { action } | Self::GuestCrashloaded { action } => {
                Some(object([("action", action.name().into())]))
            }
            Self::BalloonChange { actual_bytes } => Some(object([("actual", actual_bytes.into())])),
            Self::BalloonState { state, sizes } => Some(object([
                ("state", state.name().into()),
                ("target", sizes.target.into()),
                ("actual", sizes.actual.into()),
            ])),
            Self::BalloonDeflated { before, sizes } => Some(object([
                ("before", before.into()),
                ("target", sizes.target.into()),
                ("actual", sizes.actual.into()),
            ])),
        }
    }
}

/// An event and when it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedEvent {
    /// What happened.
    pub event: Event,
    /// Wall clock when it happened, since 1970.
    pub at: Duration,
}

impl TimedEvent {
    /// `event`, happening now.
    pub fn now(event: Event) -> Self {
        let at = wall_clock(Duration::ZERO);
        Self { event, at }
    }

    /// Appends the event's line to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"timestamp\": ");
        json::write(&timestamp(self.at), out);
        out.extend_from_slice(b", \"event\": ");
        json::write_string(self.event.name(), out);
        if let Some(data) = self.event.data() {
            out.extend_from_slice(b", \"data\": ");
            json::write(&data, out);
        }
        out.push(b'}');
        out.extend_from_slice(LINE_END);
    }
}

/// The wall clock `ago` before now, since 1970.
pub(crate) fn wall_clock(ago: Duration) -> Duration {
    // A clock before 1970 is no reason to fail.
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().saturating_sub(ago)
}

/// A moment since 1970 as the protocol writes it.
pub(crate) fn timestamp(at: Duration) -> Value {
    object([
        ("seconds", at.as_secs().into()),
        ("microseconds", at.subsec_micros().into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What follows the timestamp in the line of `event`.
    fn line(event: Event) -> String {
        let at = Duration::from_micros(12_000_034);
        let mut out = Vec::new();
        TimedEvent { event, at }.write(&mut out);
        let line = String::from_utf8(out).unwrap();
        let stamp = "{\"timestamp\": {\"seconds\": 12, \"microseconds\": 34}, ";
        line.strip_prefix(stamp).unwrap().to_owned()
    }

    #[test]
    fn events_without_data_have_no_member_for_it() {
        assert_eq!(line(Event::Stop), "\"event\": \"STOP\"}\r\n");
        assert_eq!(line(Event::Powerdown), "\"event\": \"POWERDOWN\"}\r\n");
    }

    #[test]
    fn end_and_reset_tell_whether_the_guest_is_the_cause() {
        assert_eq!(
            line(Event::Shutdown(ShutdownCause::HostQmpQuit)),
            "\"event\": \"SHUTDOWN\", \
             \"data\": {\"guest\": false, \"reason\": \"host-qmp-quit\"}}\r\n"
        );
        assert_eq!(
            line(Event::Reset(ShutdownCause::GuestReset)),
            "\"event\": \"RESET\", \
             \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\r\n"
        );
    }

    #[test]
    fn panics_tell_what_becomes_of_the_machine() {
        assert_eq!(
            line(Event::GuestPanicked {
                action: PanicAction::Poweroff
            }),
            "\"event\": \"GUEST_PANICKED\", \"data\": {\"action\": \"poweroff\"}}\r\n"
        );
        assert_eq!(
            line(Event::GuestCrashloaded {
                action: PanicAction::Run
            }),
            "\"event\": \"GUEST_CRASHLOADED\", \"data\": {\"action\": \"run\"}}\r\n"
        );
    }

    #[test]
    fn reset_is_driven_by_the_guest_only_if_it_is_the_cause() {
        let by_guest = Event::Reset(ShutdownCause::GuestReset);
        let by_client = Event::Reset(ShutdownCause::HostQmpSystemReset);
        assert_eq!(by_guest.guest_driven(), Some(GuestDriven::Reset));
        assert_eq!(by_client.guest_driven(), None);
    }
}
