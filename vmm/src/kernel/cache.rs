//! Kernels that were unpacked before, in a directory that nobody else can write to.
//!
//! A kernel is found by the BLAKE3 hash of its compressed bytes; its file has the unpacked bytes, then
//! the hash of each 8 MiB of them, so that they are read and checked side by side. Whoever could write another kernel there could give it its right hash, too: that is
//! what the directory's and the file's owner and mode are for. The hash is for what a crash, a full disk
//! or a failing one leave.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use blake3::OUT_LEN;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, mkdir, open, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::KernelError;
use super::payload::Format;
use super::side_by_side::side_by_side;

/// Nobody but the owner may write there.
const OTHERS_WRITE: u32 = 0o022;
/// What one hash is for.
const BLOCK_BYTES: usize = 8 << 20;
/// Bytes that are read at a time, and hashed while they are still in the CPU's cache.
const PIECE_BYTES: usize = 256 << 10;

/// A directory of unpacked kernels.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: OwnedFd,
    path: PathBuf,
}

impl Cache {
    /// Opens the directory at `path`, and makes it, for this user alone, if there is none.
    ///
    /// # Errors
    /// When it cannot be had, or somebody else could write to it.
    pub(crate) fn open(path: &Path) -> Result<Self, KernelError> {
        let failure = |source: io::Error| KernelError::Cache {
            path: path.to_owned(),
            source,
        };
        match mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failure(error.into())),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(path, flags, Mode::empty());
        let directory = directory.map_err(|error| failure(error.into()))?;
        let directory = File::from(directory);
        let metadata = directory.metadata().map_err(failure)?;
        if !is_ours_alone(&metadata) {
            return Err(KernelError::CacheOfOthers(path.to_owned()));
        }
        Ok(Self {
            directory: directory.into(),
            path: path.to_owned(),
        })
    }

    /// Fills `output` with the unpacked kernel that has `key`; whether there is one.
    ///
    /// # Errors
    /// When its file is not what was stored. `output` may have been written to.
    pub(super) fn load(&self, key: &Key, output: &mut [u8]) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.directory, key.name(), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || !is_ours_alone(&metadata) {
            return Err(io::Error::other("somebody else could have written it"));
        }
        let contents = output.len() as u64;
        let mut hashes = vec![0; output.len().div_ceil(BLOCK_BYTES) * OUT_LEN];
        if metadata.len() != contents + hashes.len() as u64 {
            return Err(io::Error::other("it has another length"));
        }
        file.read_exact_at(&mut hashes, contents)?;
        let starts = (0..contents).step_by(BLOCK_BYTES);
        let blocks = starts.zip(output.chunks_mut(BLOCK_BYTES));
        let blocks = blocks.zip(hashes.chunks(OUT_LEN)).collect();
        side_by_side(blocks, |(): &mut (), ((start, block), hash)| {
            read_block(&file, start, block, hash)
        })?;
        Ok(true)
    }

    /// Keeps `contents`, the unpacked kernel that has `key`. A file that is there is replaced where
    /// `replace` says so.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn store(&self, key: &Key, contents: &[u8], replace: bool) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let mut file = File::from(openat(
            &self.directory,
            ".",
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        file.write_all(contents)?;
        for block in contents.chunks(BLOCK_BYTES) {
            file.write_all(blake3::hash(block).as_bytes())?;
        }
        // Only now has it a name, so that nobody finds a part of it.
        let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
        let name = key.name();
        if replace {
            unlinkat(&self.directory, &name, AtFlags::empty())?;
        }
        match linkat(
            CWD,
            nameless,
            &self.directory,
            &name,
            AtFlags::SYMLINK_FOLLOW,
        ) {
            // Another machine was as fast.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Where it is, as the user gave it.
    pub(super) fn display(&self) -> std::path::Display<'_> {
        self.path.display()
    }
}

/// Fills `block` from `start` of `file`, and checks it.
fn read_block(file: &File, start: u64, block: &mut [u8], hash: &[u8]) -> io::Result<()> {
    let mut hasher = blake3::Hasher::new();
    for (offset, piece) in (start..)
        .step_by(PIECE_BYTES)
        .zip(block.chunks_mut(PIECE_BYTES))
    {
        file.read_exact_at(piece, offset)?;
        hasher.update(piece);
    }
    if hasher.finalize() == *hash {
        Ok(())
    } else {
        Err(io::Error::other("its contents are not those of its hashes"))
    }
}

fn is_ours_alone(metadata: &Metadata) -> bool {
    let owner = metadata.uid();
    (owner == geteuid().as_raw() || owner == 0) && metadata.mode() & OTHERS_WRITE == 0
}

/// What a kernel is found by.
#[derive(Debug)]
pub(super) struct Key(blake3::Hash);

impl Key {
    /// That of the compressed bytes that `reader` yields.
    ///
    /// # Errors
    /// Those of `reader`.
    pub(super) fn of(format: Format, reader: impl Read) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format.to_string().as_bytes());
        hasher.update_reader(reader)?;
        Ok(Self(hasher.finalize()))
    }

    fn name(&self) -> String {
        format!("{}.vmlinux", self.0.to_hex())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use tempfile::TempDir;

    use super::*;

    fn key(bytes: &[u8]) -> Key {
        Key::of(Format::Xz, bytes).unwrap()
    }

    /// A cache with one kernel in it: the directory, the cache, the kernel's key and file.
    fn filled(contents: &[u8]) -> (TempDir, Cache, Key, PathBuf) {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("cache");
        let cache = Cache::open(&path).unwrap();
        let key = key(b"compressed");
        cache.store(&key, contents, false).unwrap();
        let file = path.join(key.name());
        (directory, cache, key, file)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn stored_kernel_is_found_by_its_key_alone() {
        let contents = vec![7; BLOCK_BYTES + 1];
        let (_directory, cache, stored, _) = filled(&contents);
        let mut output = vec![0; contents.len()];
        assert!(!cache.load(&key(b"other"), &mut output).unwrap());
        assert!(cache.load(&stored, &mut output).unwrap());
        assert_eq!(output, contents);
        let gzip = Key::of(Format::Gzip, &b"compressed"[..]).unwrap();
        assert!(!cache.load(&gzip, &mut output).unwrap());
    }

    #[test]
    fn directory_is_made_for_its_user_alone() {
        let (directory, ..) = filled(b"kernel");
        let metadata = fs::metadata(directory.path().join("cache")).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o700);
    }

    #[test]
    fn directory_that_others_can_write_to_is_refused() {
        let directory = TempDir::new().unwrap();
        for mode in [0o770, 0o707, 0o1777] {
            set_mode(directory.path(), mode);
            let refused = Cache::open(directory.path()).unwrap_err().to_string();
            assert!(refused.contains("chmod go-w"), "{refused}");
        }
        set_mode(directory.path(), 0o755);
        assert!(Cache::open(directory.path()).is_ok());
    }

    #[test]
    fn file_in_the_place_of_the_directory_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(
            Cache::open(file.path()),
            Err(KernelError::Cache { .. })
        ));
    }

    #[test]
    fn changed_cut_and_longer_files_are_noticed() {
        let (_directory, cache, key, file) = filled(b"kernel");
        let whole = fs::read(&file).unwrap();
        let mut changed = whole.clone();
        changed[2] ^= 1;
        let longer = [&whole[..], b"x"].concat();
        for contents in [&changed, &whole[..whole.len() - 1], &whole[..3], &longer] {
            fs::write(&file, contents).unwrap();
            assert!(cache.load(&key, &mut [0; 6]).is_err(), "{contents:x?}");
        }
        cache.store(&key, b"kernel", true).unwrap();
        assert!(cache.load(&key, &mut [0; 6]).unwrap());
    }

    #[test]
    fn file_that_others_could_write_is_not_taken() {
        let (_directory, cache, key, file) = filled(b"kernel");
        set_mode(&file, 0o620);
        assert!(cache.load(&key, &mut [0; 6]).is_err());
    }

    #[test]
    fn link_and_pipe_are_not_taken() {
        let (directory, cache, key, file) = filled(b"kernel");
        let elsewhere = directory.path().join("elsewhere");
        fs::rename(&file, &elsewhere).unwrap();
        symlink(&elsewhere, &file).unwrap();
        assert!(cache.load(&key, &mut [0; 6]).is_err());
        fs::remove_file(&file).unwrap();
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(CWD, &file, kind, Mode::RUSR, 0).unwrap();
        assert!(cache.load(&key, &mut [0; 6]).is_err());
    }

    #[test]
    fn kernel_that_another_machine_has_stored_meanwhile_stays() {
        let (_directory, cache, key, _) = filled(b"kernel");
        cache.store(&key, b"kernel", false).unwrap();
        assert!(cache.load(&key, &mut [0; 6]).unwrap());
    }
}
