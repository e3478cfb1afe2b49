//! The devices of a machine: made once, on the buses, and connected to each virtual machine that
//! a reset makes.

use std::sync::Arc;

use aerostat_devices::GuestRam;
use aerostat_devices::balloon::{Balloon, BalloonEvents, BalloonOptions, BalloonSink};
use aerostat_devices::boot_timer::BootTimerPort;
use aerostat_devices::debug_exit::DebugExit;
use aerostat_devices::ioapic::IoApic;
use aerostat_devices::power::{AcpiPower, KeyboardReset, PowerButton, PowerRequest, PowerSink};
use aerostat_devices::pvpanic::{PanicNotice, PanicPort};
use aerostat_devices::serial::{SerialOutput, SerialPort};
use aerostat_devices::virtio::MmioInterrupt;
use aerostat_devices::virtio::mmio::{self, MmioTransport, QUEUE_NOTIFY_OFFSET};
use kvm_ioctls::VmFd;

use crate::boot_timer::{BootTimer, TimedOutput};
use crate::builder::{BuildError, MachineIo, resource};
use crate::coalescing::Coalescing;
use crate::config::MachineConfig;
use crate::device_thread::DeviceThread;
use crate::guest_events::{GuestEvent, GuestEvents};
use crate::link::{Notifications, VmLink};
use crate::vcpu::Buses;
use crate::{acpi, layout, memory};

/// The balloon with what it is reached through.
struct BalloonDevice {
    balloon: Arc<Balloon>,
    transport: Arc<MmioTransport>,
}

/// All devices.
pub(crate) struct DeviceSet {
    pub(crate) buses: Arc<Buses>,
    pub(crate) serial: Option<Arc<SerialPort>>,
    pub(crate) power_button: PowerButton,
    ioapic: Arc<IoApic>,
    link: Arc<VmLink>,
    balloon: Option<BalloonDevice>,
}

impl std::fmt::Debug for DeviceSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceSet")
            .field("buses", &self.buses)
            .finish_non_exhaustive()
    }
}

impl DeviceSet {
    /// Makes the devices that `config` asks for. `thread` will serve them, and starts when a driver uses
    /// one.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub(crate) fn new(
        config: &MachineConfig,
        ram: &GuestRam,
        io: MachineIo,
        timer: Option<&Arc<BootTimer>>,
        events: &Arc<GuestEvents>,
        thread: &Arc<DeviceThread>,
    ) -> Result<Self, BuildError> {
        let mut maker = Maker::new()?;
        maker.buses.ram = memory::ranges(config.memory);
        maker.add_power(events)?;
        maker.add_panic_port(events, io.crash_loaded)?;
        if config.debug_exit {
            maker.add_debug_exit(events)?;
        }
        let power_button = PowerButton::new(maker.ioapic.line(layout::POWER_BUTTON_GSI));
        let serial = io
            .serial
            .map(|output| timed(output, timer))
            .map(|output| maker.add_serial(output))
            .transpose()?;
        if let Some(timer) = timer {
            maker.add_boot_timer(timer.clone())?;
        }
        let balloon = config
            .balloon
            .map(|options| maker.add_balloon(options, ram, io.balloon, thread))
            .transpose()?;
        Ok(Self {
            buses: Arc::new(maker.buses),
            serial,
            power_button,
            ioapic: maker.ioapic,
            link: maker.link,
            balloon,
        })
    }

    /// The memory balloon, if there is one.
    pub(crate) fn balloon(&self) -> Option<&Balloon> {
        self.balloon.as_ref().map(|device| device.balloon.as_ref())
    }

    /// virtio devices behind virtio-mmio.
    pub(crate) fn virtio_count(&self) -> u8 {
        self.balloon.is_some().into()
    }

    /// Has the serial port take what KVM has kept for it.
    pub(crate) fn deliver_output(&self) {
        if let Some(coalescing) = &self.buses.coalescing {
            coalescing.deliver();
        }
    }

    /// Connects interrupts and notifications to a new virtual machine.
    pub(crate) fn connect(&self, vm: &Arc<VmFd>) {
        self.link.connect(vm);
    }

    /// Brings all devices to their state at power-on, virtio devices first: when this returns,
    /// none of them touches guest memory, and none refers to the virtual machine. The balloon keeps target
    /// and `actual`, as QEMU's does.
    pub(crate) fn reset(&self) {
        self.end_coalescing();
        if let Some(device) = &self.balloon {
            device.transport.reset();
        }
        if let Some(serial) = &self.serial {
            serial.reset();
        }
        self.ioapic.reset();
    }

    fn end_coalescing(&self) {
        if let Some(coalescing) = &self.buses.coalescing {
            coalescing.end();
        }
    }
}

/// The virtual machine can go.
impl Drop for DeviceSet {
    fn drop(&mut self) {
        self.end_coalescing();
    }
}

/// The same output, whose first byte `timer` notices, if there is one.
fn timed(output: SerialOutput, timer: Option<&Arc<BootTimer>>) -> SerialOutput {
    match timer.cloned() {
        Some(timer) => Box::new(TimedOutput { output, timer }),
        None => output,
    }
}

/// Makes devices and collects what belongs to them.
struct Maker {
    buses: Buses,
    link: Arc<VmLink>,
    ioapic: Arc<IoApic>,
}

impl Maker {
    /// With the interrupt controller alone.
    fn new() -> Result<Self, BuildError> {
        let link = Arc::new(VmLink::default());
        let way = link.clone();
        let ioapic = Arc::new(IoApic::new(Box::new(move |message| way.send(message))));
        let mut buses = Buses::default();
        let registers = u64::from(layout::IO_APIC);
        buses
            .mmio
            .insert(registers, IoApic::LENGTH, ioapic.clone())?;
        Ok(Self {
            buses,
            link,
            ioapic,
        })
    }

    fn add_power(&mut self, events: &Arc<GuestEvents>) -> Result<(), BuildError> {
        let events = events.clone();
        let sink: PowerSink = Arc::new(move |request| {
            events.send(match request {
                PowerRequest::Off => GuestEvent::PowerOff,
                PowerRequest::Reset => GuestEvent::Reset,
            });
        });
        let ports = &mut self.buses.ports;
        let acpi = Arc::new(AcpiPower::new(sink.clone()));
        ports.insert(layout::ACPI_PORT.into(), AcpiPower::LENGTH, acpi)?;
        let keyboard = Arc::new(KeyboardReset::new(sink));
        ports.insert(
            layout::KEYBOARD_PORT.into(),
            KeyboardReset::LENGTH,
            keyboard,
        )?;
        Ok(())
    }

    fn add_panic_port(
        &mut self,
        events: &Arc<GuestEvents>,
        crash_loaded: Box<dyn Fn() + Send + Sync>,
    ) -> Result<(), BuildError> {
        let events = events.clone();
        let port = PanicPort::new(Box::new(move |notice| match notice {
            PanicNotice::Panicked => events.send(GuestEvent::Panicked),
            PanicNotice::CrashLoaded => crash_loaded(),
        }));
        let ports = &mut self.buses.ports;
        ports.insert(layout::PANIC_PORT.into(), PanicPort::LENGTH, Arc::new(port))?;
        Ok(())
    }

    fn add_debug_exit(&mut self, events: &Arc<GuestEvents>) -> Result<(), BuildError> {
        let events = events.clone();
        let port = DebugExit::new(Box::new(move |status| {
            events.send(GuestEvent::Exit(status));
        }));
        let ports = &mut self.buses.ports;
        ports.insert(
            layout::DEBUG_EXIT_PORT.into(),
            DebugExit::LENGTH,
            Arc::new(port),
        )?;
        Ok(())
    }

    fn add_boot_timer(&mut self, timer: Arc<BootTimer>) -> Result<(), BuildError> {
        let port = BootTimerPort::new(Box::new(move |code| timer.report(code)));
        let ports = &mut self.buses.ports;
        ports.insert(
            layout::BOOT_TIMER_PORT.into(),
            BootTimerPort::LENGTH,
            Arc::new(port),
        )?;
        Ok(())
    }

    fn add_serial(&mut self, output: SerialOutput) -> Result<Arc<SerialPort>, BuildError> {
        let interrupt = self.ioapic.line(layout::SERIAL_GSI);
        let serial = SerialPort::new(interrupt, output).map_err(resource("the serial port"))?;
        let serial = Arc::new(serial);
        let ports = &mut self.buses.ports;
        ports.insert(
            layout::SERIAL_PORT.into(),
            SerialPort::LENGTH,
            serial.clone(),
        )?;
        self.buses.coalescing = Some(Coalescing::new(serial.clone(), self.link.clone()));
        Ok(serial)
    }

    /// The balloon is the first, and so far only, virtio device.
    fn add_balloon(
        &mut self,
        options: BalloonOptions,
        ram: &GuestRam,
        sink: BalloonSink,
        thread: &Arc<DeviceThread>,
    ) -> Result<BalloonDevice, BuildError> {
        let (address, gsi) = acpi::virtio_slot(0);
        let interrupt = Arc::new(MmioInterrupt::new(self.ioapic.line(gsi)));
        let balloon = Balloon::new(options, ram.clone(), interrupt.clone(), sink)
            .map_err(resource("the balloon"))?;
        let balloon = Arc::new(balloon);
        let notifications = Notifications::new(self.link.clone(), address + QUEUE_NOTIFY_OFFSET);
        thread.add(Box::new(BalloonEvents::new(balloon.clone())));
        let events = balloon.clone();
        // The machine has it; the last that it does before that goes is to stop its vCPUs.
        let thread = Arc::downgrade(thread);
        let before_activation = move || {
            if let Some(thread) = thread.upgrade() {
                thread.start()?;
            }
            notifications.connect(events.kicks());
            Ok(())
        };
        let transport = MmioTransport::new(balloon.clone(), ram.memory().clone(), interrupt)
            .before_activation(Box::new(before_activation));
        let transport = Arc::new(transport);
        self.buses
            .mmio
            .insert(address, mmio::LENGTH, transport.clone())?;
        Ok(BalloonDevice { balloon, transport })
    }
}
