//! What is in memory before the guest starts: kernel, initrd, command line, ACPI tables, what the
//! kernel's entry protocol asks for, and the one thing that is left of a BIOS.

use std::fmt;
use std::panic::resume_unwind;
use std::thread;

use aerostat_devices::GuestMemory;
use aerostat_devices::power::ACPI_RESET_VALUE;
use vm_memory::{Bytes, GuestAddress};

use crate::acpi::{self, AcpiError, Platform};
use crate::builder::{BuildError, resource};
use crate::config::{BootMethod, MachineConfig};
use crate::kernel::Entry;
use crate::kernel::{self, Boot, Cache, Checked, Image, Initrd, Kernel, KernelError};
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
    kernel: KernelFile,
    initrd: Option<Image>,
}

/// A kernel, and how it is to be booted.
#[derive(Debug)]
struct KernelFile {
    image: Image,
    boot: Boot,
}

impl KernelFile {
    fn load(&mut self, planned: &Planned, memory: &GuestMemory) -> Result<Kernel, KernelError> {
        let taken = planned.initrd.map_or(0..0, |initrd| initrd.range());
        let checked = &planned.checked;
        kernel::load(&mut self.image, checked, &self.boot, &taken, memory)
    }
}

/// Files that were checked, and where the initrd goes.
#[derive(Debug)]
pub(crate) struct Planned {
    checked: Checked,
    initrd: Option<Initrd>,
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
        let cache = config.kernel_cache.as_deref();
        let boot = Boot {
            cmdline: config.cmdline.clone(),
            method: config.boot,
            cache: cache.map(Cache::open).transpose()?,
        };
        Ok(Self {
            kernel: KernelFile {
                image: Image::kernel(&config.kernel)?,
                boot,
            },
            initrd: config.initrd.as_deref().map(Image::initrd).transpose()?,
        })
    }

    /// Checks the files, as far as that goes without unpacking them, and that they fit into `memory`;
    /// the command line is there afterwards.
    ///
    /// # Errors
    /// What is wrong with one of them, or that they do not fit.
    pub(crate) fn plan(&mut self, memory: &GuestMemory) -> Result<Planned, KernelError> {
        let KernelFile { image, boot } = &mut self.kernel;
        let checked = kernel::check(image, memory)?;
        let limits = checked.limits();
        kernel::write_cmdline(&boot.cmdline, &limits, image, memory)?;
        let initrd = self.initrd.as_mut();
        let initrd = initrd.map(|image| kernel::place_initrd(image, &limits, memory));
        Ok(Planned {
            checked,
            initrd: initrd.transpose()?,
        })
    }

    /// Loads the files into `memory`: the initrd while a thread unpacks the kernel, where both are to be
    /// done.
    ///
    /// # Errors
    /// What is wrong with one of them, or that there is no thread.
    pub(crate) fn load(
        &mut self,
        planned: &Planned,
        memory: &GuestMemory,
    ) -> Result<Loaded, BuildError> {
        let (file, initrd) = (&mut self.kernel, self.initrd.as_mut());
        let unpacks = file.boot.method == BootMethod::Direct && planned.checked.is_compressed();
        let kernel = if unpacks && planned.initrd.is_some() {
            thread::scope(|scope| {
                let builder = thread::Builder::new().name("loader".to_owned());
                let kernel = builder.spawn_scoped(scope, || file.load(planned, memory));
                let kernel = kernel.map_err(resource("a thread that loads the kernel"))?;
                load_initrd(initrd, planned, memory)?;
                let kernel = kernel.join().unwrap_or_else(|panic| resume_unwind(panic));
                Ok::<_, BuildError>(kernel?)
            })?
        } else {
            load_initrd(initrd, planned, memory)?;
            file.load(planned, memory)?
        };
        Ok(Loaded {
            kernel,
            initrd: planned.initrd,
            cmdline_bytes: self.kernel.boot.cmdline.len(),
        })
    }
}

fn load_initrd(
    image: Option<&mut Image>,
    planned: &Planned,
    memory: &GuestMemory,
) -> Result<(), KernelError> {
    match (image, planned.initrd) {
        (Some(image), Some(initrd)) => kernel::load_initrd(image, initrd, memory),
        _ => Ok(()),
    }
}

/// Where they are.
impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x?}, initrd {:x?}", self.kernel.entry, self.initrd)
    }
}

impl Loaded {
    /// The kernel: where it is, and how the first vCPU enters it.
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
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
