//! What the guest's CPUs say about themselves: what KVM supports, made one machine of.
//!
//! Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;

/// Leaf 1, ECX: the TSC deadline timer, and that this is a virtual machine.
const ECX_TSC_DEADLINE_BIT: u32 = 1 << 24;
const ECX_HYPERVISOR_BIT: u32 = 1 << 31;
/// Physical address bits where the CPU does not say: PAE's.
const DEFAULT_ADDRESS_BITS: u8 = 36;

/// All leaves that KVM supports on this host.
pub(crate) fn supported(kvm: &Kvm) -> Result<CpuId, kvm_ioctls::Error> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
}

/// Bits of a guest-physical address.
pub(crate) fn address_bits(cpuid: &CpuId) -> u8 {
    let leaf = cpuid
        .as_slice()
        .iter()
        .find(|entry| entry.function == 0x8000_0008);
    leaf.map_or(DEFAULT_ADDRESS_BITS, |entry| entry.eax.to_le_bytes()[0])
}

/// The leaves for the CPU with this APIC id, in a machine of `cpus` CPUs with one thread each.
pub(crate) fn for_vcpu(supported: &CpuId, apic_id: u8, cpus: u8) -> CpuId {
    let mut cpuid = supported.clone();
    for entry in cpuid.as_mut_slice() {
        adapt(entry, apic_id.into(), cpus.into());
    }
    cpuid
}

fn adapt(entry: &mut kvm_cpuid_entry2, apic_id: u32, cpus: u32) {
    match entry.function {
        0x1 => {
            entry.ebx = entry.ebx & 0x0000_ffff | cpus << 16 | apic_id << 24;
            entry.ecx |= ECX_TSC_DEADLINE_BIT | ECX_HYPERVISOR_BIT;
        }
        // Caches: shared by no other thread; the package has `cpus` cores.
        0x4 => entry.eax = entry.eax & 0x0000_3fff | (cpus - 1) << 26,
        // Topology: one thread a core, then `cpus` cores a package.
        0xb | 0x1f => {
            entry.edx = apic_id;
            let core_bits = cpus.next_power_of_two().trailing_zeros();
            (entry.eax, entry.ebx) = match entry.index {
                0 => (0, 1),
                1 => (core_bits, cpus),
                _ => (0, 0),
            };
        }
        // AMD: number of cores and the width of a core's number.
        0x8000_0008 => entry.ecx = cpus - 1,
        0x8000_001e => {
            entry.eax = apic_id;
            entry.ebx = apic_id & 0xff;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapted(function: u32, index: u32) -> kvm_cpuid_entry2 {
        let entry = kvm_cpuid_entry2 {
            function,
            index,
            eax: u32::MAX,
            ebx: u32::MAX,
            ..Default::default()
        };
        for_vcpu(&CpuId::from_entries(&[entry]).unwrap(), 3, 4).as_slice()[0]
    }

    #[test]
    fn leaf_1_has_apic_id_and_number_of_cpus() {
        assert_eq!(adapted(1, 0).ebx, 0x0304_ffff);
        assert_eq!(adapted(1, 0).ecx, ECX_TSC_DEADLINE_BIT | ECX_HYPERVISOR_BIT);
    }

    #[test]
    fn topology_leaf_counts_threads_then_cores() {
        let levels = [0, 1, 2].map(|index| (adapted(0xb, index).eax, adapted(0xb, index).ebx));
        assert_eq!(levels, [(0, 1), (2, 4), (0, 0)]);
    }
}
