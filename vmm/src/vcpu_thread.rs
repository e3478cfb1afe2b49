//! The thread of a vCPU, and how others make it run, pause and end.
//!
//! A request is a word that the thread looks at before each entry into the guest. To take it out
//! of the guest, the requester sets `immediate_exit` in the vCPU's shared page and sends a
//! signal: an entry that is about to happen returns at once because of the former, one that has
//! happened because of the latter.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::machine::{GuestEvent, GuestEvents};
use crate::vcpu::{Buses, step};

/// How long a vCPU may take to leave the guest. It takes microseconds; a host that is short of
/// CPUs may need longer.
const PARK_LIMIT: Duration = Duration::from_secs(10);

/// What a vCPU thread is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Pause,
    Run,
    End,
}

/// A vCPU did not leave the guest in time.
#[derive(Debug, thiserror::Error)]
#[error("vCPU {index} does not leave the guest")]
pub struct StuckVcpu {
    index: u8,
}

struct State {
    request: Request,
    parked: bool,
    /// The byte in the vCPU's shared page; `None` once the thread has ended.
    immediate_exit: Option<ImmediateExit>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `kvm_run.immediate_exit` of a living vCPU.
struct ImmediateExit(*mut u8);

// SAFETY: the byte is only accessed atomically, and only while the vCPU thread, which owns the
// mapping, has not withdrawn the pointer under the lock that guards it.
unsafe impl Send for ImmediateExit {}

impl ImmediateExit {
    fn set(&self, value: bool) {
        // SAFETY: the pointer is valid as long as it is in `State` (see `Withdraw`), and a byte
        // is always aligned. The kernel reads the same byte; it expects it to change.
        unsafe { AtomicU8::from_ptr(self.0) }.store(value.into(), Ordering::Release);
    }
}

/// A vCPU thread.
pub(crate) struct VcpuThread {
    index: u8,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for VcpuThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VcpuThread")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl VcpuThread {
    /// Starts the thread; the vCPU waits for [`Self::run`].
    pub(crate) fn spawn(
        index: u8,
        mut vcpu: VcpuFd,
        buses: Arc<Buses>,
        events: Arc<GuestEvents>,
    ) -> io::Result<Self> {
        register_kick_handler()?;
        let immediate_exit = ImmediateExit(&raw mut vcpu.get_kvm_run().immediate_exit);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                request: Request::Pause,
                parked: false,
                immediate_exit: Some(immediate_exit),
            }),
            changed: Condvar::new(),
        });
        let own = shared.clone();
        let thread = thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || run(index, vcpu, &own, &buses, &events))?;
        Ok(Self {
            index,
            shared,
            thread: Some(thread),
        })
    }

    /// Lets the vCPU run.
    pub(crate) fn run(&self) {
        self.request(Request::Run);
    }

    /// Asks the vCPU to leave the guest; [`Self::wait_parked`] tells when it has.
    pub(crate) fn pause(&self) {
        self.request(Request::Pause);
    }

    fn request(&self, request: Request) {
        let mut state = self.shared.lock();
        state.request = request;
        if let Some(immediate_exit) = &state.immediate_exit {
            immediate_exit.set(request != Request::Run);
        }
        self.shared.changed.notify_all();
        drop(state);
        if request != Request::Run
            && let Some(thread) = &self.thread
            && let Err(error) = thread.kill(kick_signal())
        {
            // A thread that has ended cannot be signalled, nor need it be.
            log::debug!("vCPU {} is not signalled: {error}", self.index);
        }
    }

    /// Waits until the vCPU is out of the guest after [`Self::pause`].
    ///
    /// # Errors
    /// When it does not come out.
    pub(crate) fn wait_parked(&self) -> Result<(), StuckVcpu> {
        let state = self.shared.lock();
        let running = |state: &mut State| !state.parked && state.immediate_exit.is_some();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, PARK_LIMIT, running);
        let (_state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        if result.timed_out() {
            Err(StuckVcpu { index: self.index })
        } else {
            Ok(())
        }
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.request(Request::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes the pointer into the vCPU's page back before the vCPU, and with it the page, goes.
struct Withdraw<'a>(&'a Shared);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.0.lock().immediate_exit = None;
        self.0.changed.notify_all();
    }
}

fn run(index: u8, mut vcpu: VcpuFd, shared: &Shared, buses: &Buses, events: &GuestEvents) {
    // Dropped before `vcpu`, also when something panics.
    let _withdraw = Withdraw(shared);
    while wait_for_run(&vcpu, shared) {
        while !events.ended() && shared.lock().request == Request::Run {
            if let Err(failure) = step(&mut vcpu, buses) {
                events.send(GuestEvent::VcpuFailed { index, failure });
            }
        }
        if events.ended() {
            return;
        }
    }
}

/// Parks until the vCPU may run; whether it may, rather than end.
fn wait_for_run(vcpu: &VcpuFd, shared: &Shared) -> bool {
    let mut state = shared.lock();
    if state.request == Request::Pause {
        // Tells the guest that it was paused, so that its watchdogs do not take the gap for a
        // hang. Guests without kvm-clock have nothing to be told: KVM says EINVAL.
        let _ = vcpu.kvmclock_ctrl();
        state.parked = true;
        shared.changed.notify_all();
        let paused = |state: &mut State| state.request == Request::Pause;
        state = shared
            .changed
            .wait_while(state, paused)
            .unwrap_or_else(PoisonError::into_inner);
        state.parked = false;
    }
    state.request == Request::Run
}

/// The signal that takes a thread out of the guest.
fn kick_signal() -> c_int {
    SIGRTMIN()
}

/// Installs a handler that does nothing: the signal's interruption of the guest is its purpose.
fn register_kick_handler() -> io::Result<()> {
    extern "C" fn handler(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}
    register_signal_handler(kick_signal(), handler)
        .map_err(|error| io::Error::from_raw_os_error(error.errno()))
}
