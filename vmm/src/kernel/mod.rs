//! Kernels: recognised by their content, checked, and loaded.
//!
//! The checks come before linux-loader's work, since its errors cannot say what is wrong with
//! a file, nor what to do about it.

mod bzimage;
mod elf;
mod initrd;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aerostat_devices::GuestMemory;
use linux_loader::bootparam::setup_header;
use linux_loader::loader;
use vm_memory::{Bytes, GuestAddress};

use crate::layout;

pub(crate) use initrd::{Initrd, load_initrd};

/// A kernel or initrd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file cannot be opened.
    #[error("Cannot open {what} {}", path.display())]
    Open {
        /// "kernel" or "initrd".
        what: &'static str,
        /// As the user gave it.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The file cannot be read.
    #[error("Cannot read {what} {}", path.display())]
    Read {
        /// "kernel" or "initrd".
        what: &'static str,
        /// As the user gave it.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The content is no kernel.
    #[error("{} is not a kernel: give an x86-64 bzImage or ELF vmlinux{hint}", path.display())]
    NotAKernel {
        /// As the user gave it.
        path: PathBuf,
        /// What it looks like instead, with what to do.
        hint: &'static str,
    },
    /// A kernel for another CPU, or for 32 bits.
    #[error("{} is an ELF file for {architecture}: an x86-64 kernel is needed", path.display())]
    Architecture {
        /// As the user gave it.
        path: PathBuf,
        /// The architecture that it names.
        architecture: String,
    },
    /// An ELF file that cannot be entered as a kernel.
    #[error("{} cannot be started: {reason}", path.display())]
    Malformed {
        /// As the user gave it.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The file is shorter than its headers say.
    #[error(
        "{} is truncated: {needed} bytes are needed, it has {actual}; copy it again", path.display()
    )]
    Truncated {
        /// As the user gave it.
        path: PathBuf,
        /// The length that the headers ask for.
        needed: u64,
        /// The length of the file.
        actual: u64,
    },
    /// The boot protocol is too old or lacks the 64-bit entry.
    #[error(
        "{} has boot protocol {}.{}{missing}: 2.12 with a 64-bit entry is needed (Linux 3.8 or \
         later, built for x86-64)", path.display(), version >> 8, version & 0xff
    )]
    Protocol {
        /// As the user gave it.
        path: PathBuf,
        /// The version in the header, major and minor in a byte each.
        version: u16,
        /// What else is missing.
        missing: &'static str,
    },
    /// Not enough guest memory.
    #[error(
        "{what} {} does not fit into {memory_mib} MiB of guest memory: give at least {needed_mib}M \
         with --mem", path.display()
    )]
    DoesNotFit {
        /// "Kernel" or "Initrd".
        what: &'static str,
        /// As the user gave it.
        path: PathBuf,
        /// Guest memory.
        memory_mib: u64,
        /// What would do.
        needed_mib: u64,
    },
    /// The kernel asks for addresses that are no guest memory.
    #[error(
        "Kernel {} wants to be loaded at {start:#x}..{end:#x}, where a machine has no memory",
        path.display()
    )]
    LoadAddress {
        /// As the user gave it.
        path: PathBuf,
        /// First address.
        start: u64,
        /// Address after the last.
        end: u64,
    },
    /// The command line is longer than the kernel takes.
    #[error("The command line has {length} bytes; kernel {} takes {limit}", path.display())]
    CmdlineTooLong {
        /// The kernel, as the user gave it.
        path: PathBuf,
        /// Bytes in the command line.
        length: usize,
        /// Bytes that the kernel takes.
        limit: u64,
    },
    /// The command line cannot be stored.
    #[error("The command line contains a NUL byte")]
    CmdlineNul,
    /// linux-loader failed where the checks above had passed.
    #[error("Cannot load kernel {}", path.display())]
    Load {
        /// As the user gave it.
        path: PathBuf,
        /// linux-loader's error.
        #[source]
        source: loader::Error,
    },
    /// Guest memory could not be written.
    #[error("Cannot write to guest memory")]
    Memory(#[source] vm_memory::GuestMemoryError),
}

/// How the first vCPU enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Linux boot protocol, 64-bit: long mode, RSI = zero page.
    Linux64(GuestAddress),
    /// PVH: 32-bit protected mode without paging, EBX = start info.
    Pvh(GuestAddress),
}

/// A kernel in guest memory.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) entry: Entry,
    /// The first byte past everything that the kernel uses before it knows the memory map.
    pub(crate) end: u64,
    /// A bzImage's own header.
    pub(crate) header: Option<setup_header>,
    /// The longest command line, without the NUL.
    pub(crate) cmdline_limit: u64,
    /// The last address at which the initrd may end.
    pub(crate) initrd_max: u64,
}

/// An open kernel or initrd, with what messages about it need. It stays open for as long as the
/// machine lives, so that a reset loads the same file again, whatever its path names by then.
#[derive(Debug)]
pub(crate) struct Image {
    path: PathBuf,
    what: &'static str,
    file: File,
    length: u64,
}

impl Image {
    /// Opens a kernel.
    ///
    /// # Errors
    /// When there is none, or not a regular file.
    pub(crate) fn kernel(path: &Path) -> Result<Self, KernelError> {
        Self::open(path, "kernel")
    }

    /// Opens an initrd.
    ///
    /// # Errors
    /// When there is none, or not a regular file.
    pub(crate) fn initrd(path: &Path) -> Result<Self, KernelError> {
        Self::open(path, "initrd")
    }

    fn open(path: &Path, what: &'static str) -> Result<Self, KernelError> {
        let open_error = |source| KernelError::Open {
            what,
            path: path.to_owned(),
            source,
        };
        // A pipe without a writer is not to be waited for.
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(open_error)?;
        let metadata = file.metadata().map_err(open_error)?;
        if !metadata.is_file() {
            let kind = if metadata.is_dir() {
                io::ErrorKind::IsADirectory.into()
            } else {
                io::Error::other("it is not a regular file")
            };
            return Err(open_error(kind));
        }
        Ok(Self {
            path: path.to_owned(),
            what,
            file,
            length: metadata.len(),
        })
    }

    /// Looks at the file's length again: somebody may have written to it since it was loaded.
    fn refresh(&mut self) -> Result<(), KernelError> {
        let metadata = self.file.metadata();
        self.length = metadata.map_err(|source| self.read_error(source))?.len();
        Ok(())
    }

    /// Reads `N` bytes from `offset`.
    fn read_at<const N: usize>(&mut self, offset: u64) -> Result<[u8; N], KernelError> {
        let needed = offset.saturating_add(N as u64);
        if needed > self.length {
            return Err(self.truncated(needed));
        }
        let mut bytes = [0; N];
        self.file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|source| self.read_error(source))?;
        Ok(bytes)
    }

    fn read_error(&self, source: io::Error) -> KernelError {
        KernelError::Read {
            what: self.what,
            path: self.path.clone(),
            source,
        }
    }

    fn truncated(&self, needed: u64) -> KernelError {
        KernelError::Truncated {
            path: self.path.clone(),
            needed,
            actual: self.length,
        }
    }

    fn not_a_kernel(&self, hint: &'static str) -> KernelError {
        KernelError::NotAKernel {
            path: self.path.clone(),
            hint,
        }
    }

    fn malformed(&self, reason: &'static str) -> KernelError {
        KernelError::Malformed {
            path: self.path.clone(),
            reason,
        }
    }

    fn load_error(&self, source: loader::Error) -> KernelError {
        KernelError::Load {
            path: self.path.clone(),
            source,
        }
    }

    /// `end` is past the memory below the hole, which ends at `low_end`.
    fn does_not_fit(&self, what: &'static str, low_end: u64, end: u64) -> KernelError {
        KernelError::DoesNotFit {
            what,
            path: self.path.clone(),
            memory_mib: low_end >> 20,
            needed_mib: end.div_ceil(1 << 20),
        }
    }
}

/// The end of RAM below the hole, where kernel and initrd are.
pub(super) fn low_end(memory: &GuestMemory) -> u64 {
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    memory
        .find_region(GuestAddress(0))
        .map_or(0, GuestMemoryRegion::len)
}

/// Recognises, checks and loads a kernel.
///
/// # Errors
/// What is wrong with the file, or that guest memory is too small for it.
pub(crate) fn load_kernel(image: &mut Image, memory: &GuestMemory) -> Result<Kernel, KernelError> {
    image.refresh()?;
    if image.length < 4 {
        return Err(image.not_a_kernel(if image.length == 0 {
            " (the file is empty)"
        } else {
            ""
        }));
    }
    let magic: [u8; 4] = image.read_at(0)?;
    if magic == *b"\x7fELF" {
        return elf::load(image, memory);
    }
    if bzimage::recognise(image)? {
        return bzimage::load(image, memory);
    }
    Err(image.not_a_kernel(hint(magic)))
}

/// What a file that is no kernel looks like.
fn hint(magic: [u8; 4]) -> &'static str {
    match magic {
        [0x1f, 0x8b, ..] => " (this is a gzip file: unpack it first)",
        [0x28, 0xb5, 0x2f, 0xfd] => " (this is a zstd file: unpack it first)",
        [0xfd, b'7', b'z', b'X'] => " (this is an xz file: unpack it first)",
        [b'0', b'7', b'0', b'7'] => " (this is a cpio archive: it belongs behind --initrd)",
        _ => "",
    }
}

/// Puts the command line where the kernel is told to look for it.
///
/// # Errors
/// When it is longer than the kernel takes, or has a NUL in it.
pub(crate) fn write_cmdline(
    cmdline: &str,
    kernel: &Kernel,
    image: &Image,
    memory: &GuestMemory,
) -> Result<(), KernelError> {
    let limit = kernel.cmdline_limit.min(layout::CMDLINE_MAX);
    if cmdline.len() as u64 > limit {
        return Err(KernelError::CmdlineTooLong {
            path: image.path.clone(),
            length: cmdline.len(),
            limit,
        });
    }
    if cmdline.contains('\0') {
        return Err(KernelError::CmdlineNul);
    }
    let bytes = [cmdline.as_bytes(), b"\0"].concat();
    memory
        .write_slice(&bytes, GuestAddress(layout::CMDLINE))
        .map_err(KernelError::Memory)
}

#[cfg(test)]
mod tests;
