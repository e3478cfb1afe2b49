//! The machine of a case: the program's own, with its server, on a thread of the test. What the
//! guest does in the case is done to the device's registers in its place.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Instant;

use aerostat::assembly::{Assembly, assemble};
use aerostat::cli::{self, Options, Request};
use aerostat::event_loop::EventLoop;
use aerostat::machine::GuestWatch;
use aerostat::sockets;
use aerostat_tiny_guest::{Script, script_elf};
use aerostat_vmm::{Mmio, layout};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::qmp::Client;

/// The balloon's configuration space in the registers of its transport (virtio 1.2 §4.2.2).
const CONFIG: u64 = layout::VIRTIO_MMIO_START + 0x100;
const NUM_PAGES: u64 = CONFIG;
const ACTUAL: u64 = CONFIG + 4;

/// A machine and its server.
#[derive(Debug)]
pub struct Host {
    files: TempDir,
    mmio: Mmio,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Host {
    /// Starts a machine as the `vm` of a case describes it.
    pub fn start(vm: &Value) -> Result<Self, String> {
        let files = TempDir::new().map_err(|error| error.to_string())?;
        let options = options(vm, &files)?;
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || serve(&options, &sender));
        match receiver.recv() {
            Ok(mmio) => Ok(Self {
                files,
                mmio,
                thread: Some(thread),
            }),
            Err(_) => match thread.join() {
                Ok(ended) => Err(format!("the machine ended at once: {ended:?}")),
                Err(_) => Err("the machine panicked".to_owned()),
            },
        }
    }

    fn socket(&self, number: u64) -> PathBuf {
        self.files.path().join(format!("qmp{number}"))
    }

    /// A new connection to one of its sockets.
    pub fn connect(&self, socket: u64) -> Result<UnixStream, String> {
        UnixStream::connect(self.socket(socket)).map_err(|error| error.to_string())
    }

    /// How many pages the guest is asked to give.
    pub fn num_pages(&self) -> u32 {
        let mut bytes = [0; 4];
        self.mmio.read(NUM_PAGES, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The guest says that it has given this many pages.
    pub fn set_actual_pages(&self, pages: u64) -> Result<(), String> {
        let pages = u32::try_from(pages).map_err(|error| error.to_string())?;
        self.mmio.write(ACTUAL, &pages.to_le_bytes());
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Some cases have ended their machine.
        if let Ok(mut client) = Client::connect_now(&self.socket(1)) {
            let _ = client.execute("quit");
        }
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(Ok(())))) || std::thread::panicking());
    }
}

/// The command line that makes such a machine.
fn options(vm: &Value, files: &TempDir) -> Result<Options, String> {
    let path = |name: &str| files.path().join(name).display().to_string();
    let write = |name: &str, content: Vec<u8>| {
        std::fs::write(files.path().join(name), content).map_err(|error| error.to_string())
    };
    write("kernel", script_elf())?;
    write("script", Script::new().into_initrd())?;
    let mib = vm["mem_bytes"].as_u64().ok_or("no size")? >> 20;
    let mut arguments = vec![
        "aerostat".to_owned(),
        format!("--kernel={}", path("kernel")),
        format!("--initrd={}", path("script")),
        format!("--mem={mib}M"),
        format!("--qmp={}", path("qmp1")),
        "--serial=off".to_owned(),
    ];
    if vm["second_socket"] == true {
        arguments.push(format!("--qmp={}", path("qmp2")));
    }
    if vm["paused"] == true {
        arguments.push("--paused".to_owned());
    }
    let balloon = if vm["balloon"] == true {
        let id = vm["balloon_id"].as_str().unwrap_or("balloon0");
        let properties = vm["balloon_props"].as_str().unwrap_or_default();
        // As in QEMU unless the case says otherwise; the last of a name counts.
        format!("--balloon=id={id},free-page-reporting=off{properties}")
    } else {
        "--balloon=off".to_owned()
    };
    arguments.push(balloon);
    for argument in vm["qemu_args"].as_array().into_iter().flatten() {
        // What is called the same here but for a dash.
        let argument = argument.as_str().unwrap_or_default();
        let dash = if argument.starts_with('-') { "-" } else { "" };
        arguments.push(format!("{dash}{argument}"));
    }
    match cli::request(arguments.into_iter().map(Into::into)) {
        Ok(Request::Run(options)) => Ok(options),
        Ok(_) => Err("no machine".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Runs a machine to its end, as the program does.
fn serve(options: &Options, started: &Sender<Mmio>) -> Result<(), String> {
    let outside = || Ok((sockets::listen(options)?, None));
    let Assembly {
        machine,
        server,
        mmio,
        ..
    } = assemble(options, Instant::now(), outside).map_err(|error| error.to_string())?;
    let server = Rc::new(RefCell::new(server.ok_or("no server")?));
    let mut event_loop = EventLoop::new(machine.clone()).map_err(|error| error.to_string())?;
    event_loop.add(server.clone());
    event_loop.add(GuestWatch::new(machine.clone()));
    if !options.paused {
        machine.start().map_err(|error| error.to_string())?;
    }
    started.send(mmio).map_err(|error| error.to_string())?;
    event_loop.run();
    server
        .borrow_mut()
        .finish(std::time::Duration::from_secs(1));
    Ok(())
}
