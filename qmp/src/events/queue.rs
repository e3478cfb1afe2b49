//! The queue of events from any thread to the control thread.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::{Event, TimedEvent};

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
    pending: Mutex<Pending>,
    /// Readable if and only if the server is to look.
    wake: OwnedFd,
}

/// What the server is to see.
#[derive(Debug, Default)]
struct Pending {
    events: VecDeque<TimedEvent>,
    /// That something else has happened.
    is_woken: bool,
    /// What the guest does can wait.
    is_hushed: bool,
    /// The server has been called.
    is_signalled: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        // The queue is whole between any two statements, so a panic elsewhere does not matter.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the server, unless that has been done.
    fn signal(&self, pending: &mut Pending) {
        if !std::mem::replace(&mut pending.is_signalled, true) {
            // Fails only if the counter is full, and then the server is awake already.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

/// The end of the queue that tells of events, from any thread.
#[derive(Clone, Debug)]
pub struct EventSender {
    shared: Arc<Shared>,
}

impl EventSender {
    /// Queues an event that happens now, and wakes the server unless it can wait and the guest is
    /// [hushed](EventReceiver::hush). Never waits and never fails.
    ///
    /// Whatever the guest does, the queue does not grow beyond two events of each
    /// [`GuestDriven`](super::GuestDriven) kind: the first and the last are kept, in their places
    /// among the others.
    pub fn send(&self, event: Event) {
        let event = TimedEvent::now(event);
        let mut pending = self.shared.lock();
        let kind = event.event.guest_driven();
        let events = &mut pending.events;
        if let Some(kind) = kind {
            // The first is what clients are to hear at once, the last tells how things stand.
            let mut same = (0..events.len())
                .rev()
                .filter(|&at| events[at].event.guest_driven() == Some(kind));
            if let (Some(last), Some(_)) = (same.next(), same.next()) {
                events.remove(last);
            }
        }
        events.push_back(event);
        if !pending.is_hushed || kind.is_none_or(|kind| !kind.can_wait()) {
            self.shared.signal(&mut pending);
        }
    }

    /// Wakes the server without an event, to look at the machine again, unless the guest is hushed.
    /// Never waits and never fails.
    pub fn wake(&self) {
        let mut pending = self.shared.lock();
        pending.is_woken = true;
        if !pending.is_hushed {
            self.shared.signal(&mut pending);
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
        if std::mem::take(&mut pending.is_signalled) {
            // Under the lock, so that a wake-up for a later event is not taken with this one.
            let _ = rustix::io::read(&self.shared.wake, &mut [0_u8; 8]);
        }
        pending.is_woken = false;
        std::mem::take(&mut pending.events)
    }

    /// Lets what the guest does [wait](super::GuestDriven::can_wait), and not wake the server, until
    /// [`Self::listen`].
    pub fn hush(&self) {
        self.shared.lock().is_hushed = true;
    }

    /// Lets the guest wake the server again; whether it would have done so meanwhile.
    pub fn listen(&self) -> bool {
        let mut pending = self.shared.lock();
        pending.is_hushed = false;
        pending.is_woken || !pending.events.is_empty()
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
    use super::super::{PanicAction, ShutdownCause};
    use super::*;
    use Event::{BalloonChange, Reset, Resume, Stop};

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
    fn flood_of_every_kind_leaves_two_of_each() {
        let (sender, receiver) = channel().unwrap();
        let action = PanicAction::Run;
        let flood = [
            change(1),
            Reset(ShutdownCause::GuestReset),
            Event::GuestPanicked { action },
            Event::GuestCrashloaded { action },
        ];
        for _ in 0..1000 {
            flood.iter().for_each(|event| sender.send(*event));
        }
        assert_eq!(taken(&receiver), [flood, flood].concat());
    }

    #[test]
    fn resets_by_clients_all_stay_in_a_flood_of_resets_by_the_guest() {
        let (sender, receiver) = channel().unwrap();
        let by_guest = Reset(ShutdownCause::GuestReset);
        let by_client = Reset(ShutdownCause::HostQmpSystemReset);
        for event in [by_guest, by_client, by_guest].repeat(3) {
            sender.send(event);
        }
        assert_eq!(
            taken(&receiver),
            [by_guest, by_client, by_client, by_client, by_guest]
        );
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
    fn hushed_guest_wakes_nobody_and_nothing_it_does_is_lost() {
        let (sender, receiver) = channel().unwrap();
        receiver.hush();
        sender.send(change(1));
        sender.wake();
        assert!(!is_readable(&receiver));
        sender.send(Stop);
        assert!(is_readable(&receiver));
        assert_eq!(taken(&receiver), [change(1), Stop]);
        assert!(!is_readable(&receiver));
        sender.wake();
        assert!(receiver.listen());
        assert_eq!(taken(&receiver), []);
        assert!(!receiver.listen());
        sender.send(change(2));
        assert!(is_readable(&receiver));
    }

    #[test]
    fn server_can_be_woken_without_an_event() {
        let (sender, receiver) = channel().unwrap();
        sender.wake();
        sender.wake();
        assert!(is_readable(&receiver));
        assert_eq!(taken(&receiver), []);
        assert!(!is_readable(&receiver));
        sender.wake();
        sender.send(Stop);
        assert_eq!(taken(&receiver), [Stop]);
        assert!(!is_readable(&receiver));
    }
}
