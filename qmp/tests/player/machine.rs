//! A machine in memory, and the thread that serves it.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use aerostat_qmp::{
    Backend, CommandError, CpuInfo, Event, EventSender, KvmInfo, Listener, RunState, Server,
    ShutdownCause, SocketOptions, events,
};
use event_manager::{EventManager, SubscriberOps};
use serde_json::Value;

const PAGE_BYTES: u64 = 4096;
/// How often the serving thread looks whether the case is over.
const LOOK_MS: i32 = 20;

#[derive(Debug)]
struct Balloon {
    num_pages: u64,
    actual_pages: u64,
}

#[derive(Debug)]
struct Machine {
    mem_bytes: u64,
    status: RunState,
    balloon: Option<Arc<Mutex<Balloon>>>,
    events: EventSender,
    over: Arc<AtomicBool>,
}

impl Machine {
    fn balloon(&self) -> Result<std::sync::MutexGuard<'_, Balloon>, CommandError> {
        let balloon = self.balloon.as_ref().ok_or_else(CommandError::no_balloon)?;
        Ok(balloon.lock().unwrap())
    }
}

impl Backend for Machine {
    fn name(&self) -> Option<String> {
        None
    }

    fn kvm(&self) -> KvmInfo {
        KvmInfo {
            enabled: false,
            present: true,
        }
    }

    fn cpus(&self) -> Vec<CpuInfo> {
        vec![CpuInfo { thread_id: 1 }]
    }

    fn status(&self) -> RunState {
        self.status
    }

    fn stop(&mut self) -> Result<(), CommandError> {
        if self.status.is_running() {
            self.status = RunState::Paused;
            self.events.send(Event::Stop);
        }
        Ok(())
    }

    fn cont(&mut self) -> Result<(), CommandError> {
        if !self.status.is_running() {
            self.status = RunState::Running;
            self.events.send(Event::Resume);
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), CommandError> {
        if !self.status.is_running() {
            self.status = RunState::Prelaunch;
        }
        self.events
            .send(Event::Reset(ShutdownCause::HostQmpSystemReset));
        Ok(())
    }

    fn power_down(&mut self) {
        self.events.send(Event::Powerdown);
    }

    fn quit(&mut self) {
        self.events
            .send(Event::Shutdown(ShutdownCause::HostQmpQuit));
        self.over.store(true, Ordering::Relaxed);
    }

    fn set_balloon(&mut self, guest_bytes: u64) -> Result<(), CommandError> {
        self.balloon()?.num_pages = self.mem_bytes.saturating_sub(guest_bytes) / PAGE_BYTES;
        Ok(())
    }

    fn balloon_actual(&self) -> Result<u64, CommandError> {
        let actual_pages = self.balloon()?.actual_pages;
        Ok(self.mem_bytes.saturating_sub(actual_pages * PAGE_BYTES))
    }
}

/// A server, its machine and the guest in it.
#[derive(Debug)]
pub struct Host {
    dir: tempfile::TempDir,
    mem_bytes: u64,
    balloon: Arc<Mutex<Balloon>>,
    events: EventSender,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts a machine as the `vm` of a case describes it.
    pub fn start(vm: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&SocketOptions::new(dir.path().join("qmp"))).unwrap();
        let (events, receiver) = events::channel().unwrap();
        let mem_bytes = vm["mem_bytes"].as_u64().unwrap();
        let balloon = Arc::new(Mutex::new(Balloon {
            num_pages: 0,
            actual_pages: 0,
        }));
        let over = Arc::new(AtomicBool::new(false));
        let paused = vm["paused"] == true;
        let machine = Machine {
            mem_bytes,
            status: if paused {
                RunState::Prelaunch
            } else {
                RunState::Running
            },
            balloon: (vm["balloon"] == true).then(|| balloon.clone()),
            events: events.clone(),
            over: over.clone(),
        };
        let server = Server::new(vec![listener], receiver, machine).unwrap();
        let thread = Some(std::thread::spawn({
            let over = over.clone();
            move || serve(server, &over)
        }));
        Self {
            dir,
            mem_bytes,
            balloon,
            events,
            over,
            thread,
        }
    }

    /// A new connection to the server.
    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("qmp")).unwrap()
    }

    /// How many pages the guest is asked to give.
    pub fn num_pages(&self) -> u64 {
        self.balloon.lock().unwrap().num_pages
    }

    /// The guest says that it has given this many pages.
    pub fn set_actual_pages(&self, pages: u64) {
        let before = std::mem::replace(&mut self.balloon.lock().unwrap().actual_pages, pages);
        if before != pages {
            let actual_bytes = self.mem_bytes.saturating_sub(pages * PAGE_BYTES);
            self.events.send(Event::BalloonChange { actual_bytes });
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || std::thread::panicking());
    }
}

fn serve(server: Server<Machine>, over: &AtomicBool) {
    let mut manager = EventManager::new().unwrap();
    let id = manager.add_subscriber(server);
    while !over.load(Ordering::Relaxed) {
        manager.run_with_timeout(LOOK_MS).unwrap();
    }
    manager
        .remove_subscriber(id)
        .unwrap()
        .finish(Duration::from_secs(1));
}
