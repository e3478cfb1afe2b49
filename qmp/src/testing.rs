//! A machine in memory, for the tests of this crate and its fuzz targets.

use std::time::{Duration, Instant};

use serde_json::Value;

use aerostat_qmp::command::Context;
use aerostat_qmp::command::types::Arguments;
use aerostat_qmp::monitor::Monitor;
use aerostat_qmp::{
    Backend, BalloonInfo, CommandError, CpuInfo, Driver, GuestStatistics, KvmInfo, MachineInfo,
    RamInfo, RunState, Steering, SteeringOptions, View,
};

/// RAM of [`Machine`].
pub const RAM_BYTES: u64 = 256 << 20;

/// A machine that does what it is told and keeps what it was told.
#[derive(Debug)]
pub struct Machine {
    pub info: MachineInfo,
    pub status: RunState,
    pub vcpu_threads: Vec<u32>,
    pub power_downs: u32,
    pub balloon: bool,
    pub target_bytes: Option<u64>,
    /// What the guest has.
    pub actual_bytes: u64,
    pub driver: Option<Driver>,
    pub polling_interval: u32,
    /// Whether reporting is on, and its rate.
    pub reporting: (bool, u64),
    /// What the guest said last; `None` without a driver.
    pub statistics: Option<GuestStatistics>,
    /// Whether the guest answers before anybody looks.
    pub answers_at_once: bool,
    pub quit: bool,
    /// How long `stop` keeps the control thread busy.
    pub stop_takes: Duration,
}

impl Default for Machine {
    fn default() -> Self {
        let kvm = KvmInfo {
            enabled: true,
            present: true,
        };
        Self {
            info: MachineInfo {
                name: None,
                uuid: "00000000-0000-0000-0000-000000000000".to_owned(),
                memory_bytes: RAM_BYTES,
                ram: RamInfo::default(),
                max_cpus: 64,
                kvm,
                consoles: vec!["stdio".to_owned()],
            },
            status: RunState::Prelaunch,
            vcpu_threads: vec![1],
            power_downs: 0,
            balloon: true,
            target_bytes: None,
            actual_bytes: RAM_BYTES,
            driver: None,
            polling_interval: 0,
            reporting: (true, 0),
            statistics: None,
            answers_at_once: false,
            quit: false,
            stop_takes: Duration::ZERO,
        }
    }
}

impl Backend for Machine {
    fn info(&self) -> MachineInfo {
        self.info.clone()
    }

    fn cpus(&self) -> Vec<CpuInfo> {
        let threads = self.vcpu_threads.iter();
        threads.map(|&thread_id| CpuInfo { thread_id }).collect()
    }

    fn status(&self) -> RunState {
        self.status
    }

    fn stop(&mut self) -> Result<(), CommandError> {
        std::thread::sleep(self.stop_takes);
        if self.status.is_running() {
            self.status = RunState::Paused;
        }
        Ok(())
    }

    fn cont(&mut self) -> Result<(), CommandError> {
        self.status = RunState::Running;
        Ok(())
    }

    fn reset(&mut self) -> Result<(), CommandError> {
        if !self.status.is_running() {
            self.status = RunState::Prelaunch;
        }
        Ok(())
    }

    fn power_down(&mut self) {
        self.power_downs += 1;
    }

    fn quit(&mut self) {
        self.quit = true;
    }

    fn set_balloon(&mut self, guest_bytes: u64) -> Result<(), CommandError> {
        self.target_bytes = Some(guest_bytes);
        Ok(())
    }

    fn balloon_actual(&self) -> Result<u64, CommandError> {
        self.balloon
            .then_some(self.actual_bytes)
            .ok_or_else(CommandError::no_balloon)
    }

    fn balloon_view(&self) -> Option<View> {
        self.balloon.then_some(View {
            memory: RAM_BYTES,
            asked: self.target_bytes.unwrap_or(RAM_BYTES),
            actual: self.actual_bytes,
            driver: self.driver,
            is_running: self.status.is_running(),
        })
    }

    fn balloon(&self) -> Option<BalloonInfo> {
        self.balloon.then(|| BalloonInfo {
            id: "balloon0".to_owned(),
            offered: vec!["page-poison"],
            polling_interval: self.polling_interval,
            is_reporting: self.reporting.0,
            reporting_rate: self.reporting.1,
            ..BalloonInfo::default()
        })
    }

    fn set_polling_interval(&mut self, seconds: u32) {
        self.polling_interval = seconds;
    }

    fn switch_reporting(&mut self, is_on: bool) -> Result<(), CommandError> {
        self.reporting.0 = is_on;
        Ok(())
    }

    fn set_reporting_rate(&mut self, bytes_per_second: u64) -> Result<(), CommandError> {
        self.reporting.1 = bytes_per_second;
        Ok(())
    }

    fn ask_for_statistics(&mut self) -> Result<u64, CommandError> {
        let before = self.statistics.map_or(0, |statistics| statistics.answers);
        if let Some(statistics) = &mut self.statistics {
            statistics.answers += u64::from(self.answers_at_once);
        }
        Ok(before)
    }

    fn statistics(&self) -> Option<GuestStatistics> {
        self.statistics
    }
}

/// What `act` does in a context of `machine`, in which nothing has happened before.
pub fn in_context<T>(machine: &mut Machine, act: impl FnOnce(&mut Context<'_>) -> T) -> T {
    let mut steering = Steering::new(SteeringOptions::default(), Instant::now());
    let monitors = [Monitor {
        path: "/monitor".into(),
        clients: 1,
    }];
    act(&mut Context::new(machine, &monitors, &mut steering))
}

/// What a handler returns for these arguments.
pub fn run<const N: usize>(
    machine: &mut Machine,
    handler: fn(&mut Context<'_>, &Arguments) -> Result<Value, CommandError>,
    arguments: [(&str, Value); N],
) -> Result<Value, CommandError> {
    let arguments = arguments.map(|(name, value)| (name.to_owned(), value));
    let arguments = Arguments::from_iter(arguments);
    in_context(machine, |context| handler(context, &arguments))
}
