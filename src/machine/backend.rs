//! What QMP's commands ask of the machine.

use aerostat_devices::balloon::{
    Balloon, F_DEFLATE_ON_OOM, F_REPORTING, F_STATS_VQ, MIN_REPORTING_RATE, Statistics,
    feature_names,
};
use aerostat_devices::{Backing, PAGE_SIZE, RamOptions};
use aerostat_qmp::{
    Backend, BalloonInfo, CommandError, CpuInfo, Driver, Event, GuestStatistics, KvmInfo,
    MachineInfo, RamInfo, RunState, ShutdownCause, View,
};
use aerostat_vmm::RunState as VmState;
use aerostat_vmm::config::MAX_CPUS;
use aerostat_vmm::units::MemorySize;

use super::{Description, Ending, MachineHandle};

impl Backend for MachineHandle {
    fn info(&self) -> MachineInfo {
        let life = self.0.borrow();
        let Description {
            name,
            uuid,
            balloon_id: _,
            consoles,
        } = life.description.clone();
        MachineInfo {
            name,
            uuid,
            memory_bytes: life.machine.memory().bytes(),
            ram: ram_info(life.machine.ram_options()),
            max_cpus: MAX_CPUS.into(),
            kvm: KvmInfo {
                enabled: true,
                present: true,
            },
            consoles,
        }
    }

    fn status(&self) -> RunState {
        match self.0.borrow().machine.state() {
            VmState::Prelaunch => RunState::Prelaunch,
            VmState::Running => RunState::Running,
            VmState::Paused => RunState::Paused,
            VmState::Shutdown => RunState::Shutdown,
            VmState::GuestPanicked => RunState::GuestPanicked,
            VmState::InternalError => RunState::InternalError,
        }
    }

    fn cpus(&self) -> Vec<CpuInfo> {
        let ids = self.0.borrow().machine.vcpu_thread_ids();
        ids.into_iter()
            .map(|thread_id| CpuInfo { thread_id })
            .collect()
    }

    fn stop(&mut self) -> Result<(), CommandError> {
        let mut life = self.0.borrow_mut();
        match life.machine.pause() {
            Ok(true) => life.events.send(Event::Stop),
            Ok(false) => {}
            Err(error) => return Err(CommandError::Generic(error.to_string())),
        }
        Ok(())
    }

    fn cont(&mut self) -> Result<(), CommandError> {
        let mut life = self.0.borrow_mut();
        match life.machine.resume() {
            Ok(true) => life.events.send(Event::Resume),
            Ok(false) => {}
            Err(error) => return Err(CommandError::Generic(error.to_string())),
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), CommandError> {
        let mut life = self.0.borrow_mut();
        let reset = life.reset(ShutdownCause::HostQmpSystemReset, Ending::InOrder);
        reset.map_err(CommandError::Generic)
    }

    fn power_down(&mut self) {
        self.press_power_button();
    }

    fn quit(&mut self) {
        self.end(ShutdownCause::HostQmpQuit, Ending::InOrder);
    }

    fn set_balloon(&mut self, guest_bytes: u64) -> Result<(), CommandError> {
        self.with_balloon(|balloon, memory| {
            balloon.set_target_pages(pages_to_balloon(memory, guest_bytes));
        })
    }

    fn balloon_actual(&self) -> Result<u64, CommandError> {
        self.with_balloon(|balloon, memory| guest_bytes(memory, balloon.actual_pages()))
    }

    fn balloon_view(&self) -> Option<View> {
        let is_running = self.status().is_running();
        let view = |balloon: &Balloon, memory: MemorySize| View {
            memory: memory.bytes(),
            asked: guest_bytes(memory, balloon.target_pages()),
            actual: guest_bytes(memory, balloon.given_pages()),
            driver: balloon.negotiated_features().map(|features| Driver {
                number: balloon.drivers(),
                deflates_on_oom: features & F_DEFLATE_ON_OOM != 0,
            }),
            is_running,
        };
        self.with_balloon(view).ok()
    }

    fn balloon(&self) -> Option<BalloonInfo> {
        let life = self.0.borrow();
        let balloon = life.machine.balloon()?;
        Some(BalloonInfo {
            id: life.description.balloon_id.clone(),
            asked_pages: balloon.target_pages(),
            released_bytes: balloon.released_pages().saturating_mul(PAGE_SIZE),
            reported_bytes: balloon.reported_pages().saturating_mul(PAGE_SIZE),
            is_reporting: balloon.is_reporting(),
            reporting_rate: balloon.reporting_rate(),
            offered: feature_names(balloon.offered_features()),
            driver: balloon.negotiated_features().map(feature_names),
            polling_interval: balloon.polling_interval(),
            statistics: statistics(balloon),
        })
    }

    fn ask_for_statistics(&mut self) -> Result<u64, CommandError> {
        self.with_balloon(|balloon, _| {
            let before = balloon.statistics().answers;
            balloon.request_statistics();
            before
        })
    }

    fn statistics(&self) -> Option<GuestStatistics> {
        self.with_balloon(|balloon, _| {
            let negotiated = balloon.negotiated_features().unwrap_or_default();
            let has_queue = negotiated & F_STATS_VQ != 0;
            has_queue.then(|| statistics(balloon))
        })
        .ok()?
    }

    fn switch_reporting(&mut self, is_on: bool) -> Result<(), CommandError> {
        self.with_reporting(|balloon| balloon.switch_reporting(is_on))
    }

    fn set_reporting_rate(&mut self, bytes_per_second: u64) -> Result<(), CommandError> {
        if (1..MIN_REPORTING_RATE).contains(&bytes_per_second) {
            return Err(CommandError::Generic(format!(
                "The rate is {MIN_REPORTING_RATE} bytes a second or more, or 0 for no limit"
            )));
        }
        self.with_reporting(|balloon| balloon.set_reporting_rate(bytes_per_second))
    }

    fn set_polling_interval(&mut self, seconds: u32) {
        if let Some(balloon) = self.0.borrow().machine.balloon() {
            balloon.set_polling_interval(seconds);
        }
    }
}

impl MachineHandle {
    /// Does something with a balloon that lets its guest report free memory.
    fn with_reporting(&self, act: impl FnOnce(&Balloon)) -> Result<(), CommandError> {
        self.with_balloon(|balloon, _| {
            if balloon.offered_features() & F_REPORTING == 0 {
                return Err(CommandError::generic(
                    "This balloon does not let its guest report free memory: start the machine \
                     with --balloon free-page-reporting=on",
                ));
            }
            act(balloon);
            Ok(())
        })?
    }
}

fn ram_info(options: RamOptions) -> RamInfo {
    RamInfo {
        memfd: options.backing != Backing::Anonymous,
        huge_page_bytes: match options.backing {
            Backing::HugeTlb(size) => Some(size.bytes()),
            Backing::Anonymous | Backing::Memfd => None,
        },
        prealloc: options.prealloc,
    }
}

fn statistics(balloon: &Balloon) -> GuestStatistics {
    let Statistics {
        values,
        last_update,
        answers,
    } = balloon.statistics();
    GuestStatistics {
        values,
        last_update,
        answers,
    }
}

/// The balloon's size that leaves `guest_bytes` to the guest, which thus gets its wish rounded
/// up to a page.
fn pages_to_balloon(memory: MemorySize, guest_bytes: u64) -> u32 {
    let pages = memory.bytes().saturating_sub(guest_bytes) / PAGE_SIZE;
    u32::try_from(pages).unwrap_or(u32::MAX)
}

/// What `pages` in the balloon leave to the guest. A guest that claims more than it has leaves
/// nothing.
pub(super) fn guest_bytes(memory: MemorySize, pages: u32) -> u64 {
    memory.bytes().saturating_sub(u64::from(pages) * PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> MemorySize {
        "256M".parse().unwrap()
    }

    #[test]
    fn target_is_what_the_guest_shall_have_rounded_up_to_a_page() {
        assert_eq!(pages_to_balloon(memory(), 128 << 20), 32768);
        assert_eq!(pages_to_balloon(memory(), 200_000_001), 16707);
        assert_eq!(guest_bytes(memory(), 16707), 200_003_584);
    }

    #[test]
    fn target_of_all_memory_or_more_empties_the_balloon() {
        assert_eq!(pages_to_balloon(memory(), 256 << 20), 0);
        assert_eq!(pages_to_balloon(memory(), u64::MAX), 0);
    }

    #[test]
    fn target_of_one_byte_leaves_one_page() {
        assert_eq!(pages_to_balloon(memory(), 1), 65535);
    }

    #[test]
    fn guest_that_claims_more_than_it_has_leaves_nothing() {
        assert_eq!(guest_bytes(memory(), u32::MAX), 0);
    }
}
