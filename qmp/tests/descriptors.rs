//! What happens when the process has no file descriptor left for a client. Alone in its process,
//! since it changes the process's limits.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use aerostat_qmp::{
    Backend, BalloonInfo, CommandError, CpuInfo, GuestStatistics, Listener, MachineInfo, RunState,
    Server, SocketOptions, View, events,
};
use event_manager::{EventManager, SubscriberOps};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

struct Machine;

impl Backend for Machine {
    fn info(&self) -> MachineInfo {
        MachineInfo::default()
    }

    fn cpus(&self) -> Vec<CpuInfo> {
        Vec::new()
    }

    fn status(&self) -> RunState {
        RunState::Running
    }

    fn stop(&mut self) -> Result<(), CommandError> {
        Ok(())
    }

    fn cont(&mut self) -> Result<(), CommandError> {
        Ok(())
    }

    fn reset(&mut self) -> Result<(), CommandError> {
        Ok(())
    }

    fn power_down(&mut self) {}

    fn quit(&mut self) {}

    fn set_balloon(&mut self, _: u64) -> Result<(), CommandError> {
        Err(CommandError::no_balloon())
    }

    fn balloon_actual(&self) -> Result<u64, CommandError> {
        Err(CommandError::no_balloon())
    }

    fn balloon_view(&self) -> Option<View> {
        None
    }

    fn balloon(&self) -> Option<BalloonInfo> {
        None
    }

    fn set_polling_interval(&mut self, _: u32) {}

    fn switch_reporting(&mut self, _: bool) -> Result<(), CommandError> {
        Err(CommandError::no_balloon())
    }

    fn set_reporting_rate(&mut self, _: u64) -> Result<(), CommandError> {
        Err(CommandError::no_balloon())
    }

    fn ask_for_statistics(&mut self) -> Result<u64, CommandError> {
        Err(CommandError::no_balloon())
    }

    fn statistics(&self) -> Option<GuestStatistics> {
        None
    }
}

#[test]
fn client_waits_for_a_free_descriptor_and_the_loop_sleeps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let (_sender, receiver) = events::channel().unwrap();
    let listener = Listener::bind(&SocketOptions::new(&path)).unwrap();
    let server = Server::new(vec![listener], receiver, Machine).unwrap();
    let mut manager = EventManager::new().unwrap();
    manager.add_subscriber(server);
    let mut client = UnixStream::connect(&path).unwrap();

    let limits = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(0),
            ..limits
        },
    )
    .unwrap();
    let begun = Instant::now();
    assert_eq!(manager.run_with_timeout(0).unwrap(), 1);
    let woken = manager.run_with_timeout(100).unwrap();
    // After a second it tries again.
    assert!(woken == 0 || begun.elapsed() >= Duration::from_secs(1));
    setrlimit(Resource::Nofile, limits).unwrap();

    client.set_nonblocking(true).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    let mut greeting = [0; 8];
    while client.read(&mut greeting).is_err() {
        assert!(Instant::now() < end);
        manager.run_with_timeout(100).unwrap();
    }
    assert_eq!(&greeting, b"{\"QMP\": ");
}
