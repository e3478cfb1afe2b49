//! SIGTERM, SIGINT and SIGHUP as events of the loop: they end the machine in order, or have its
//! guest end it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use libc::{SFD_CLOEXEC, SFD_NONBLOCK, SIGHUP, SIGINT, SIGTERM, SIGTTIN};
use vmm_sys_util::signal::{block_signal, create_sigset};

use crate::machine::MachineHandle;

const SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGHUP];

/// The signals, blocked in every thread that starts from now on, and to be read here.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Takes the signals. Must run before the first thread starts.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub fn take() -> io::Result<Self> {
        // A background job that reads its terminal is to get an error, not to be stopped.
        for signal in SIGNALS.into_iter().chain([SIGTTIN]) {
            // Being blocked already is what we want.
            let _ = block_signal(signal);
        }
        let set = create_sigset(&SIGNALS).map_err(|e| io::Error::from_raw_os_error(e.errno()))?;
        // SAFETY: `set` is an initialised signal set, and -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, SFD_CLOEXEC | SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The number of the next signal that has come.
    fn read(&self) -> Option<i32> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        let length = rustix::io::read(&self.0, &mut info).ok()?;
        // `ssi_signo`, 32 bits, is the first member.
        let number = info[..length].first_chunk()?;
        i32::try_from(u32::from_ne_bytes(*number)).ok()
    }
}

/// Whether one of the signals has come that nobody has read yet. Only where they are blocked.
pub fn is_one_pending() -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call fills the set that it is given, unless it fails.
    let pending = unsafe {
        if libc::sigpending(pending.as_mut_ptr()) != 0 {
            return false;
        }
        pending.assume_init()
    };
    // SAFETY: the set is initialised.
    let has = |signal: &i32| unsafe { libc::sigismember(&raw const pending, *signal) == 1 };
    SIGNALS.iter().any(has)
}

/// The subscriber that tells the machine.
pub struct SignalEvents {
    signals: Signals,
    machine: MachineHandle,
}

impl SignalEvents {
    /// Tells `machine` when one of the signals comes.
    pub fn new(signals: Signals, machine: MachineHandle) -> Self {
        Self { signals, machine }
    }
}

impl MutEventSubscriber for SignalEvents {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        match self.signals.read() {
            Some(SIGTERM) => self.machine.terminate(),
            Some(_) => self.machine.quit_on_signal(),
            None => {}
        }
    }

    fn init(&mut self, ops: &mut EventOps<'_>) {
        let fd = self.signals.0.as_raw_fd();
        if let Err(error) = ops.add(Events::new(&fd, EventSet::IN)) {
            log::error!("Signals will not be heard: {error}");
        }
    }
}
