//! A lock on a path, for the moment in which a server takes it.
//!
//! It is a file beside the path, locked by `flock(2)` and removed with the lock. The kernel
//! unlocks it when its holder dies; the file that stays behind then is used and removed by the
//! next. Only who may write in the directory can hold the lock, and could as well put something
//! else at the path. A lock on the directory itself would need no file, but whoever may read the
//! directory could hold it for as long as they like, and some do so by convention: systemd-tmpfiles
//! leaves alone what lies in a locked directory.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, lstat, open, unlink};
use rustix::io::Errno;

/// What the name of the lock's file has in addition to that of the path.
const SUFFIX: &str = ".aerostat-lock";

/// How long to wait before looking again whether the lock is free.
const RETRY: Duration = Duration::from_millis(2);

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct PathLock {
    file: OwnedFd,
    path: PathBuf,
}

impl PathLock {
    /// The file that locks `path`.
    pub fn file_of(path: &Path) -> PathBuf {
        let mut name = OsString::from(path);
        name.push(SUFFIX);
        name.into()
    }

    /// Locks `path`. Tries for `limit`, and once at least.
    ///
    /// # Errors
    ///
    /// `WOULDBLOCK` if another process holds the lock all that time; those of `open` and `flock`.
    pub fn acquire(path: &Path, limit: Duration) -> Result<Self, Errno> {
        let path = Self::file_of(path);
        let end = Instant::now() + limit;
        loop {
            if let Some(file) = try_lock(&path)? {
                return Ok(Self { file, path });
            }
            if Instant::now() >= end {
                return Err(Errno::WOULDBLOCK);
            }
            sleep(RETRY);
        }
    }
}

impl Drop for PathLock {
    fn drop(&mut self) {
        // Before the file is closed and thereby unlocked: whoever locks it after that finds that
        // it has gone, and does not rely on it.
        if is_at(&self.file, &self.path) == Ok(true) {
            // If this fails, the next to lock the path removes the file.
            let _ = unlink(&self.path);
        }
    }
}

/// Opens and locks the file at `path`; `None` if somebody else has it.
fn try_lock(path: &Path) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = open(path, flags, Mode::RUSR | Mode::WUSR)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(is_at(&file, path)?.then_some(file)),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Whether `file` is what `path` names.
fn is_at(file: &OwnedFd, path: &Path) -> Result<bool, Errno> {
    let file = fstat(file)?;
    match lstat(path) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (file.st_dev, file.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        (dir, path)
    }

    #[test]
    fn lock_is_held_until_dropped_and_leaves_nothing() {
        let (dir, path) = place();
        let lock = PathLock::acquire(&path, LONG).unwrap();
        let second = PathLock::acquire(&path, Duration::from_millis(10));
        assert_eq!(second.unwrap_err(), Errno::WOULDBLOCK);
        drop(lock);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        PathLock::acquire(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn file_that_a_killed_holder_has_left_is_used_and_removed() {
        let (dir, path) = place();
        fs::write(PathLock::file_of(&path), "").unwrap();
        drop(PathLock::acquire(&path, Duration::ZERO).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn file_removed_while_locked_is_not_a_lock() {
        let (_dir, path) = place();
        let orphan = PathLock::acquire(&path, LONG).unwrap();
        fs::remove_file(PathLock::file_of(&path)).unwrap();
        let lock = PathLock::acquire(&path, Duration::ZERO).unwrap();
        drop(orphan);
        let third = PathLock::acquire(&path, Duration::ZERO);
        assert_eq!(third.unwrap_err(), Errno::WOULDBLOCK);
        drop(lock);
    }

    #[test]
    fn link_in_place_of_the_file_is_not_followed() {
        let (dir, path) = place();
        let precious = dir.path().join("precious");
        std::os::unix::fs::symlink(&precious, PathLock::file_of(&path)).unwrap();
        let lock = PathLock::acquire(&path, Duration::ZERO);
        assert_eq!(lock.unwrap_err(), Errno::LOOP);
        assert!(!precious.exists());
    }

    #[test]
    fn no_two_hold_the_lock_at_once() {
        let (_dir, path) = place();
        let holders = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = PathLock::acquire(&path, LONG).unwrap();
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        holders.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }
}
