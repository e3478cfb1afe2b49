//! An open kernel or initrd: what is read of it, and the errors that name it.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use linux_loader::loader;

use super::KernelError;

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
    pub(super) fn refresh(&mut self) -> Result<(), KernelError> {
        let metadata = self.file.metadata();
        self.length = metadata.map_err(|source| self.read_error(source))?.len();
        Ok(())
    }

    /// Its path, as the user gave it.
    pub(super) fn display(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// Bytes in the file, as of the last [`Self::refresh`].
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// The file, for linux-loader.
    pub(super) fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// Reads `N` bytes from `offset`.
    pub(super) fn read_at<const N: usize>(&self, offset: u64) -> Result<[u8; N], KernelError> {
        let mut bytes = [0; N];
        self.read_into(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// Fills `bytes` from `offset`. On any thread: the file has no position that moves.
    pub(super) fn read_into(&self, bytes: &mut [u8], offset: u64) -> Result<(), KernelError> {
        let needed = offset.saturating_add(bytes.len() as u64);
        if needed > self.length {
            return Err(self.truncated(needed));
        }
        let read = self.file.read_exact_at(bytes, offset);
        read.map_err(|source| self.read_error(source))
    }

    /// What is at `place`, which is inside the file.
    pub(super) fn part(&self, place: Range<u64>) -> Part<'_> {
        Part {
            image: self,
            rest: place,
        }
    }

    pub(super) fn read_error(&self, source: io::Error) -> KernelError {
        KernelError::Read {
            what: self.what,
            path: self.path.clone(),
            source,
        }
    }

    pub(super) fn truncated(&self, needed: u64) -> KernelError {
        KernelError::Truncated {
            path: self.path.clone(),
            needed,
            actual: self.length,
        }
    }

    pub(super) fn not_a_kernel(&self, hint: &'static str) -> KernelError {
        KernelError::NotAKernel {
            path: self.path.clone(),
            hint,
        }
    }

    pub(super) fn malformed(&self, reason: &'static str) -> KernelError {
        KernelError::Malformed {
            path: self.path.clone(),
            reason,
        }
    }

    pub(super) fn protocol(&self, version: u16, missing: &'static str) -> KernelError {
        KernelError::Protocol {
            path: self.path.clone(),
            version,
            missing,
        }
    }

    pub(super) fn load_address(&self, start: u64, end: u64) -> KernelError {
        KernelError::LoadAddress {
            path: self.path.clone(),
            start,
            end,
        }
    }

    pub(super) fn architecture(&self, architecture: String) -> KernelError {
        KernelError::Architecture {
            path: self.path.clone(),
            architecture,
        }
    }

    pub(super) fn cmdline_too_long(&self, length: usize, limit: u64) -> KernelError {
        KernelError::CmdlineTooLong {
            path: self.path.clone(),
            length,
            limit,
        }
    }

    pub(super) fn load_error(&self, source: loader::Error) -> KernelError {
        KernelError::Load {
            path: self.path.clone(),
            source,
        }
    }

    /// `end` is past the memory below the hole, which ends at `low_end`.
    pub(super) fn does_not_fit(&self, what: &'static str, low_end: u64, end: u64) -> KernelError {
        KernelError::DoesNotFit {
            what,
            path: self.path.clone(),
            memory_mib: low_end >> 20,
            needed_mib: end.div_ceil(1 << 20),
        }
    }
}

/// A part of a file, to be read once from its start to its end. Reading has no position in the file.
#[derive(Debug)]
pub(super) struct Part<'i> {
    image: &'i Image,
    rest: Range<u64>,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.rest.end - self.rest.start).unwrap_or(usize::MAX);
        let length = rest.min(buffer.len());
        let read = self
            .image
            .file
            .read_at(&mut buffer[..length], self.rest.start)?;
        self.rest.start += read as u64;
        Ok(read)
    }
}
