//! What of a machine belongs to KVM: the virtual machine and its CPUs.
//!
//! A reset makes all of it anew. Nothing that the guest did to its CPUs or interrupt controllers
//! outlives that, without anybody having to know all that there is to put back. Guest memory and
//! devices are the same before and after.

use std::sync::Arc;

use aerostat_devices::GuestMemory;
use kvm_bindings::{CpuId, KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::builder::{BuildError, kvm};
use crate::device_set::DeviceSet;
use crate::host::Host;
use crate::kernel::Kernel;
use crate::vcpu_thread::VcpuThread;
use crate::{cpuid, layout, registers};

/// A virtual machine and its CPUs.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) vm: Arc<VmFd>,
    pub(crate) vcpus: Vec<VcpuFd>,
}

/// Makes a virtual machine without CPUs that has `memory`.
///
/// Memory slots come before the interrupt controllers: the first change of slots waits for a
/// grace period once the controllers are registered, which costs milliseconds.
///
/// # Errors
/// The step that KVM refused.
pub(crate) fn make_vm(host: &Host, memory: &GuestMemory) -> Result<VmFd, BuildError> {
    let vm = host
        .kvm
        .create_vm()
        .map_err(kvm("create a virtual machine"))?;
    add_memory(&vm, memory)?;
    vm.set_tss_address(usize::try_from(layout::KVM_TSS).unwrap_or(usize::MAX))
        .map_err(kvm("place its task state segment"))?;
    // The I/O APIC is a device of ours. None of KVM's routes leads to it, so that KVM has nothing to
    // tell of ends of interrupts.
    let local_apics = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        ..Default::default()
    };
    vm.enable_cap(&local_apics)
        .map_err(kvm("create local interrupt controllers"))?;
    Ok(vm)
}

impl Board {
    /// `vm` with `cpus` CPUs, which can do nothing yet. Devices do not know of it.
    ///
    /// # Errors
    /// The step that KVM refused.
    pub(crate) fn new(vm: VmFd, cpus: u8) -> Result<Self, BuildError> {
        let vcpus = (0..cpus)
            .map(|index| vm.create_vcpu(index.into()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(kvm("create a vCPU"))?;
        let vm = Arc::new(vm);
        Ok(Self { vm, vcpus })
    }

    /// Lets the CPUs do what `cpuid` says, brings the first to the entry of `kernel`, which is in `memory`,
    /// connects `devices`, and gives the CPUs to `threads`. Those after the first wait for it to wake them.
    ///
    /// # Errors
    /// The step that KVM refused.
    pub(crate) fn start(
        self,
        cpuid: &CpuId,
        kernel: &Kernel,
        memory: &GuestMemory,
        devices: &DeviceSet,
        threads: &[VcpuThread],
    ) -> Result<Arc<VmFd>, BuildError> {
        let count = u8::try_from(self.vcpus.len()).unwrap_or(u8::MAX);
        for (index, vcpu) in (0..).zip(&self.vcpus) {
            set_features(vcpu, cpuid, index, count)?;
        }
        if let Some(first) = self.vcpus.first() {
            registers::enter(first, kernel, memory)?;
        }
        devices.connect(&self.vm);
        for (thread, vcpu) in threads.iter().zip(self.vcpus) {
            thread.install(vcpu);
        }
        Ok(self.vm)
    }
}

fn add_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), BuildError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(crate::boot::BootError::from)?;
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: host as u64,
        };
        // SAFETY: regions do not overlap, and stay mapped for as long as a clone of `memory`
        // lives: the machine keeps one until its VM is gone.
        unsafe { vm.set_user_memory_region(slot) }.map_err(kvm("take guest memory"))?;
    }
    Ok(())
}

fn set_features(vcpu: &VcpuFd, cpuid: &CpuId, index: u8, cpus: u8) -> Result<(), BuildError> {
    let leaves = cpuid::for_vcpu(cpuid, index, cpus)
        .map_err(|_| kvm("take a vCPU's features")(kvm_ioctls::Error::new(libc::E2BIG)))?;
    vcpu.set_cpuid2(&leaves)
        .map_err(kvm("set a vCPU's features"))?;
    registers::set_msrs(vcpu)?;
    Ok(())
}
