//! What is in memory before the guest starts: kernel, initrd, command line, ACPI tables, what the
//! kernel's entry protocol asks for, and the one thing that is left of a BIOS.

use std::fmt;

use aerostat_devices::GuestMemory;
use aerostat_devices::power::ACPI_RESET_VALUE;
use vm_memory::{Bytes, GuestAddress};

use crate::acpi::{self, AcpiError, Platform};
use crate::config::MachineConfig;
use crate::kernel::{self, Entry, Image, Initrd, Kernel, KernelError};
use crate::{boot_params, layout, memory, pvh};

/// What a BIOS does when it is entered: it restarts the machine. Linux enters it to reboot where
/// ACPI is hardware-reduced, since it takes that for a sign of EFI, finds no EFI, and is left with
/// the BIOS.
///
/// In real mode: `mov dx, 0x602; mov al, 1; out dx, al; 1: hlt; jmp 1b`, with the port and value
/// of ACPI's reset register.
const RESTART: [u8; 9] = {
    let [low, high] = (layout::ACPI_PORT + 2).to_le_bytes();
    [
        0xba,
        low,
        high,
        0xb0,
        ACPI_RESET_VALUE,
        0xee,
        0xf4,
        0xeb,
        0xfd,
    ]
};

/// Boot information could not be written.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Kernel, initrd or command line are not usable.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// ACPI tables could not be written.
    #[error(transparent)]
    Acpi(#[from] AcpiError),
    /// Guest memory could not be written.
    #[error("Cannot write boot information to guest memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// The files that a machine boots from, open.
#[derive(Debug)]
pub(crate) struct BootFiles {
    kernel: Image,
    initrd: Option<Image>,
    cmdline: String,
}

/// Files that have been loaded.
#[derive(Debug)]
pub(crate) struct Loaded {
    kernel: Kernel,
    initrd: Option<Initrd>,
    cmdline_bytes: usize,
}

impl BootFiles {
    /// Opens the files that `config` names.
    ///
    /// # Errors
    /// The first that cannot be opened.
    pub(crate) fn open(config: &MachineConfig) -> Result<Self, KernelError> {
        Ok(Self {
            kernel: Image::kernel(&config.kernel)?,
            initrd: config.initrd.as_deref().map(Image::initrd).transpose()?,
            cmdline: config.cmdline.clone(),
        })
    }

    /// Checks the files and loads them into `memory`.
    ///
    /// # Errors
    /// What is wrong with one of them, or that they do not fit.
    pub(crate) fn load(&mut self, memory: &GuestMemory) -> Result<Loaded, KernelError> {
        let kernel = kernel::load_kernel(&mut self.kernel, memory)?;
        kernel::write_cmdline(&self.cmdline, &kernel, &self.kernel, memory)?;
        let initrd = match &mut self.initrd {
            Some(image) => Some(kernel::load_initrd(image, &kernel, memory)?),
            None => None,
        };
        Ok(Loaded {
            kernel,
            initrd,
            cmdline_bytes: self.cmdline.len(),
        })
    }
}

/// Where they are.
impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x?}, initrd {:x?}", self.kernel.entry, self.initrd)
    }
}

impl Loaded {
    /// Where and how the first vCPU enters the kernel.
    pub(crate) fn entry(&self) -> Entry {
        self.kernel.entry
    }

    /// Writes ACPI tables and what the entry protocol of the kernel asks for.
    ///
    /// # Errors
    /// When they do not fit into guest memory.
    pub(crate) fn write_information(
        &self,
        platform: Platform,
        memory: &GuestMemory,
    ) -> Result<(), BootError> {
        memory.write_slice(&RESTART, GuestAddress(layout::RESET_VECTOR))?;
        let rsdp = acpi::write(platform, memory)?;
        let map = memory::e820(memory);
        match self.kernel.entry {
            Entry::Linux64(_) => boot_params::write(
                &self.kernel,
                self.initrd,
                self.cmdline_bytes,
                &map,
                rsdp,
                memory,
            ),
            Entry::Pvh(_) => pvh::write(self.initrd, &map, rsdp, memory),
        }?;
        Ok(())
    }
}
