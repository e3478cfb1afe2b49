//! A machine and the server that serves it, put together from the options.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use aerostat_devices::serial::SerialPort;
use aerostat_qmp::{Listener, Server};
use aerostat_vmm::{BootTimer, MachineIo, Mmio, Observers};

use crate::cli::{Options, SerialArgument};
use crate::console::Console;
use crate::failure::Failure;
use crate::machine::{Description, MachineHandle, Policy, balloon_sink, crash_loaded_sink};
use crate::populating;

/// What there is before anything runs.
#[derive(Debug)]
pub struct Assembly {
    /// The machine; its guest has not started.
    pub machine: MachineHandle,
    /// The server, if there are sockets.
    pub server: Option<Server<MachineHandle>>,
    /// The serial port, if there is a console.
    pub serial: Option<Arc<SerialPort>>,
    /// Where this process has guest memory.
    pub ram_addresses: Vec<Range<usize>>,
    /// The devices as the guest will find them.
    pub mmio: Mmio,
}

/// A failure to get something from the host.
pub(crate) fn resource(what: &'static str) -> impl Fn(io::Error) -> Failure {
    move |source| Failure::Resource { what, source }
}

/// Builds the machine, and the server of the listeners that `outside` has; the serial port is on the
/// console that it has. The process began at `begun`.
///
/// # Errors
/// Those of `outside`, or why the machine cannot be built.
pub fn assemble(
    options: &Options,
    begun: Instant,
    outside: impl FnOnce() -> Result<(Vec<Listener>, Option<Console>), Failure> + Send,
) -> Result<Assembly, Failure> {
    let (sender, receiver) = aerostat_qmp::events::channel().map_err(resource("events"))?;
    let config = options.machine();
    let observers = Observers {
        ram: populating::watch(options.timeout),
        boot_timer: options.boot_timer.then(|| Arc::new(BootTimer::new(begun))),
    };
    let mut listeners = Vec::new();
    let io = || {
        let (opened, console) = outside()?;
        listeners = opened;
        Ok::<_, Failure>(MachineIo {
            serial: console.map(|console| Box::new(console) as _),
            balloon: balloon_sink(config.memory, sender.clone()),
            crash_loaded: crash_loaded_sink(sender.clone()),
        })
    };
    let machine = aerostat_vmm::build(&config, observers, io)?;
    let serial = machine.serial().cloned();
    let mmio = machine.mmio();
    let ram_addresses = machine.ram_addresses().collect();
    let machine = MachineHandle::new(machine, policy(options), description(options), sender);
    let server = (!listeners.is_empty())
        .then(|| Server::new(listeners, receiver, machine.clone()))
        .transpose()
        .map_err(resource("QMP"))?;
    let server = server.map(|mut server| {
        if let Some(balloon) = &options.balloon {
            server.set_steering(balloon.steering);
        }
        server
    });
    Ok(Assembly {
        machine,
        server,
        serial,
        ram_addresses,
        mmio,
    })
}

fn policy(options: &Options) -> Policy {
    Policy {
        no_reboot: options.no_reboot,
        no_shutdown: options.no_shutdown,
        on_panic: options.on_panic,
        on_error: options.on_error,
        on_term: options.on_term,
    }
}

fn description(options: &Options) -> Description {
    let default = Description::default();
    let console = |argument: &SerialArgument| match argument {
        SerialArgument::Stdio => "stdio".to_owned(),
        SerialArgument::File(_) => "file".to_owned(),
    };
    let balloon = options.balloon.clone();
    Description {
        name: options.name.clone(),
        uuid: options.uuid.clone().unwrap_or(default.uuid),
        balloon_id: balloon.map(|balloon| balloon.id).unwrap_or_default(),
        consoles: options.serial.iter().map(console).collect(),
    }
}
