//! A machine with a balloon, ours or QEMU's, with its console, its QMP socket and what the host
//! knows of its threads.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::TempDir;

use crate::bench::vmm::Vmm;
use crate::error::{Error, FileContext, Result};
use crate::harness::console::Console;
use crate::harness::qmp::Client;
use crate::process;

use crate::bench::threads::{self, Work};

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;

/// What runs in the machine.
#[derive(Debug, Clone)]
pub struct Guest {
    /// An ELF kernel with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// Its initial file system.
    pub initrd: PathBuf,
    /// The kernel's command line.
    pub cmdline: &'static str,
    /// Its memory.
    pub mem_mib: u64,
    /// It looks for a clock, and for long where there is none: QEMU's gets one. Ours says in its
    /// ACPI tables that there is none.
    pub wants_clock: bool,
}

/// A machine whose process is ended, at the latest, when this goes out of scope.
#[derive(Debug)]
pub struct Machine {
    /// The guest's console.
    pub console: Console,
    /// A client of its QMP socket.
    pub qmp: Client,
    child: Child,
    socket: PathBuf,
    mem_bytes: u64,
    vcpus: Vec<u32>,
    // Removed after the process is gone.
    _directory: TempDir,
}

/// How a resize went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// From the command to the guest's last word.
    pub took: Duration,
    /// What the process did meanwhile, and until the guest was seen to be done.
    pub work: Work,
}

impl Machine {
    /// Starts `guest`.
    ///
    /// # Errors
    ///
    /// When the process cannot be started, or does not answer over QMP.
    pub fn start(vmm: &Vmm, guest: &Guest) -> Result<Self> {
        let directory = tempfile::tempdir().map_err(system("create a temporary directory"))?;
        let socket = directory.path().join("qmp");
        // The second is for those that ask while the first waits: QEMU serves one client on each.
        let sockets = [socket.clone(), directory.path().join("qmp2")];
        let errors = directory.path().join("stderr");
        let mut command = Command::new(vmm.binary());
        match vmm {
            Vmm::Aerostat(_) => arguments_of_ours(&mut command, guest),
            Vmm::Qemu(_) => arguments_of_qemu(&mut command, guest),
        }
        for socket in &sockets {
            vmm.add_socket(&mut command, socket);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).file("create", &errors)?)
            .spawn()
            .map_err(|source| Error::Start {
                command: process::describe(&command),
                source,
            })?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Check(
                "The machine has no standard streams".to_owned(),
            ));
        };
        let console = Console::new(input, output);
        let client = Client::connect(&socket).map_err(|error| {
            // Errors mean that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
            let said = std::fs::read_to_string(&errors).unwrap_or_default();
            let (name, cause) = (vmm.name(), crate::chain(&error));
            Error::Check(format!("{name}: {cause}; it said: {}", said.trim()))
        })?;
        let mut machine = Self {
            console,
            qmp: client,
            child,
            socket: directory.path().join("qmp2"),
            mem_bytes: guest.mem_mib * MIB,
            vcpus: Vec::new(),
            _directory: directory,
        };
        machine.vcpus = vcpu_threads(&machine.qmp.execute("query-cpus-fast")?)?;
        Ok(machine)
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A socket on which nobody is served yet.
    pub fn second_socket(&self) -> &Path {
        &self.socket
    }

    /// What the threads of the process have done so far.
    ///
    /// # Errors
    ///
    /// When it is gone.
    pub fn work(&self) -> Result<Work> {
        threads::work_of(self.pid(), &self.vcpus)
    }

    /// Asks the guest to have all its memory but `given_mib`.
    ///
    /// # Errors
    ///
    /// As [`Client::balloon`].
    pub fn ask(&mut self, given_mib: u64) -> Result<()> {
        Ok(self.qmp.balloon(self.mem_bytes - given_mib * MIB)?)
    }

    /// Asks the guest to have all its memory but `given_mib`, and takes the time until it says that
    /// it is there. Nobody asks meanwhile, which would cost the machine: the time is that of the
    /// event, which can come long after. What the machine does counts until `mark` is on the
    /// console, or else until that event.
    ///
    /// # Errors
    ///
    /// When the guest does not follow within `limit` from one event to the next.
    pub fn resize(
        &mut self,
        given_mib: u64,
        limit: Duration,
        mark: Option<&str>,
    ) -> Result<Resize> {
        let target = self.mem_bytes - given_mib * MIB;
        self.qmp.take_events();
        let before = self.work()?;
        let begun = now();
        self.qmp.balloon(target)?;
        let mut after = None;
        if let Some(mark) = mark {
            self.console.wait_for(mark, limit)?;
            after = Some(self.work()?);
        }
        loop {
            let event = self.qmp.wait_event("BALLOON_CHANGE", limit)?;
            if event["data"]["actual"].as_u64() == Some(target) {
                let after = after.map_or_else(|| self.work(), Ok)?;
                return Ok(Resize {
                    took: timestamp(&event)?.saturating_sub(begun),
                    work: after.since(before),
                });
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Errors mean that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// QEMU's balloon reports no free pages unless it is told to, so ours does not either: what the guest
/// reports while it gives would count as giving.
fn arguments_of_ours(command: &mut Command, guest: &Guest) {
    command.arg("--kernel").arg(&guest.kernel);
    command.arg("--initrd").arg(&guest.initrd);
    command.args(["--mem", &format!("{}M", guest.mem_mib)]);
    command.args(["--cmdline", guest.cmdline]);
    command.args(["--balloon", "free-page-reporting=off"]);
}

/// A microvm. The tiny guest knows its balloon by its bus, and virtio 1 alone. On bus 0 the balloon
/// would have no interrupt, which Linux needs: QEMU's second I/O APIC takes its pin 0 for pin 2.
fn arguments_of_qemu(command: &mut Command, guest: &Guest) {
    let machine = match guest.wants_clock {
        true => "microvm,rtc=on",
        false => "microvm,rtc=off,pit=off,pic=off",
    };
    command
        .args(["-M", machine])
        .args(["-accel", "kvm", "-cpu", "host"])
        .args(["-m", &guest.mem_mib.to_string()])
        .args(["-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-serial", "stdio"])
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .args(["-device", "virtio-balloon-device,bus=virtio-mmio-bus.1"])
        .arg("-kernel")
        .arg(&guest.kernel)
        .arg("-initrd")
        .arg(&guest.initrd)
        .args(["-append", guest.cmdline]);
}

fn vcpu_threads(cpus: &Value) -> Result<Vec<u32>> {
    let ids = cpus.as_array().into_iter().flatten();
    let ids = ids.filter_map(|cpu| u32::try_from(cpu["thread-id"].as_u64()?).ok());
    let ids: Vec<u32> = ids.collect();
    if ids.is_empty() {
        return Err(Error::Check(format!("The machine has no CPUs: {cpus}")));
    }
    Ok(ids)
}

/// The wall clock, which the timestamps of events are read from.
fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// When an event came about, which can be long before it was sent.
fn timestamp(event: &Value) -> Result<Duration> {
    let field = |name: &str| event["timestamp"][name].as_u64();
    let time = field("seconds").zip(field("microseconds"));
    let time =
        time.map(|(seconds, micros)| Duration::from_secs(seconds) + Duration::from_micros(micros));
    time.ok_or_else(|| Error::Check(format!("An event has no timestamp: {event}")))
}

fn system(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::System { action, source }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn threads_of_cpus_are_read_from_the_answer() {
        let answer = json!([{"cpu-index": 0, "thread-id": 7}, {"cpu-index": 1, "thread-id": 9}]);
        assert_eq!(vcpu_threads(&answer).unwrap(), [7, 9]);
        assert!(vcpu_threads(&json!([])).is_err());
    }

    #[test]
    fn timestamp_is_that_of_the_event() {
        let event = json!({"event": "X", "timestamp": {"seconds": 2, "microseconds": 500}});
        assert_eq!(timestamp(&event).unwrap(), Duration::from_micros(2_000_500));
        assert!(timestamp(&json!({"event": "X"})).is_err());
    }
}
