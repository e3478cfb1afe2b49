//! The devices of a machine: made once, on the buses, and connected to each virtual machine that
//! a reset makes.

use std::sync::Arc;

use aerostat_devices::GuestRam;
use aerostat_devices::balloon::{Balloon, BalloonEvents, BalloonOptions, BalloonSink};
use aerostat_devices::debug_exit::DebugExit;
use aerostat_devices::interrupt::InterruptLine;
use aerostat_devices::power::{AcpiPower, KeyboardReset, PowerButton, PowerRequest, PowerSink};
use aerostat_devices::pvpanic::{PanicNotice, PanicPort};
use aerostat_devices::serial::{SerialOutput, SerialPort};
use aerostat_devices::virtio::MmioInterrupt;
use aerostat_devices::virtio::mmio::{self, MmioTransport, QUEUE_NOTIFY_OFFSET};
use kvm_ioctls::{IoEventAddress, VmFd};

use crate::builder::{BuildError, MachineIo, kvm, resource};
use crate::config::MachineConfig;
use crate::device_thread::Subscriber;
use crate::guest_events::{GuestEvent, GuestEvents};
use crate::vcpu::Buses;
use crate::{acpi, layout, memory};

/// An interrupt line, and the GSI that it is.
struct Line {
    interrupt: InterruptLine,
    gsi: u32,
}

/// The balloon with what it is reached through.
struct BalloonDevice {
    balloon: Arc<Balloon>,
    transport: Arc<MmioTransport>,
    address: u64,
}

/// All devices.
pub(crate) struct DeviceSet {
    pub(crate) buses: Arc<Buses>,
    pub(crate) serial: Option<Arc<SerialPort>>,
    pub(crate) power_button: PowerButton,
    balloon: Option<BalloonDevice>,
    lines: Vec<Line>,
}

impl std::fmt::Debug for DeviceSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceSet")
            .field("buses", &self.buses)
            .finish_non_exhaustive()
    }
}

impl DeviceSet {
    /// Makes the devices that `config` asks for, and says what of them the device thread serves.
    ///
    /// # Errors
    /// When the process may have no further file descriptor.
    pub(crate) fn new(
        config: &MachineConfig,
        ram: &GuestRam,
        io: MachineIo,
        events: &Arc<GuestEvents>,
    ) -> Result<(Self, Vec<Subscriber>), BuildError> {
        let mut maker = Maker::default();
        maker.buses.ram = memory::ranges(config.memory);
        maker.add_power(events)?;
        maker.add_panic_port(events, io.crash_loaded)?;
        if config.debug_exit {
            maker.add_debug_exit(events)?;
        }
        let power_button = PowerButton::new(maker.line(layout::POWER_BUTTON_GSI)?);
        let serial = io
            .serial
            .map(|output| maker.add_serial(output))
            .transpose()?;
        let balloon = config
            .balloon
            .map(|options| maker.add_balloon(options, ram, io.balloon))
            .transpose()?;
        let devices = Self {
            buses: Arc::new(maker.buses),
            serial,
            power_button,
            balloon,
            lines: maker.lines,
        };
        Ok((devices, maker.subscribers))
    }

    /// The memory balloon, if there is one.
    pub(crate) fn balloon(&self) -> Option<&Balloon> {
        self.balloon.as_ref().map(|device| device.balloon.as_ref())
    }

    /// virtio devices behind virtio-mmio.
    pub(crate) fn virtio_count(&self) -> u8 {
        self.balloon.is_some().into()
    }

    /// Connects interrupts and notifications to a new virtual machine.
    ///
    /// # Errors
    /// When KVM refuses.
    pub(crate) fn connect(&self, vm: &VmFd) -> Result<(), BuildError> {
        for line in &self.lines {
            // What the guest before a reset did not take is not for the one after it.
            line.interrupt.clear();
            vm.register_irqfd(line.interrupt.eventfd(), line.gsi)
                .map_err(kvm("connect an interrupt line"))?;
        }
        if let Some(device) = &self.balloon {
            let notify = IoEventAddress::Mmio(device.address + QUEUE_NOTIFY_OFFSET);
            for (queue, kick) in (0u32..).zip(device.balloon.kicks()) {
                vm.register_ioevent(kick, &notify, queue)
                    .map_err(kvm("connect a queue's notification"))?;
            }
        }
        Ok(())
    }

    /// Brings all devices to their state at power-on, virtio devices first: when this returns,
    /// none of them touches guest memory. The balloon keeps target and `actual`, as QEMU's does.
    pub(crate) fn reset(&self) {
        if let Some(device) = &self.balloon {
            device.transport.reset();
        }
        if let Some(serial) = &self.serial {
            serial.reset();
        }
    }
}

/// Makes devices and collects what belongs to them.
#[derive(Default)]
struct Maker {
    buses: Buses,
    lines: Vec<Line>,
    subscribers: Vec<Subscriber>,
}

impl Maker {
    fn line(&mut self, gsi: u32) -> Result<InterruptLine, BuildError> {
        let interrupt = InterruptLine::new().map_err(resource("an interrupt line"))?;
        self.lines.push(Line {
            interrupt: interrupt.clone(),
            gsi,
        });
        Ok(interrupt)
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

    fn add_serial(&mut self, output: SerialOutput) -> Result<Arc<SerialPort>, BuildError> {
        let interrupt = self.line(layout::SERIAL_GSI)?;
        let serial = SerialPort::new(interrupt, output).map_err(resource("the serial port"))?;
        let serial = Arc::new(serial);
        let ports = &mut self.buses.ports;
        ports.insert(
            layout::SERIAL_PORT.into(),
            SerialPort::LENGTH,
            serial.clone(),
        )?;
        Ok(serial)
    }

    /// The balloon is the first, and so far only, virtio device.
    fn add_balloon(
        &mut self,
        options: BalloonOptions,
        ram: &GuestRam,
        sink: BalloonSink,
    ) -> Result<BalloonDevice, BuildError> {
        let (address, gsi) = acpi::virtio_slot(0);
        let interrupt = Arc::new(MmioInterrupt::new(self.line(gsi)?));
        let balloon = Balloon::new(options, ram.clone(), interrupt.clone(), sink)
            .map_err(resource("the balloon"))?;
        let balloon = Arc::new(balloon);
        let transport = MmioTransport::new(balloon.clone(), ram.memory().clone(), interrupt);
        let transport = Arc::new(transport);
        self.buses
            .mmio
            .insert(address, mmio::LENGTH, transport.clone())?;
        self.subscribers
            .push(Box::new(BalloonEvents::new(balloon.clone())));
        Ok(BalloonDevice {
            balloon,
            transport,
            address,
        })
    }
}
