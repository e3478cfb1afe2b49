//! A machine in memory for the tests of this crate.

use std::time::Duration;

use crate::{Backend, CommandError, CpuInfo, KvmInfo, RunState};

/// RAM of [`Machine`].
pub const RAM_BYTES: u64 = 256 << 20;

/// A machine that does what it is told and keeps what it was told.
#[derive(Debug)]
pub struct Machine {
    pub status: RunState,
    pub vcpu_threads: Vec<u32>,
    pub power_downs: u32,
    pub balloon: bool,
    pub target_bytes: Option<u64>,
    pub quit: bool,
    /// How long `stop` keeps the control thread busy.
    pub stop_takes: Duration,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            status: RunState::Prelaunch,
            vcpu_threads: vec![1],
            power_downs: 0,
            balloon: true,
            target_bytes: None,
            quit: false,
            stop_takes: Duration::ZERO,
        }
    }
}

impl Backend for Machine {
    fn name(&self) -> Option<String> {
        None
    }

    fn kvm(&self) -> KvmInfo {
        KvmInfo {
            enabled: true,
            present: true,
        }
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
            .then_some(RAM_BYTES)
            .ok_or_else(CommandError::no_balloon)
    }
}
