//! What can be wrong with a kernel, an initrd or a command line.

use std::io;
use std::path::PathBuf;

use linux_loader::loader;

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
    /// There is no cache of unpacked kernels.
    #[error("Cannot use {} for --kernel-cache", path.display())]
    Cache {
        /// As the user gave it.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Somebody else could put another kernel into the cache.
    #[error(
        "Others can write to {}, the directory of --kernel-cache: take that from them (chmod go-w), \
         or give one that belongs to the user of this process", .0.display()
    )]
    CacheOfOthers(PathBuf),
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
