//! What the guest's CPUs say about themselves: what KVM supports, made one machine of.
//!
//! Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E.

use std::arch::x86_64::__cpuid;

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::Kvm;

/// Leaf 1, ECX: the TSC deadline timer, and that this is a virtual machine.
const ECX_TSC_DEADLINE_BIT: u32 = 1 << 24;
const ECX_HYPERVISOR_BIT: u32 = 1 << 31;
/// Leaf 1, EDX: the package has more than one logical CPU.
const EDX_HTT_BIT: u32 = 1 << 28;
/// Leaf 0x80000001, ECX: CmpLegacy, these logical CPUs are cores (AMD).
const ECX_CMP_LEGACY_BIT: u32 = 1 << 1;
/// Leaf 0x80000007, EDX: the TSC counts at one rate for ever.
const EDX_INVARIANT_TSC_BIT: u32 = 1 << 8;

/// Extended topology (leaf 0xb): levels, and the types in ECX.
const TOPOLOGY_LEAF: u32 = 0xb;
const TOPOLOGY_LEAF_V2: u32 = 0x1f;
const LEVEL_TYPE_THREADS: u32 = 1 << 8;
const LEVEL_TYPE_CORES: u32 = 2 << 8;
/// Cache leaves (4, and AMD's 0x8000001d): level in EAX bits 5 to 7, sharing threads less one in
/// bits 14 to 25, cores in the package less one (leaf 4 alone) in bits 26 to 31.
const CACHE_SHARING_SHIFT: u32 = 14;
const CACHE_SHARING_MASK: u32 = 0xfff << CACHE_SHARING_SHIFT;
const CACHE_CORES_SHIFT: u32 = 26;
const CACHE_CORES_MAX: u32 = 0x3f;
/// The level of the cache that all cores share.
const LAST_LEVEL: u32 = 3;

/// The highest extended leaf, and the sizes of addresses.
const EXTENDED_LEAVES: u32 = 0x8000_0000;
const ADDRESS_SIZES: u32 = 0x8000_0008;
/// Physical address bits where the CPU does not say: PAE's.
const DEFAULT_ADDRESS_BITS: u8 = 36;

/// All leaves that KVM supports on this host.
pub(crate) fn supported(kvm: &Kvm) -> Result<CpuId, kvm_ioctls::Error> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
}

/// Bits of a physical address of the host. Those of a guest are not more.
pub(crate) fn host_address_bits() -> u8 {
    let highest = __cpuid(EXTENDED_LEAVES).eax;
    let has_sizes = highest >= ADDRESS_SIZES;
    let sizes = has_sizes.then(|| __cpuid(ADDRESS_SIZES).eax);
    sizes.map_or(DEFAULT_ADDRESS_BITS, |eax| eax.to_le_bytes()[0])
}

/// Bits of a guest-physical address.
pub(crate) fn address_bits(cpuid: &CpuId) -> u8 {
    let leaf = cpuid
        .as_slice()
        .iter()
        .find(|entry| entry.function == ADDRESS_SIZES);
    leaf.map_or(DEFAULT_ADDRESS_BITS, |entry| entry.eax.to_le_bytes()[0])
}

/// The leaves for the CPU with this APIC id, in a machine of one package with `cpus` cores of one
/// thread each.
///
/// # Errors
/// When there are more leaves than KVM takes.
pub(crate) fn for_vcpu(
    supported: &CpuId,
    apic_id: u8,
    cpus: u8,
) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let (apic_id, cpus) = (u32::from(apic_id), u32::from(cpus));
    let mut cpuid = supported.clone();
    // KVM reports one level of a topology without levels.
    cpuid.retain(|entry| ![TOPOLOGY_LEAF, TOPOLOGY_LEAF_V2].contains(&entry.function));
    for entry in cpuid.as_mut_slice() {
        adapt(entry, apic_id, cpus);
    }
    if supports(supported, TOPOLOGY_LEAF) {
        for level in topology(apic_id, cpus) {
            cpuid.push(level)?;
        }
    }
    Ok(cpuid)
}

fn supports(cpuid: &CpuId, function: u32) -> bool {
    let max = cpuid.as_slice().iter().find(|entry| entry.function == 0);
    max.is_some_and(|entry| entry.eax >= function)
}

fn adapt(entry: &mut kvm_cpuid_entry2, apic_id: u32, cpus: u32) {
    let several = cpus > 1;
    match entry.function {
        0x1 => {
            entry.ebx = entry.ebx & 0x0000_ffff | cpus << 16 | apic_id << 24;
            entry.ecx |= ECX_TSC_DEADLINE_BIT | ECX_HYPERVISOR_BIT;
            entry.edx = with(entry.edx, EDX_HTT_BIT, several);
        }
        0x4 => {
            entry.eax = entry.eax & 0x0000_3fff | sharing(entry.eax, cpus);
            // An entry without a cache ends the list, and says nothing.
            if entry.eax & 0x1f != 0 {
                entry.eax |= (cpus - 1).min(CACHE_CORES_MAX) << CACHE_CORES_SHIFT;
            }
        }
        0x8000_0001 => entry.ecx = with(entry.ecx, ECX_CMP_LEGACY_BIT, several),
        // As in QEMU, unless asked for: a guest that trusts the TSC for ever would not take
        // kvm-clock, which stands still while the guest does.
        0x8000_0007 => entry.edx &= !EDX_INVARIANT_TSC_BIT,
        // AMD: number of cores less one, and the width of a core's number.
        0x8000_0008 => entry.ecx = (cpus - 1) | (core_bits(cpus) << 12),
        0x8000_001d => {
            entry.eax = entry.eax & !CACHE_SHARING_MASK | sharing(entry.eax, cpus);
        }
        // AMD: APIC id; core and one thread for each; one node.
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (apic_id, apic_id & 0xff, 0),
        _ => {}
    }
}

fn with(register: u32, bit: u32, set: bool) -> u32 {
    if set { register | bit } else { register & !bit }
}

/// Threads, less one, that share the cache which `eax` describes: all at the last level, one at
/// the others.
fn sharing(eax: u32, cpus: u32) -> u32 {
    let level = eax >> 5 & 7;
    if level == LAST_LEVEL {
        (cpus - 1) << CACHE_SHARING_SHIFT
    } else {
        0
    }
}

/// Bits of an APIC id that number the cores of a package.
fn core_bits(cpus: u32) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

/// The levels of leaf 0xb: one thread a core, `cpus` cores a package, and the end.
fn topology(apic_id: u32, cpus: u32) -> [kvm_cpuid_entry2; 3] {
    let level = |index, eax, ebx, level_type| kvm_cpuid_entry2 {
        function: TOPOLOGY_LEAF,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax,
        ebx,
        ecx: index | level_type,
        edx: apic_id,
        ..Default::default()
    };
    [
        level(0, 0, 1, LEVEL_TYPE_THREADS),
        level(1, core_bits(cpus), cpus, LEVEL_TYPE_CORES),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, eax: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            eax,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        }
    }

    /// The leaf of CPU 3 in a machine of `cpus` CPUs.
    fn adapted(function: u32, eax: u32, cpus: u8) -> kvm_cpuid_entry2 {
        let supported = CpuId::from_entries(&[entry(function, eax)]).unwrap();
        for_vcpu(&supported, 3, cpus).unwrap().as_slice()[0]
    }

    #[test]
    fn leaf_1_has_apic_id_and_number_of_cpus() {
        let leaf = adapted(1, 0, 4);
        assert_eq!(leaf.ebx, 0x0304_ffff);
        assert_eq!(leaf.edx & EDX_HTT_BIT, EDX_HTT_BIT);
        assert_eq!(adapted(1, 0, 1).edx & EDX_HTT_BIT, 0);
    }

    #[test]
    fn topology_leaf_counts_threads_then_cores_and_ends() {
        let supported = CpuId::from_entries(&[entry(0, 0x1f), entry(0xb, 7), entry(0x1f, 7)]);
        let cpuid = for_vcpu(&supported.unwrap(), 3, 6).unwrap();
        let levels: Vec<_> = cpuid.as_slice()[1..]
            .iter()
            .map(|leaf| (leaf.function, leaf.eax, leaf.ebx, leaf.ecx, leaf.edx))
            .collect();
        assert_eq!(
            levels,
            [
                (0xb, 0, 1, 0x100, 3),
                (0xb, 3, 6, 0x201, 3),
                (0xb, 0, 0, 2, 3)
            ]
        );
    }

    #[test]
    fn cpu_without_the_topology_leaf_does_not_get_it() {
        let supported = CpuId::from_entries(&[entry(0, 0xa)]).unwrap();
        assert_eq!(for_vcpu(&supported, 0, 1).unwrap().as_slice().len(), 1);
    }

    #[test]
    fn last_level_cache_alone_is_shared() {
        let shared = |leaf: kvm_cpuid_entry2| leaf.eax >> CACHE_SHARING_SHIFT & 0xfff;
        for function in [4, 0x8000_001d] {
            assert_eq!(shared(adapted(function, 0xffff_c021, 8)), 0);
            assert_eq!(shared(adapted(function, 0xffff_c063, 8)), 7);
        }
        assert_eq!(adapted(4, 0x63, 64).eax >> CACHE_CORES_SHIFT, 63);
        assert_eq!(adapted(4, 0, 64).eax, 0);
    }

    #[test]
    fn invariant_tsc_is_not_promised() {
        assert_eq!(adapted(0x8000_0007, 0, 1).edx, !EDX_INVARIANT_TSC_BIT);
    }

    #[test]
    fn amd_leaves_count_cores() {
        assert_eq!(adapted(0x8000_0008, 48, 6).ecx, 5 | (3 << 12));
        let ids = adapted(0x8000_001e, 0, 6);
        assert_eq!((ids.eax, ids.ebx, ids.ecx), (3, 3, 0));
    }
}
