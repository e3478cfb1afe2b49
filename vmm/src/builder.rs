//! From a configuration to a machine, in ordered steps.
//!
//! Files are read before anything of KVM is made, so that a wrong argument costs nothing. Memory
//! slots come before the interrupt controllers: the first change of slots waits for a grace
//! period once the controllers are registered, which costs milliseconds.

use std::fmt;
use std::io;
use std::sync::Arc;

use aerostat_devices::GuestMemory;
use aerostat_devices::balloon::{Balloon, BalloonEvents, BalloonOptions, BalloonSink};
use aerostat_devices::interrupt::InterruptLine;
use aerostat_devices::power::{AcpiPower, KeyboardReset, PowerRequest, PowerSink};
use aerostat_devices::serial::{SerialOutput, SerialPort};
use aerostat_devices::virtio::MmioInterrupt;
use aerostat_devices::virtio::mmio::{self, MmioTransport, QUEUE_NOTIFY_OFFSET};
use kvm_bindings::{CpuId, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::acpi::{self, AcpiError, Platform};
use crate::config::MachineConfig;
use crate::device_thread::{DeviceThread, Subscriber};
use crate::host::{Host, HostError};
use crate::kernel::{self, Entry, Initrd, Kernel, KernelError};
use crate::machine::{GuestEvent, GuestEvents, Machine, RunState};
use crate::memory::{self, MemoryError};
use crate::registers::{self, EntryError};
use crate::vcpu::Buses;
use crate::vcpu_thread::VcpuThread;
use crate::{boot_params, cpuid, layout, pvh};

/// vCPUs in a machine.
const CPUS: u8 = 1;

/// What a machine is connected to.
pub struct MachineIo {
    /// Where the serial port writes; `None` for a machine without a serial port.
    pub serial: Option<SerialOutput>,
    /// Is told what the guest says of its balloon.
    pub balloon: BalloonSink,
}

impl fmt::Debug for MachineIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MachineIo")
            .field("serial", &self.serial.is_some())
            .finish_non_exhaustive()
    }
}

/// A machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// KVM is not usable.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Kernel, initrd or command line are not usable.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Guest memory cannot be had.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// ACPI tables could not be written.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// The first vCPU could not be prepared.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// KVM refused a step.
    #[error("KVM cannot {step}")]
    Kvm {
        /// What was being done.
        step: &'static str,
        /// The reason.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// Boot information could not be written.
    #[error("Cannot write boot information to guest memory")]
    BootInformation(#[source] vm_memory::GuestMemoryError),
    /// A thread or file descriptor could not be had.
    #[error("Cannot make {what}")]
    Resource {
        /// What was needed.
        what: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Two devices claim the same addresses.
    #[error(transparent)]
    Bus(#[from] aerostat_devices::bus::Overlap),
}

fn kvm(step: &'static str) -> impl Fn(kvm_ioctls::Error) -> BuildError {
    move |source| BuildError::Kvm { step, source }
}

fn resource(what: &'static str) -> impl Fn(io::Error) -> BuildError {
    move |source| BuildError::Resource { what, source }
}

/// Builds a machine. It is in [`RunState::Prelaunch`]: nothing of the guest runs yet.
///
/// # Errors
/// The first step that failed, with its reason.
pub fn build(config: &MachineConfig, io: MachineIo) -> Result<Machine, BuildError> {
    let host = Host::open()?;
    let cpuid = cpuid::supported(&host.kvm).map_err(kvm("say what CPUs it supports"))?;
    let memory = memory::map(config.memory, cpuid::address_bits(&cpuid))?;
    let boot = Boot::load(config, &memory)?;

    let vm = host
        .kvm
        .create_vm()
        .map_err(kvm("create a virtual machine"))?;
    add_memory(&vm, &memory)?;
    vm.set_tss_address(usize::try_from(layout::KVM_TSS).unwrap_or(usize::MAX))
        .map_err(kvm("place its task state segment"))?;
    vm.create_irq_chip()
        .map_err(kvm("create interrupt controllers"))?;

    let events = Arc::new(GuestEvents::new().map_err(resource("an event"))?);
    let mut devices = Devices {
        vm: &vm,
        buses: Buses::default(),
        subscribers: Vec::new(),
    };
    devices.add_power(&events)?;
    let serial = io
        .serial
        .map(|output| devices.add_serial(output))
        .transpose()?;
    let balloon = config
        .balloon
        .map(|options| devices.add_balloon(options, &memory, io.balloon))
        .transpose()?;
    let Devices {
        buses, subscribers, ..
    } = devices;

    let platform = Platform {
        cpus: CPUS,
        serial: serial.is_some(),
        virtio_devices: u8::from(balloon.is_some()),
    };
    boot.write_information(config, platform, &memory)?;

    let device_thread = DeviceThread::spawn(subscribers).map_err(resource("the device thread"))?;
    let vcpus = create_vcpus(&vm, &cpuid, boot.kernel.entry, &memory, buses, &events)?;
    Ok(Machine {
        state: RunState::Prelaunch,
        vcpus,
        _device_thread: device_thread,
        events,
        balloon,
        serial,
        memory: config.memory,
        sync_mmu: host.sync_mmu,
        _vm: vm,
        _guest_memory: memory,
    })
}

/// What is loaded into memory before the guest starts.
struct Boot {
    kernel: Kernel,
    initrd: Option<Initrd>,
}

impl Boot {
    fn load(config: &MachineConfig, memory: &GuestMemory) -> Result<Self, KernelError> {
        let kernel = kernel::load_kernel(&config.kernel, memory)?;
        kernel::write_cmdline(&config.cmdline, &kernel, &config.kernel, memory)?;
        let initrd = match &config.initrd {
            Some(path) => Some(kernel::load_initrd(path, &kernel, memory)?),
            None => None,
        };
        log::info!(
            "Kernel {}: {:x?}, initrd {initrd:x?}",
            config.kernel.display(),
            kernel.entry
        );
        Ok(Self { kernel, initrd })
    }

    /// Writes ACPI tables and what the entry protocol of the kernel asks for.
    fn write_information(
        &self,
        config: &MachineConfig,
        platform: Platform,
        memory: &GuestMemory,
    ) -> Result<(), BuildError> {
        let rsdp = acpi::write(platform, memory)?;
        let map = memory::e820(memory);
        let cmdline = config.cmdline.len();
        match self.kernel.entry {
            Entry::Linux64(_) => {
                boot_params::write(&self.kernel, self.initrd, cmdline, &map, rsdp, memory)
            }
            Entry::Pvh(_) => pvh::write(self.initrd, &map, rsdp, memory),
        }
        .map_err(BuildError::BootInformation)
    }
}

fn add_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), BuildError> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(BuildError::BootInformation)?;
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

/// Collects devices: on the buses, with their interrupts, and on the device thread.
struct Devices<'a> {
    vm: &'a VmFd,
    buses: Buses,
    subscribers: Vec<Subscriber>,
}

impl Devices<'_> {
    fn interrupt(&self, gsi: u32) -> Result<InterruptLine, BuildError> {
        let line = InterruptLine::new().map_err(resource("an interrupt line"))?;
        self.vm
            .register_irqfd(line.eventfd(), gsi)
            .map_err(kvm("connect an interrupt line"))?;
        Ok(line)
    }

    fn add_power(&mut self, events: &Arc<GuestEvents>) -> Result<(), BuildError> {
        let events = events.clone();
        let sink: PowerSink = Arc::new(move |request| {
            events.send(match request {
                PowerRequest::Off => GuestEvent::PowerOff,
                PowerRequest::Reset => GuestEvent::Reset,
            });
        });
        let acpi = Arc::new(AcpiPower::new(sink.clone()));
        self.buses
            .ports
            .insert(layout::ACPI_PORT.into(), AcpiPower::LENGTH, acpi)?;
        let keyboard = Arc::new(KeyboardReset::new(sink));
        let port = layout::KEYBOARD_PORT.into();
        Ok(self
            .buses
            .ports
            .insert(port, KeyboardReset::LENGTH, keyboard)?)
    }

    fn add_serial(&mut self, output: SerialOutput) -> Result<Arc<SerialPort>, BuildError> {
        let interrupt = self.interrupt(layout::SERIAL_GSI)?;
        let serial = SerialPort::new(interrupt, output).map_err(resource("the serial port"))?;
        let serial = Arc::new(serial);
        let port = layout::SERIAL_PORT.into();
        self.buses
            .ports
            .insert(port, SerialPort::LENGTH, serial.clone())?;
        Ok(serial)
    }

    /// The balloon is the first, and so far only, virtio device.
    fn add_balloon(
        &mut self,
        options: BalloonOptions,
        memory: &GuestMemory,
        sink: BalloonSink,
    ) -> Result<Arc<Balloon>, BuildError> {
        let (address, gsi) = acpi::virtio_slot(0);
        let interrupt = Arc::new(MmioInterrupt::new(self.interrupt(gsi)?));
        let balloon = Balloon::new(options, memory.clone(), interrupt.clone(), sink)
            .map_err(resource("the balloon"))?;
        let balloon = Arc::new(balloon);
        for (queue, kick) in (0u32..).zip(balloon.kicks()) {
            let notify = IoEventAddress::Mmio(address + QUEUE_NOTIFY_OFFSET);
            self.vm
                .register_ioevent(kick, &notify, queue)
                .map_err(kvm("connect a queue's notification"))?;
        }
        let transport = MmioTransport::new(balloon.clone(), memory.clone(), interrupt);
        self.buses
            .mmio
            .insert(address, mmio::LENGTH, Arc::new(transport))?;
        self.subscribers
            .push(Box::new(BalloonEvents::new(balloon.clone())));
        Ok(balloon)
    }
}

fn create_vcpus(
    vm: &VmFd,
    cpuid: &CpuId,
    entry: Entry,
    memory: &GuestMemory,
    buses: Buses,
    events: &Arc<GuestEvents>,
) -> Result<Vec<VcpuThread>, BuildError> {
    let buses = Arc::new(buses);
    let mut threads = Vec::new();
    for index in 0..CPUS {
        let vcpu = create_vcpu(vm, cpuid, index)?;
        // The others wait for the first to wake them.
        if index == 0 {
            registers::enter(&vcpu, entry, memory)?;
        }
        let thread = VcpuThread::spawn(index, vcpu, buses.clone(), events.clone())
            .map_err(resource("a vCPU thread"))?;
        threads.push(thread);
    }
    Ok(threads)
}

fn create_vcpu(vm: &VmFd, cpuid: &CpuId, index: u8) -> Result<VcpuFd, BuildError> {
    let vcpu = vm.create_vcpu(index.into()).map_err(kvm("create a vCPU"))?;
    let leaves = cpuid::for_vcpu(cpuid, index, CPUS);
    vcpu.set_cpuid2(&leaves)
        .map_err(kvm("set a vCPU's features"))?;
    Ok(vcpu)
}
