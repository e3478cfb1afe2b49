//! Output of a guest that prints by polling, which KVM collects (`KVM_CAP_COALESCED_PIO`).
//!
//! Such a guest looks at the line status and writes a byte, over and over: two exits to user space for each
//! byte. Once it has shown that it does so, KVM keeps what it writes in a ring, and the byte is found there
//! at the exit of the next look. So that none stays in the ring for long, a thread empties it every ten
//! milliseconds; it takes the zone away again, and ends, when little is printed.
//!
//! Nothing that the guest can notice changes. All exits of all vCPUs find the ring empty before they are
//! handled, so that the order is kept; and what could follow from a byte, an interrupt or input in loopback
//! mode, ends it before it is asked for.

mod ring;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use aerostat_devices::bus::BusDevice;
use aerostat_devices::serial::{PrintWatch, SerialPort};
use kvm_ioctls::{Cap, IoEventAddress, VcpuFd, VmFd};

use crate::layout;
use crate::link::VmLink;
use ring::Ring;

/// Where the guest writes what it prints.
const DATA_PORT: IoEventAddress =
    IoEventAddress::Pio(layout::SERIAL_PORT as u64 + SerialPort::DATA_PORT);
/// How long a byte may stay in the ring.
const PERIOD: Duration = Duration::from_millis(10);
/// How many periods decide whether it goes on.
const WINDOW: u32 = 10;
/// How many bytes in that time are worth it: an exit saved takes microseconds, as does a period's work.
const WORTH: usize = 64;

/// What there is of the zone.
enum Zone {
    Absent,
    /// The thread is about to make it.
    Starting,
    /// KVM has it.
    Present(Arc<VmFd>),
    /// The thread is about to end.
    Ending,
    /// The host does without.
    Refused,
}

/// The zone of the serial port's data, while there is one.
pub(crate) struct Coalescing {
    serial: Arc<SerialPort>,
    link: Arc<VmLink>,
    /// The guest polls, and there is no zone yet.
    is_wanted: AtomicBool,
    /// The ring may have something.
    is_active: AtomicBool,
    /// Locked before `ring`.
    zone: Mutex<Zone>,
    ending: Condvar,
    ring: Mutex<Option<Ring>>,
    /// Bytes that the ring brought in this window.
    taken: AtomicUsize,
}

impl fmt::Debug for Coalescing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalescing").finish_non_exhaustive()
    }
}

impl Coalescing {
    /// For what is printed to `serial`, on the virtual machine that `link` leads to.
    pub(crate) fn new(serial: Arc<SerialPort>, link: Arc<VmLink>) -> Arc<Self> {
        let coalescing = Arc::new(Self {
            serial,
            link,
            is_wanted: AtomicBool::new(false),
            is_active: AtomicBool::new(false),
            zone: Mutex::new(Zone::Absent),
            ending: Condvar::new(),
            ring: Mutex::default(),
            taken: AtomicUsize::new(0),
        });
        let watch: Arc<dyn PrintWatch> = coalescing.clone();
        coalescing.serial.watch_printing(Arc::downgrade(&watch));
        coalescing
    }

    /// Begins if the guest polls. Runs on the thread of `vcpu`, out of the guest.
    pub(crate) fn begin_if_wanted(self: &Arc<Self>, vcpu: &VcpuFd) {
        if !self.is_wanted.load(Ordering::Relaxed) {
            return;
        }
        // Whoever has it may have it for milliseconds. There is a next time.
        let Ok(mut zone) = self.zone.try_lock() else {
            return;
        };
        if self.is_wanted.swap(false, Ordering::Relaxed) && matches!(*zone, Zone::Absent) {
            *zone = match self.begin(vcpu) {
                Ok(()) => Zone::Starting,
                Err(error) => refused(&error),
            };
        }
    }

    /// The thread makes the zone once it has the lock: that takes milliseconds, in which the guest can go on.
    fn begin(self: &Arc<Self>, vcpu: &VcpuFd) -> io::Result<()> {
        let ring = Ring::map(vcpu)?;
        let this = self.clone();
        let builder = thread::Builder::new().name("coalescing".to_owned());
        builder.spawn(move || this.serve())?;
        *self.lock_ring() = Some(ring);
        Ok(())
    }

    fn serve(&self) {
        let mut zone = self.lock_zone();
        if matches!(*zone, Zone::Starting) {
            *zone = self.make_zone();
            if !matches!(*zone, Zone::Present(_)) {
                *self.lock_ring() = None;
            }
        }
        let mut periods = 0;
        while let Zone::Present(_) = *zone {
            let waited = self.ending.wait_timeout(zone, PERIOD);
            zone = waited.unwrap_or_else(PoisonError::into_inner).0;
            self.deliver();
            periods += 1;
            if periods % WINDOW == 0 && self.taken.swap(0, Ordering::Relaxed) < WORTH {
                self.end_zone(&mut zone);
            }
        }
        if let Zone::Ending = *zone {
            *zone = Zone::Absent;
        }
    }

    fn make_zone(&self) -> Zone {
        let Some(vm) = self.link.vm() else {
            return Zone::Ending;
        };
        // Kernels without it take the port for an address.
        if !vm.check_extension(Cap::CoalescedPio) {
            return refused(&io::ErrorKind::Unsupported.into());
        }
        self.is_active.store(true, Ordering::SeqCst);
        match vm.register_coalesced_mmio(DATA_PORT, 1) {
            Ok(()) => Zone::Present(vm),
            Err(error) => {
                self.is_active.store(false, Ordering::SeqCst);
                refused(&error.into())
            }
        }
    }

    /// Gives the port what the ring has. All that was written before the call has reached it then.
    pub(crate) fn deliver(&self) {
        if !self.is_active.load(Ordering::Acquire) {
            return;
        }
        if let Some(ring) = self.lock_ring().as_mut() {
            let port = SerialPort::DATA_PORT;
            let count = ring.take(|byte| BusDevice::write(&*self.serial, port, &[byte]));
            self.taken.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Ends it, if there is anything of it. When this returns, the port has all that was printed, and KVM
    /// keeps nothing back.
    pub(crate) fn end(&self) {
        let mut zone = self.lock_zone();
        self.is_wanted.store(false, Ordering::Relaxed);
        self.end_zone(&mut zone);
    }

    fn end_zone(&self, zone: &mut Zone) {
        match zone {
            Zone::Absent | Zone::Ending | Zone::Refused => return,
            Zone::Starting => {}
            Zone::Present(vm) => {
                // Once it returns, KVM adds nothing more.
                if let Err(error) = vm.unregister_coalesced_mmio(DATA_PORT, 1) {
                    log::warn!("KVM goes on to collect what the guest prints: {error}");
                }
            }
        }
        *zone = Zone::Ending;
        self.deliver();
        self.is_active.store(false, Ordering::SeqCst);
        *self.lock_ring() = None;
        self.ending.notify_all();
    }

    fn lock_zone(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_ring(&self) -> MutexGuard<'_, Option<Ring>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PrintWatch for Coalescing {
    fn polls(&self) {
        if !self.is_active.load(Ordering::Relaxed) {
            self.is_wanted.store(true, Ordering::Relaxed);
        }
    }

    fn polls_no_more(&self) {
        self.end();
    }
}

fn refused(error: &io::Error) -> Zone {
    log::debug!("KVM does not collect what the guest prints: {error}");
    Zone::Refused
}
