//! What of KVM devices reach by themselves: the local APICs, for their interrupts, and the events that
//! a guest's notifications become.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use aerostat_devices::ioapic::Message;
use kvm_bindings::kvm_msi;
use kvm_ioctls::{IoEventAddress, VmFd};
use vmm_sys_util::eventfd::EventFd;

/// The virtual machine that there is. A reset makes another; while there is none, interrupts are lost,
/// as the guest is that would have taken them.
#[derive(Debug, Default)]
pub(crate) struct VmLink(RwLock<Weak<VmFd>>);

impl VmLink {
    /// Leads to `vm` from now on, for as long as it exists.
    pub(crate) fn connect(&self, vm: &Arc<VmFd>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(vm);
    }

    /// The virtual machine, if there is one.
    pub(crate) fn vm(&self) -> Option<Arc<VmFd>> {
        let vm = self.0.read().unwrap_or_else(PoisonError::into_inner);
        vm.upgrade()
    }

    /// Sends a message to a local APIC. Never blocks.
    pub(crate) fn send(&self, message: Message) {
        let Some(vm) = self.vm() else {
            return;
        };
        let message = kvm_msi {
            address_lo: message.address,
            data: message.data,
            ..Default::default()
        };
        // A guest may write a destination that is none of its CPUs.
        if let Err(error) = vm.signal_msi(message) {
            log::trace!("KVM does not deliver {message:x?}: {error}");
        }
    }
}

/// The notifications of a device's queues, which KVM turns into events once a driver uses them.
///
/// Not sooner: a machine that ends soon after waits for a grace period of the kernel, which takes more
/// than ten milliseconds. Until then a notification leaves the guest as any access to a register.
#[derive(Debug)]
pub(crate) struct Notifications {
    link: Arc<VmLink>,
    /// Where the guest writes the number of the queue.
    address: u64,
    /// Where they are connected already.
    connected: Mutex<Weak<VmFd>>,
}

impl Notifications {
    /// Of a device that has its register for them at `address`.
    pub(crate) fn new(link: Arc<VmLink>, address: u64) -> Self {
        Self {
            link,
            address,
            connected: Mutex::default(),
        }
    }

    /// Has KVM write to the n-th event when the guest notifies of the n-th queue.
    pub(crate) fn connect(&self, events: &[EventFd]) {
        let Some(vm) = self.link.vm() else {
            return;
        };
        let mut connected = self.lock_connected();
        if connected.ptr_eq(&Arc::downgrade(&vm)) {
            return;
        }
        *connected = Arc::downgrade(&vm);
        let address = IoEventAddress::Mmio(self.address);
        for (queue, event) in (0_u32..).zip(events) {
            if let Err(error) = vm.register_ioevent(event, &address, queue) {
                log::warn!("Notifications of queue {queue} take longer than they need: {error}");
            }
        }
    }

    fn lock_connected(&self) -> MutexGuard<'_, Weak<VmFd>> {
        let connected = self.connected.lock();
        connected.unwrap_or_else(PoisonError::into_inner)
    }
}
