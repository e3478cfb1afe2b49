//! Events, and the queue that brings them from any thread to the server on the control thread.
//!
//! QMP specification, "Asynchronous events". A timestamp is the wall clock at the creation of the
//! event, however long it is held back afterwards.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::Value;

use crate::json::{self, object};
use crate::message::LINE_END;

/// Something that happened to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The virtual CPUs have stopped.
    Stop,
    /// The virtual CPUs run again.
    Resume,
    /// The machine ends.
    Shutdown {
        /// Whether the guest asked for it.
        guest: bool,
        /// What it comes from.
        reason: ShutdownReason,
    },
    /// The guest has told a new size of its balloon. Sent to clients at most once a second.
    BalloonChange {
        /// How many bytes the guest has: RAM minus what it says is in the balloon.
        actual_bytes: u64,
    },
}

/// Why a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownReason {
    /// An error on the host's side, such as a failed `KVM_RUN`.
    HostError,
    /// The command `quit`.
    HostQmpQuit,
    /// A signal that asks for the end.
    HostSignal,
    /// The user of the console.
    HostUi,
    /// The guest has switched off.
    GuestShutdown,
    /// The guest has asked for a reset, which ends this machine.
    GuestReset,
    /// The guest has told of a panic.
    GuestPanic,
}

impl ShutdownReason {
    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostError => "host-error",
            Self::HostQmpQuit => "host-qmp-quit",
            Self::HostSignal => "host-signal",
            Self::HostUi => "host-ui",
            Self::GuestShutdown => "guest-shutdown",
            Self::GuestReset => "guest-reset",
            Self::GuestPanic => "guest-panic",
        }
    }
}

impl Event {
    /// The name in the protocol.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stop => "STOP",
            Self::Resume => "RESUME",
            Self::Shutdown { .. } => "SHUTDOWN",
            Self::BalloonChange { .. } => "BALLOON_CHANGE",
        }
    }

    fn data(&self) -> Option<Value> {
        match *self {
            Self::Stop | Self::Resume => None,
            Self::Shutdown { guest, reason } => {
                let reason = reason.name();
                Some(object([("guest", guest.into()), ("reason", reason.into())]))
            }
            Self::BalloonChange { actual_bytes } => Some(object([("actual", actual_bytes.into())])),
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
        // A clock before 1970 is no reason to fail.
        let at = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self { event, at }
    }

    fn is_balloon_change(&self) -> bool {
        matches!(self.event, Event::BalloonChange { .. })
    }

    /// Appends the event's line to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let timestamp = object([
            ("seconds", self.at.as_secs().into()),
            ("microseconds", self.at.subsec_micros().into()),
        ]);
        out.extend_from_slice(b"{\"timestamp\": ");
        json::write(&timestamp, out);
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

/// Creates the queue. It exists before the server, so that devices can be built with it.
///
/// # Errors
///
/// If no eventfd can be had.
pub fn channel() -> io::Result<(EventSender, EventReceiver)> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let shared = Arc::new(Shared {
        pending: Mutex::default(),
        wake,
    });
    Ok((
        EventSender {
            shared: shared.clone(),
        },
        EventReceiver { shared },
    ))
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<VecDeque<TimedEvent>>,
    /// Readable if and only if there are pending events.
    wake: OwnedFd,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, VecDeque<TimedEvent>> {
        // The queue is whole between any two statements, so a panic elsewhere does not matter.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of the queue that tells of events, from any thread.
#[derive(Clone, Debug)]
pub struct EventSender {
    shared: Arc<Shared>,
}

impl EventSender {
    /// Queues an event that happens now, and wakes the server. Never waits and never fails. However
    /// often the guest changes its balloon, the queue does not grow beyond two of these events.
    pub fn send(&self, event: Event) {
        let event = TimedEvent::now(event);
        let mut pending = self.shared.lock();
        if event.is_balloon_change() {
            // The throttle sends the first and holds back the last; nobody needs those between.
            let mut changes = (0..pending.len())
                .rev()
                .filter(|&at| pending[at].is_balloon_change());
            if let (Some(last), Some(_)) = (changes.next(), changes.next()) {
                pending.remove(last);
            }
        }
        pending.push_back(event);
        if pending.len() == 1 {
            // Fails only if the counter is full, and then the server is awake already.
            let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// The end of the queue that the server owns.
#[derive(Debug)]
pub struct EventReceiver {
    shared: Arc<Shared>,
}

impl EventReceiver {
    /// Takes all events that wait, oldest first.
    pub fn take(&self) -> VecDeque<TimedEvent> {
        let mut pending = self.shared.lock();
        if !pending.is_empty() {
            // Under the lock, so that a wake-up for a later event is not taken with this one.
            let _ = rustix::io::read(&self.shared.wake, &mut [0_u8; 8]);
        }
        std::mem::take(&mut pending)
    }
}

impl AsFd for EventReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }
}

impl AsRawFd for EventReceiver {
    fn as_raw_fd(&self) -> RawFd {
        self.shared.wake.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{BalloonChange, Resume, Stop};

    fn change(actual_bytes: u64) -> Event {
        BalloonChange { actual_bytes }
    }

    fn taken(receiver: &EventReceiver) -> Vec<Event> {
        receiver
            .take()
            .into_iter()
            .map(|timed| timed.event)
            .collect()
    }

    fn is_readable(receiver: &EventReceiver) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(receiver, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
    }

    #[test]
    fn flood_of_balloon_changes_keeps_the_first_and_the_last() {
        let (sender, receiver) = channel().unwrap();
        for event in [change(1), Stop, change(2), Resume, change(3), change(4)] {
            sender.send(event);
        }
        assert_eq!(taken(&receiver), [change(1), Stop, Resume, change(4)]);
    }

    #[test]
    fn receiver_is_readable_while_events_wait() {
        let (sender, receiver) = channel().unwrap();
        assert!(!is_readable(&receiver));
        sender.send(Stop);
        sender.send(Resume);
        assert!(is_readable(&receiver));
        assert_eq!(taken(&receiver), [Stop, Resume]);
        assert!(!is_readable(&receiver));
    }

    #[test]
    fn lines_have_the_order_of_objects_and_data_only_if_any() {
        let at = Duration::from_micros(12_000_034);
        let reason = ShutdownReason::HostQmpQuit;
        let mut out = Vec::new();
        TimedEvent { event: Stop, at }.write(&mut out);
        TimedEvent {
            event: Event::Shutdown {
                guest: false,
                reason,
            },
            at,
        }
        .write(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"timestamp\": {\"seconds\": 12, \"microseconds\": 34}, \"event\": \"STOP\"}\r\n\
             {\"timestamp\": {\"seconds\": 12, \"microseconds\": 34}, \"event\": \"SHUTDOWN\", \
             \"data\": {\"guest\": false, \"reason\": \"host-qmp-quit\"}}\r\n"
        );
    }
}
