//! The programs whose start-up and cost at rest are compared: machines with equal memory, one CPU, a
//! balloon and a socket for their control, and the floor, which has none of these.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::error::{Error, FileContext, Result};
use crate::process;

use super::running::Running;
use super::vmm::{MEMORY_MIB, Vmm};

/// What the guest does after its byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It ends its machine, and so the process.
    End,
    /// It halts for ever.
    Halt,
}

/// The guests' kernels.
#[derive(Debug)]
pub struct Guests {
    reset: PathBuf,
    power_off: PathBuf,
    /// The one that halts.
    pub halt: PathBuf,
}

impl Guests {
    /// Writes them to `directory`.
    ///
    /// # Errors
    ///
    /// When that fails.
    pub fn write(directory: &Path) -> Result<Self> {
        let write = |name: &str, contents: Vec<u8>| {
            let path = directory.join(name);
            std::fs::write(&path, contents).file("write", &path)?;
            Ok::<_, Error>(path)
        };
        Ok(Self {
            reset: write("reset", aerostat_tiny_guest::hello_elf())?,
            power_off: write("power-off", aerostat_tiny_guest::goodbye_elf())?,
            halt: write("halt", aerostat_tiny_guest::halt_elf())?,
        })
    }
}

/// A program that runs one of the guests.
#[derive(Debug)]
pub enum Program<'a> {
    /// Ours, or QEMU.
    Vmm(&'a Vmm),
    /// `benches/floor.rs`: no more than KVM needs.
    Floor(PathBuf),
    /// Firecracker, without the socket for its control: its configuration is a file.
    Firecracker(PathBuf),
    /// Cloud Hypervisor.
    CloudHypervisor(PathBuf),
}

impl Program<'_> {
    /// Firecracker and Cloud Hypervisor, as far as they are on the search path.
    pub fn found_on_path() -> Vec<Self> {
        let firecracker = process::find_on_path("firecracker").map(Self::Firecracker);
        let cloud = process::find_on_path("cloud-hypervisor").map(Self::CloudHypervisor);
        firecracker.into_iter().chain(cloud).collect()
    }

    /// Its name in the table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vmm(Vmm::Aerostat(_)) => "aerostat",
            Self::Vmm(Vmm::Qemu(_)) => "qemu",
            Self::Floor(_) => "floor",
            Self::Firecracker(_) => "firecracker",
            Self::CloudHypervisor(_) => "cloud-hypervisor",
        }
    }

    /// Starts a guest and waits for its byte. Files and sockets of the machine with this number are in
    /// `directory`. The time from before the exec to the byte is that of the process by then.
    ///
    /// # Errors
    ///
    /// When the program cannot be started, or its guest does not say its byte.
    pub fn start(
        &self,
        guests: &Guests,
        ending: Ending,
        directory: &Path,
        number: usize,
    ) -> Result<Started> {
        let mut command = self.command(guests, ending, directory, number)?;
        let errors = directory.join("errors");
        let mut running = Running::spawn(self.name(), &mut command, &errors)?;
        // Their logs and messages may come on the same stream.
        let has_others = matches!(self, Self::Firecracker(_) | Self::CloudHypervisor(_));
        running.await_greeting(has_others)?;
        let first_byte = running.age();
        Ok(Started {
            running,
            first_byte,
        })
    }

    fn command(
        &self,
        guests: &Guests,
        ending: Ending,
        directory: &Path,
        number: usize,
    ) -> Result<Command> {
        let socket = directory.join(format!("{}-{number}", self.name()));
        let kernel = match (ending, self) {
            (Ending::Halt, _) => &guests.halt,
            // A reset makes it start the guest again. Its port for a power-off is ours too.
            (Ending::End, Self::CloudHypervisor(_)) => &guests.power_off,
            (Ending::End, _) => &guests.reset,
        };
        Ok(match self {
            Self::Vmm(vmm) => vmm.command(kernel, &[socket]),
            Self::Floor(path) => {
                let mut command = Command::new(path);
                command.arg(match ending {
                    Ending::End => "reset",
                    Ending::Halt => "halt",
                });
                command
            }
            Self::Firecracker(path) => firecracker(path, kernel, directory)?,
            Self::CloudHypervisor(path) => cloud_hypervisor(path, kernel, &socket),
        })
    }
}

/// A program whose guest has said its byte.
#[derive(Debug)]
pub struct Started {
    /// Its process.
    pub running: Running,
    /// From before the exec to the byte.
    pub first_byte: Duration,
}

fn firecracker(path: &Path, kernel: &Path, directory: &Path) -> Result<Command> {
    let configuration = firecracker_configuration(kernel).to_string();
    let file = directory.join("firecracker.json");
    std::fs::write(&file, configuration).file("write", &file)?;
    // Without one it logs to standard output, where the guest writes. It does not create it.
    let log = directory.join("firecracker.log");
    std::fs::write(&log, "").file("write", &log)?;
    let mut command = Command::new(path);
    command.args(["--no-api", "--config-file"]).arg(file);
    command.args(["--level", "Error", "--log-path"]).arg(log);
    Ok(command)
}

/// Firecracker's `docs/getting-started.md` and `docs/ballooning.md`; `drives` may not be left out.
fn firecracker_configuration(kernel: &Path) -> serde_json::Value {
    json!({
        "boot-source": {"kernel_image_path": kernel},
        "machine-config": {"vcpu_count": 1, "mem_size_mib": MEMORY_MIB},
        "balloon": {"amount_mib": 0, "deflate_on_oom": false, "stats_polling_interval_s": 0},
        "drives": [],
    })
}

fn cloud_hypervisor(path: &Path, kernel: &Path, socket: &Path) -> Command {
    // One left by the round before would be in the way.
    let _ = std::fs::remove_file(socket);
    let mut command = Command::new(path);
    command
        .arg("--kernel")
        .arg(kernel)
        .args(["--memory", &format!("size={MEMORY_MIB}M")])
        .args(["--cpus", "boot=1", "--balloon", "size=0"])
        .args(["--serial", "tty", "--console", "off", "--api-socket"])
        .arg(socket);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests() -> (tempfile::TempDir, Guests) {
        let directory = tempfile::tempdir().unwrap();
        let guests = Guests::write(directory.path()).unwrap();
        (directory, guests)
    }

    fn line(program: &Program<'_>, ending: Ending) -> String {
        let (directory, guests) = guests();
        let command = program.command(&guests, ending, directory.path(), 7);
        let line = process::describe(&command.unwrap());
        line.replace(&directory.path().display().to_string(), "D")
    }

    #[test]
    fn guest_of_cloud_hypervisor_ends_its_machine_by_a_power_off() {
        let program = Program::CloudHypervisor("ch".into());
        assert_eq!(
            line(&program, Ending::End),
            "ch --kernel D/power-off --memory size=256M --cpus boot=1 --balloon size=0 \
             --serial tty --console off --api-socket D/cloud-hypervisor-7"
        );
        assert!(line(&program, Ending::Halt).contains("--kernel D/halt "));
    }

    #[test]
    fn firecracker_reads_a_file_and_logs_to_another() {
        assert_eq!(
            line(&Program::Firecracker("fc".into()), Ending::End),
            "fc --no-api --config-file D/firecracker.json --level Error --log-path D/firecracker.log"
        );
        let configuration = firecracker_configuration(Path::new("/k"));
        assert_eq!(configuration["boot-source"]["kernel_image_path"], "/k");
        assert_eq!(configuration["machine-config"]["mem_size_mib"], 256);
    }

    #[test]
    fn output_of_the_peer_before_its_guests_byte_is_passed_over() {
        let (directory, guests) = guests();
        let stub = directory.path().join("firecracker");
        std::fs::write(&stub, "#!/bin/sh\necho Running Firecracker\nprintf '!'\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&stub, mode).unwrap();
        let program = Program::Firecracker(stub);
        let started = program.start(&guests, Ending::End, directory.path(), 0);
        started.unwrap().running.await_end().unwrap();
    }
}
