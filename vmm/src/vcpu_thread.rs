//! The thread of a vCPU, and how others make it run, pause and end, or give it another vCPU.
//!
//! The thread lives as long as the machine: whoever pins it to a CPU of the host does so once. A
//! reset gives it a new vCPU.
//!
//! A request is a word that the thread looks at before each entry into the guest. To take it out
//! of the guest, the requester sets `immediate_exit` in the vCPU's shared page and sends a
//! signal: an entry that is about to happen returns at once because of the former, one that has
//! happened because of the latter.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::elsewhere::Elsewhere;
use crate::guest_events::{GuestEvent, GuestEvents};
use crate::vcpu::{Buses, Exit, step};

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
    /// Whether the thread waits, out of the guest.
    parked: bool,
    /// The byte in the shared page of the vCPU that the thread has, or will have next; `None`
    /// before it has one, and once it has ended.
    immediate_exit: Option<ImmediateExit>,
    /// A vCPU in place of the one that the thread has.
    next: Option<VcpuFd>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The host's id of the thread, once it runs.
    id: OnceLock<u32>,
    /// Whether the request is [`Request::Run`]: looked at before each entry into the guest, without
    /// a lock that a thread which has lost its CPU could hold.
    may_run: AtomicBool,
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
    fn of(vcpu: &mut VcpuFd) -> Self {
        Self(&raw mut vcpu.get_kvm_run().immediate_exit)
    }

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
    /// Starts the thread, which does `first`, and then waits for [`Self::install`] and [`Self::run`].
    pub(crate) fn spawn(
        index: u8,
        buses: Arc<Buses>,
        events: Arc<GuestEvents>,
        first: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        register_kick_handler()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                request: Request::Pause,
                parked: true,
                immediate_exit: None,
                next: None,
            }),
            changed: Condvar::new(),
            id: OnceLock::new(),
            may_run: AtomicBool::new(false),
        });
        let own = shared.clone();
        let thread = thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || {
                let id = rustix::thread::gettid().as_raw_nonzero().get();
                let _ = own.id.set(id.cast_unsigned());
                first();
                run(index, &own, &buses, &events);
            })?;
        Ok(Self {
            index,
            shared,
            thread: Some(thread),
        })
    }

    /// The host's id of the thread.
    pub(crate) fn id(&self) -> u32 {
        *self.shared.id.wait()
    }

    /// Has the thread do its `first` on another CPU than the caller's, if there is one, until what this
    /// gives is dropped.
    pub(crate) fn elsewhere(&self) -> Option<Elsewhere<'_>> {
        self.thread.as_ref().and_then(Elsewhere::send)
    }

    /// Gives the thread a vCPU, in place of the one that it may have. It must be parked then. The first it
    /// takes when it is to run it, so that it wakes up once.
    pub(crate) fn install(&self, mut vcpu: VcpuFd) {
        let mut state = self.shared.lock();
        let immediate_exit = ImmediateExit::of(&mut vcpu);
        immediate_exit.set(state.request != Request::Run);
        let replaced = state.immediate_exit.replace(immediate_exit);
        state.next = Some(vcpu);
        // Whoever wakes up needs the lock.
        drop(state);
        if replaced.is_some() {
            self.shared.changed.notify_all();
        }
    }

    /// Lets the vCPU run.
    pub(crate) fn run(&self) {
        self.request(Request::Run);
    }

    /// Asks the thread to end.
    pub(crate) fn end(&self) {
        self.request(Request::End);
    }

    /// Asks the vCPU to leave the guest; [`Self::wait_parked`] tells when it has.
    pub(crate) fn pause(&self) {
        self.request(Request::Pause);
    }

    fn request(&self, request: Request) {
        let mut state = self.shared.lock();
        state.request = request;
        let may_run = request == Request::Run;
        self.shared.may_run.store(may_run, Ordering::Release);
        if let Some(immediate_exit) = &state.immediate_exit {
            immediate_exit.set(request != Request::Run);
        }
        drop(state);
        self.shared.changed.notify_all();
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

fn run(index: u8, shared: &Shared, buses: &Buses, events: &GuestEvents) {
    let Some(mut vcpu) = wait_for_vcpu(shared) else {
        return;
    };
    // Dropped before `vcpu`, also when something panics.
    let _withdraw = Withdraw(shared);
    loop {
        match wait_for_order(&vcpu, shared, events) {
            Order::Run => {}
            Order::Replace(next) => {
                vcpu = next;
                continue;
            }
            Order::End => return,
        }
        while !events.halted() && shared.may_run.load(Ordering::Acquire) {
            match step(&mut vcpu, buses) {
                Ok(()) => {}
                Err(Exit::TripleFault(registers)) => {
                    events.send(GuestEvent::TripleFault { index, registers });
                }
                Err(Exit::Failure(failure)) => {
                    events.send(GuestEvent::VcpuFailed { index, failure });
                }
            }
        }
    }
}

/// The first vCPU, once it is to run; `None` when the thread is to end before that.
fn wait_for_vcpu(shared: &Shared) -> Option<VcpuFd> {
    let must_wait = |state: &mut State| match state.request {
        Request::Pause => true,
        Request::Run => state.next.is_none(),
        Request::End => false,
    };
    let state = shared.changed.wait_while(shared.lock(), must_wait);
    let mut state = state.unwrap_or_else(PoisonError::into_inner);
    if state.request == Request::End {
        // The pointer into the vCPU's page first.
        state.immediate_exit = None;
        state.next = None;
        return None;
    }
    state.parked = false;
    state.next.take()
}

/// What a vCPU thread does next.
enum Order {
    Run,
    Replace(VcpuFd),
    End,
}

/// Parks until there is something to do. A guest that has halted parks its vCPUs too.
fn wait_for_order(vcpu: &VcpuFd, shared: &Shared, events: &GuestEvents) -> Order {
    let must_park = |state: &State| {
        state.next.is_none()
            && (state.request == Request::Pause || state.request == Request::Run && events.halted())
    };
    let mut state = shared.lock();
    if must_park(&state) {
        // Tells the guest that it was paused, so that its watchdogs do not take the gap for a
        // hang. Guests without kvm-clock have nothing to be told: KVM says EINVAL.
        let _ = vcpu.kvmclock_ctrl();
        state.parked = true;
        shared.changed.notify_all();
        state = shared
            .changed
            .wait_while(state, |state| must_park(state))
            .unwrap_or_else(PoisonError::into_inner);
        state.parked = false;
    }
    match (state.next.take(), state.request) {
        (Some(next), _) => Order::Replace(next),
        (None, Request::End) => Order::End,
        (None, _) => Order::Run,
    }
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
