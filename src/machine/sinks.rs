//! What tells QMP's clients what a guest says on a vCPU thread, without the control thread.

use aerostat_devices::balloon::{BalloonNews, BalloonSink};
use aerostat_qmp::{Event, EventSender, PanicAction};
use aerostat_vmm::units::MemorySize;

use super::backend::guest_bytes;

/// What turns a guest's word about its balloon into BALLOON_CHANGE, and has the server look at
/// whatever else is new.
pub fn balloon_sink(memory: MemorySize, events: EventSender) -> BalloonSink {
    Box::new(move |news| match news {
        BalloonNews::Actual(pages) => events.send(Event::BalloonChange {
            actual_bytes: guest_bytes(memory, pages),
        }),
        BalloonNews::Other => events.wake(),
    })
}

/// What turns a guest's word that its crash kernel takes over into GUEST_CRASHLOADED.
pub fn crash_loaded_sink(events: EventSender) -> Box<dyn Fn() + Send + Sync> {
    Box::new(move || {
        let action = PanicAction::Run;
        events.send(Event::GuestCrashloaded { action });
    })
}
