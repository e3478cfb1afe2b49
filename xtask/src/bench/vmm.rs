//! The command lines that are compared: equal memory, one CPU, a balloon, a QMP socket.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Result;
use crate::harness::tiny::DEVICE;

use super::running::Running;

/// Memory of the guests.
pub const MEMORY_MIB: u32 = 256;

/// A program that runs a virtual machine.
#[derive(Debug)]
pub enum Vmm {
    /// Ours.
    Aerostat(PathBuf),
    /// QEMU, as the machine type `microvm` with as little else as it takes.
    Qemu(PathBuf),
}

impl Vmm {
    /// The binary.
    pub fn binary(&self) -> &Path {
        match self {
            Self::Aerostat(path) | Self::Qemu(path) => path,
        }
    }

    /// A name for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Aerostat(_) => "aerostat",
            Self::Qemu(_) => "QEMU",
        }
    }

    /// Sockets in `directory` on which `clients` are served at once: QEMU serves one on each.
    pub fn sockets(&self, directory: &Path, clients: usize) -> Vec<PathBuf> {
        let count = match self {
            Self::Aerostat(_) => 1,
            Self::Qemu(_) => clients,
        };
        let path = |number| directory.join(format!("{}-{number}", self.name()));
        (0..count).map(path).collect()
    }

    /// Starts a machine whose serial port is the process's standard output, with QMP on each of
    /// `sockets`; ours has but one. What it says on its standard error is kept in `directory`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(&self, kernel: &Path, sockets: &[PathBuf], directory: &Path) -> Result<Running> {
        let mut command = self.command(kernel, sockets);
        Running::spawn(self.name(), &mut command, &directory.join("errors"))
    }

    /// The command line for such a machine.
    pub fn command(&self, kernel: &Path, sockets: &[PathBuf]) -> Command {
        let mut command = Command::new(self.binary());
        match self {
            Self::Aerostat(_) => {
                command.arg("--kernel").arg(kernel);
                command.args(["--mem", &format!("{MEMORY_MIB}M"), "--no-reboot"]);
            }
            Self::Qemu(_) => {
                command
                    .args(["-M", "microvm,rtc=off,pit=off,pic=off,isa-serial=on"])
                    // Some hosts that are virtual machines themselves list IA32_ARCH_CAPABILITIES and
                    // refuse it, by which QEMU ends.
                    .args(["-accel", "kvm", "-cpu", "host,arch-capabilities=off"])
                    .args(["-m", &MEMORY_MIB.to_string()])
                    .args([
                        "-nodefaults",
                        "-no-user-config",
                        "-display",
                        "none",
                        "-no-reboot",
                    ])
                    // The guest resets through the keyboard controller, which ours has too.
                    .args(["-device", "i8042"])
                    .args(["-serial", "stdio", "-device", "virtio-balloon-device"])
                    .arg("-kernel")
                    .arg(kernel);
            }
        }
        for socket in sockets {
            // A socket left by the round before would be in the way.
            let _ = std::fs::remove_file(socket);
            self.add_socket(&mut command, socket);
        }
        command
    }

    /// Adds the option for QMP on `socket`.
    pub fn add_socket(&self, command: &mut Command, socket: &Path) {
        match self {
            Self::Aerostat(_) => command.arg("--qmp").arg(socket),
            Self::Qemu(_) => command.args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", socket.display()),
            ]),
        };
    }

    /// Where the guest finds the registers of the balloon.
    pub fn balloon_registers(&self) -> u64 {
        match self {
            Self::Aerostat(_) => DEVICE,
            // The machine type microvm has 512 bytes for each bus; it is on virtio-mmio-bus.1.
            Self::Qemu(_) => 0xfeb0_0200,
        }
    }
}
