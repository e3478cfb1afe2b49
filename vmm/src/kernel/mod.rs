//! Kernels: recognised by their content, checked, and loaded.
//!
//! The checks come before linux-loader's work, since its errors cannot say what is wrong with
//! a file, nor what to do about it. `elf` and `bzimage` are the two kinds of files; a bzImage is
//! `opened` if it can be: its `payload` unpacked into a `vmlinux`, whose place `kaslr` chooses and
//! whose `relocations` are applied.

mod bzimage;
mod cache;
mod elf;
mod elf_format;
mod error;
mod image;
mod initrd;
mod kaslr;
mod lz4;
mod opened;
mod payload;
mod relocations;
mod side_by_side;
mod vmlinux;

use std::ops::Range;

use aerostat_devices::GuestMemory;
use linux_loader::bootparam::setup_header;
use vm_memory::{Bytes, GuestAddress};

use crate::config::BootMethod;
use crate::layout;

pub(crate) use cache::Cache;
pub use error::KernelError;
pub(crate) use image::Image;
pub(crate) use initrd::{Initrd, load_initrd, place_initrd};

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
    /// What it uses before it knows the memory map.
    pub(crate) range: Range<u64>,
    /// A bzImage's own header.
    pub(crate) header: Option<setup_header>,
}

/// What a kernel says of what goes along with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The first byte past everything that the kernel uses before it knows the memory map, where it
    /// is not moved.
    pub(crate) end: u64,
    /// The longest command line, without the NUL.
    pub(crate) cmdline: u64,
    /// The last address at which the initrd may end.
    pub(crate) initrd_max: u64,
}

/// A kernel file that was checked, as far as that goes without unpacking it.
#[derive(Debug)]
pub(crate) struct Checked(Form);

#[derive(Debug)]
enum Form {
    Elf(elf::Segments),
    BzImage(bzimage::Header),
}

/// The end of RAM below the hole, where kernel and initrd are.
pub(super) fn low_end(memory: &GuestMemory) -> u64 {
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    memory
        .find_region(GuestAddress(0))
        .map_or(0, GuestMemoryRegion::len)
}

/// Recognises and checks a kernel.
///
/// # Errors
/// What is wrong with the file, or that guest memory is too small for it.
pub(crate) fn check(image: &mut Image, memory: &GuestMemory) -> Result<Checked, KernelError> {
    image.refresh()?;
    if image.length() < 4 {
        return Err(image.not_a_kernel(if image.length() == 0 {
            " (the file is empty)"
        } else {
            ""
        }));
    }
    let magic: [u8; 4] = image.read_at(0)?;
    if magic == elf_format::MAGIC {
        let segments = elf::Segments::read(image, memory)?;
        return Ok(Checked(Form::Elf(segments)));
    }
    if bzimage::recognise(image)? {
        let header = bzimage::Header::read(image, memory)?;
        return Ok(Checked(Form::BzImage(header)));
    }
    Err(image.not_a_kernel(hint(magic)))
}

impl Checked {
    /// Whether it could be unpacked.
    pub(crate) fn is_compressed(&self) -> bool {
        matches!(self.0, Form::BzImage(_))
    }

    pub(crate) fn limits(&self) -> Limits {
        match &self.0 {
            Form::Elf(segments) => segments.limits(),
            Form::BzImage(header) => header.limits(),
        }
    }
}

/// How a kernel is to be booted.
#[derive(Debug)]
pub(crate) struct Boot {
    pub(crate) cmdline: String,
    pub(crate) method: BootMethod,
    /// Where it may have been unpacked before.
    pub(crate) cache: Option<Cache>,
}

/// Loads a kernel that was checked. Where it is moved, it goes where `taken` is not.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn load(
    image: &mut Image,
    checked: &Checked,
    boot: &Boot,
    taken: &Range<u64>,
    memory: &GuestMemory,
) -> Result<Kernel, KernelError> {
    let header = match &checked.0 {
        Form::Elf(segments) => return elf::load(image, segments, memory),
        Form::BzImage(header) => header,
    };
    if boot.method == BootMethod::Direct {
        match opened::load(image, header, boot, taken, memory) {
            Ok(kernel) => return Ok(kernel),
            Err(reason) => log::warn!("The guest unpacks kernel {}: {reason}", image.display()),
        }
    }
    bzimage::load(image, header, memory)
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
    limits: &Limits,
    image: &Image,
    memory: &GuestMemory,
) -> Result<(), KernelError> {
    let limit = limits.cmdline.min(layout::CMDLINE_MAX);
    if cmdline.len() as u64 > limit {
        return Err(image.cmdline_too_long(cmdline.len(), limit));
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
