//! The host's side of guest memory: a range of this process's addresses, and the file behind it if
//! there is one.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr::{null_mut, with_exposed_provenance_mut};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use vm_memory::bitmap::{Bitmap, NewBitmap, WithBitmapSlice};

use super::backing::Backing;

/// Where the size of huge pages stands in the flags of `memfd_create` (MFD_HUGE_SHIFT).
const HUGE_SHIFT: u32 = 26;

/// A mapped range; it is unmapped when this goes.
#[derive(Debug)]
pub(super) struct Mapping {
    address: usize,
    bytes: usize,
    file: Option<File>,
}

impl Mapping {
    /// Maps `bytes` of memory at an address that is a multiple of `alignment`.
    pub(super) fn new(bytes: usize, alignment: usize, backing: Backing) -> io::Result<Self> {
        let (address, file) = match backing {
            Backing::Anonymous => (map_aligned(bytes, alignment, None)?, None),
            Backing::Memfd => {
                let file = sealed_file(bytes, MemfdFlags::empty())?;
                (map_aligned(bytes, alignment, Some(&file))?, Some(file))
            }
            Backing::HugeTlb(size) => {
                let size = MemfdFlags::from_bits_retain(size.shift() << HUGE_SHIFT);
                let file = sealed_file(bytes, MemfdFlags::HUGETLB | size)?;
                (map_reserved(bytes, &file)?, Some(file))
            }
        };
        Ok(Self {
            address,
            bytes,
            file,
        })
    }

    /// The address in this process.
    pub(super) fn address(&self) -> usize {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `bytes` at `offset` out of the file.
    ///
    /// # Errors
    /// The host's; `Errno::BADF` when there is no file.
    pub(super) fn punch(&self, offset: u64, bytes: u64) -> rustix::io::Result<()> {
        let file = self.file.as_ref().ok_or(Errno::BADF)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(file, flags, offset, bytes)
    }

    /// Has the host take memory for `bytes` at `offset` of the file, as far as there is none.
    pub(super) fn allocate(&self, offset: u64, bytes: u64) -> rustix::io::Result<()> {
        let file = self.file.as_ref().ok_or(Errno::BADF)?;
        fallocate(file, FallocateFlags::empty(), offset, bytes)
    }

    /// Has the host keep huge pages of its pool for `bytes` at `offset` of the file, as far as
    /// there are none yet.
    ///
    /// What a shared mapping reserves is the file's and outlives the mapping.
    pub(super) fn reserve(&self, offset: u64, bytes: usize) -> rustix::io::Result<()> {
        let file = self.file.as_ref().ok_or(Errno::BADF)?;
        // SAFETY: a new mapping, at an address that the host chooses, which is gone again before
        // anybody knows of it.
        unsafe {
            let address = mmap(
                null_mut(),
                bytes,
                ProtFlags::empty(),
                MapFlags::SHARED,
                file,
                offset,
            )?;
            munmap(address, bytes)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and belongs to this; whoever can reach into it
        // keeps this alive (`Keeper`).
        let _ = unsafe { munmap(with_exposed_provenance_mut(self.address), self.bytes) };
    }
}

/// A file of `bytes` that nobody can make shorter or longer.
fn sealed_file(bytes: usize, flags: MemfdFlags) -> io::Result<File> {
    let name = "aerostat-ram";
    let flags = flags | MemfdFlags::CLOEXEC;
    // Kernels before 6.3 do not know the first form, and some later ones can be told to take no
    // other.
    let fd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(name, flags | MemfdFlags::ALLOW_SEALING)?,
        result => result?,
    };
    let file = File::from(fd);
    let length = u64::try_from(bytes).map_err(io::Error::other)?;
    file.set_len(length)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(file.as_fd(), seals)?;
    Ok(file)
}

/// Maps at a multiple of `alignment` without reserving anything.
fn map_aligned(bytes: usize, alignment: usize, file: Option<&File>) -> io::Result<usize> {
    // Recent kernels align large mappings by themselves, most of the time.
    // SAFETY: the host chooses where.
    let address = unsafe { map_at(null_mut(), bytes, MapFlags::empty(), file)? };
    if address.is_multiple_of(alignment) {
        return Ok(address);
    }
    // SAFETY: just mapped, and nobody else knows of it.
    unsafe { munmap(with_exposed_provenance_mut(address), bytes)? };
    map_within_room(bytes, alignment, file)
}

/// The same on any kernel, by way of more room than is needed.
fn map_within_room(bytes: usize, alignment: usize, file: Option<&File>) -> io::Result<usize> {
    let too_large = || io::Error::from(Errno::NOMEM);
    let room = bytes.checked_add(alignment).ok_or_else(too_large)?;
    // SAFETY: a new mapping, at an address that the host chooses.
    let reserved = unsafe {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        mmap_anonymous(null_mut(), room, ProtFlags::empty(), flags)?
    };
    let start = reserved.expose_provenance();
    let aligned = start.next_multiple_of(alignment);
    let at = with_exposed_provenance_mut(aligned);
    // SAFETY: the range is part of what was just mapped, which nobody else knows of. When this
    // fails, all of it is left as it is: there might be a hole in it that is somebody else's now.
    unsafe { map_at(at, bytes, MapFlags::FIXED, file)? };
    let end = aligned + bytes;
    for (from, to) in [(start, aligned), (end, start + room)] {
        if from < to {
            // SAFETY: this part of what was mapped first is used by nobody.
            unsafe { munmap(with_exposed_provenance_mut(from), to - from)? };
        }
    }
    Ok(aligned)
}

/// Maps `bytes` of `file`, or of memory, without reserving anything.
///
/// # Safety
/// With [`MapFlags::FIXED`], nobody may use what is mapped there.
unsafe fn map_at(
    address: *mut c_void,
    bytes: usize,
    flags: MapFlags,
    file: Option<&File>,
) -> io::Result<usize> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let flags = flags | MapFlags::NORESERVE;
    // SAFETY: a new mapping, where nothing is or where the caller says that nobody uses it.
    let address = unsafe {
        match file {
            Some(file) => mmap(address, bytes, access, flags | MapFlags::SHARED, file, 0)?,
            None => mmap_anonymous(address, bytes, access, flags | MapFlags::PRIVATE)?,
        }
    };
    Ok(address.expose_provenance())
}

/// Maps huge pages and reserves all of them; the host aligns such mappings.
fn map_reserved(bytes: usize, file: &File) -> io::Result<usize> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, at an address that the host chooses.
    let address = unsafe { mmap(null_mut(), bytes, access, MapFlags::SHARED, file, 0)? };
    Ok(address.expose_provenance())
}

/// Keeps a range mapped for as long as a region of guest memory refers to it: regions carry it in
/// the place of a bitmap of dirty pages, of which there is none.
#[derive(Clone, Debug, Default)]
pub struct Keeper {
    _mapping: Option<Arc<Mapping>>,
}

impl Keeper {
    pub(super) fn of(mapping: Arc<Mapping>) -> Self {
        Self {
            _mapping: Some(mapping),
        }
    }
}

impl WithBitmapSlice<'_> for Keeper {
    type S = ();
}

impl Bitmap for Keeper {
    fn mark_dirty(&self, _offset: usize, _len: usize) {}

    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, _offset: usize) {}
}

/// For regions that vm-memory maps and unmaps itself.
impl NewBitmap for Keeper {
    fn with_len(_len: usize) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 6 << 20;
    const ALIGNMENT: usize = 2 << 20;

    /// Maps memory or a file, at an alignment.
    type Map = fn(usize, usize, Option<&File>) -> io::Result<usize>;

    #[test]
    fn every_way_to_map_gives_aligned_memory() {
        let file = sealed_file(BYTES, MemfdFlags::empty()).unwrap();
        for map in [map_aligned as Map, map_within_room] {
            for file in [None, Some(&file)] {
                let address = map(BYTES, ALIGNMENT, file).unwrap();
                assert!(address.is_multiple_of(ALIGNMENT));
                let last = with_exposed_provenance_mut::<u8>(address + BYTES - 1);
                // SAFETY: the last byte of what was mapped for this test alone.
                unsafe {
                    last.write(7);
                    assert_eq!(last.read(), 7);
                    munmap(with_exposed_provenance_mut(address), BYTES).unwrap();
                }
            }
        }
    }
}
