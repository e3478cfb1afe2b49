//! What an interrupt costs whoever sends it: a message to a local APIC, as the I/O APIC here sends it, and
//! the two ways of an irqfd, of which the last leads through KVM's own I/O APIC.
//!
//! `cargo bench --package aerostat-benches --bench interrupt`; medians of rounds in turn, in nanoseconds.
//! No guest runs: the guest's part, up to the end of the interrupt, is the same for all three.

use std::error::Error;
use std::time::Instant;

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_enable_cap,
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const ROUNDS: usize = 31;
/// Interrupts in a round, so many that the clock does not count.
const INTERRUPTS: u32 = 20_000;
/// A message to the local APIC with id 0, and the interrupt's vector (Intel SDM volume 3, "Message
/// Signalled Interrupts").
const ADDRESS: u32 = 0xfee0_0000;
const VECTOR: u32 = 0x31;
/// The line that is pulled.
const GSI: u32 = 5;

/// One way to send an interrupt.
struct Way {
    name: &'static str,
    vm: VmFd,
    event: Option<EventFd>,
    /// Whose interrupts they are.
    _vcpu: VcpuFd,
}

impl Way {
    /// Local APICs in KVM, and messages sent by a call.
    fn message(kvm: &Kvm) -> Result<Self> {
        let vm = kvm.create_vm()?;
        let cap = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            ..Default::default()
        };
        vm.enable_cap(&cap)?;
        Self::of("message", vm, None)
    }

    /// The same, and an irqfd that is routed to a message.
    fn irqfd(kvm: &Kvm) -> Result<Self> {
        let vm = kvm.create_vm()?;
        let cap = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            // Routes that there may be.
            args: [24, 0, 0, 0],
            ..Default::default()
        };
        vm.enable_cap(&cap)?;
        let mut routing = KvmIrqRouting::new(1).map_err(|error| format!("{error:?}"))?;
        let msi = kvm_irq_routing_msi {
            address_lo: ADDRESS,
            data: VECTOR,
            ..Default::default()
        };
        routing.as_mut_slice()[0] = kvm_irq_routing_entry {
            gsi: GSI,
            type_: KVM_IRQ_ROUTING_MSI,
            u: kvm_irq_routing_entry__bindgen_ty_1 { msi },
            ..Default::default()
        };
        vm.set_gsi_routing(&routing)?;
        Self::of("irqfd to a message", vm, Some(EventFd::new(0)?))
    }

    /// All interrupt controllers in KVM, and an irqfd that pulls a line.
    fn in_kernel(kvm: &Kvm) -> Result<Self> {
        let vm = kvm.create_vm()?;
        vm.create_irq_chip()?;
        Self::of("irqfd to KVM's I/O APIC", vm, Some(EventFd::new(0)?))
    }

    fn of(name: &'static str, vm: VmFd, event: Option<EventFd>) -> Result<Self> {
        let vcpu = vm.create_vcpu(0)?;
        if let Some(event) = &event {
            vm.register_irqfd(event, GSI)?;
        }
        Ok(Self {
            name,
            vm,
            event,
            _vcpu: vcpu,
        })
    }

    fn send(&self) -> Result<()> {
        match &self.event {
            Some(event) => event.write(1)?,
            None => {
                self.vm.signal_msi(kvm_msi {
                    address_lo: ADDRESS,
                    data: VECTOR,
                    ..Default::default()
                })?;
            }
        }
        Ok(())
    }

    /// Nanoseconds for each of many.
    fn round(&self) -> Result<f64> {
        let begun = Instant::now();
        for _ in 0..INTERRUPTS {
            self.send()?;
        }
        Ok(begun.elapsed().as_secs_f64() * 1e9 / f64::from(INTERRUPTS))
    }
}

fn main() -> Result<()> {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("Not measured: /dev/kvm cannot be opened: {error}");
            return Ok(());
        }
    };
    let ways = [
        Way::message(&kvm)?,
        Way::irqfd(&kvm)?,
        Way::in_kernel(&kvm)?,
    ];
    let mut taken = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (way, taken) in ways.iter().zip(&mut taken) {
            taken.push(way.round()?);
        }
    }
    for (way, taken) in ways.iter().zip(&mut taken) {
        taken.sort_by(f64::total_cmp);
        println!("{:24} {:6.0} ns", way.name, taken[ROUNDS / 2]);
    }
    Ok(())
}
