//! Where the console's output is written: standard output, or a file.
//!
//! Writing may block, and runs on the thread of its output, unless that is known not to block; opening
//! does not, and runs on the control thread.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use rustix::stdio::stdout;

use super::output::Sink;

/// Why a file cannot take the console's output.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Somebody else holds the lock.
    #[error(
        "Console file {} is in use: stop the process that writes to it, or use another path",
        path.display()
    )]
    InUse {
        /// As the user gave it.
        path: PathBuf,
    },
    /// It cannot be opened or emptied.
    #[error("Cannot write the console to {}", path.display())]
    Open {
        /// As the user gave it.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Something that takes the console's output.
#[derive(Debug)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// A file of any kind.
    File {
        /// As the user gave it.
        path: PathBuf,
        /// Open for writing.
        file: File,
    },
}

impl Target {
    /// Opens the file at `path`, and makes it where there is none.
    ///
    /// A regular file is locked (flock(2)) for as long as the target lives and only then emptied,
    /// so that two machines never write over each other. A FIFO is opened for reading too: then
    /// nobody waits for its reader, who may also leave and come again; what is in it when the
    /// process ends while no reader has it open is lost. Terminals and devices are written as
    /// they are.
    ///
    /// # Errors
    /// [`TargetError::InUse`] when another process, or another target of this one, writes to the
    /// same regular file; [`TargetError::Open`] when it may not be written.
    pub fn file(path: &Path) -> Result<Self, TargetError> {
        let failed = |source| TargetError::Open {
            path: path.to_owned(),
            source,
        };
        let is_fifo = fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo());
        // Non-blocking, a terminal does not wait for its line, nor a FIFO for a reader even if it
        // has come to be one since it was looked at.
        let file = File::options()
            .read(is_fifo)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(failed)?;
        if file.metadata().map_err(failed)?.is_file() {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(TargetError::InUse {
                        path: path.to_owned(),
                    });
                }
                // Some network file systems have no locks.
                Err(error) => log::warn!(
                    "{} cannot be locked: another machine could write over it: {}",
                    path.display(),
                    io::Error::from(error)
                ),
            }
            file.set_len(0).map_err(failed)?;
        }
        Ok(Self::File {
            path: path.to_owned(),
            file,
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdout => stdout(),
            Self::File { file, .. } => file.as_fd(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File { path, .. } => path.display().fmt(f),
        }
    }
}

impl Sink for Target {
    /// Nothing where the host's kernel cannot say whether it would wait, as for terminals.
    fn write_now(&mut self, bytes: &[u8]) -> usize {
        // In place of an offset: where the file is, and from there on.
        const HERE: u64 = u64::MAX;
        let pieces = [IoSlice::new(bytes)];
        pwritev2(self.fd(), &pieces, HERE, ReadWriteFlags::NOWAIT).unwrap_or(0)
    }
}

impl Write for Target {
    /// Waits for room, also where another process that shares standard output has made it
    /// non-blocking.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.fd(), bytes) {
                Err(Errno::AGAIN) => {
                    poll(
                        &mut [PollFd::from_borrowed_fd(self.fd(), PollFlags::OUT)],
                        None,
                    )?;
                }
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::thread;

    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use rustix::pipe::{PipeFlags, pipe_with};
    use tempfile::TempDir;

    use super::*;

    fn directory() -> TempDir {
        TempDir::new().unwrap()
    }

    #[test]
    fn regular_file_is_emptied() {
        let directory = directory();
        let path = directory.path().join("log");
        fs::write(&path, "of the last machine").unwrap();
        let mut target = Target::file(&path).unwrap();
        target.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn file_in_use_is_refused_in_one_line_and_keeps_its_content() {
        let directory = directory();
        let path = directory.path().join("log");
        let mut first = Target::file(&path).unwrap();
        first.write_all(b"mine").unwrap();

        let refusal = Target::file(&path).unwrap_err().to_string();

        assert!(
            refusal.contains("log is in use") && !refusal.contains('\n'),
            "{refusal}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn file_is_free_again_after_its_target() {
        let directory = directory();
        let path = directory.path().join("log");
        drop(Target::file(&path).unwrap());
        assert!(Target::file(&path).is_ok());
    }

    #[test]
    fn file_in_no_directory_is_named() {
        let refusal = Target::file(Path::new("/no/where")).unwrap_err();
        assert_eq!(refusal.to_string(), "Cannot write the console to /no/where");
    }

    #[test]
    fn devices_are_shared() {
        let null = || Target::file(Path::new("/dev/null"));
        let (mut first, second) = (null().unwrap(), null());
        first.write_all(b"x").unwrap();
        assert!(second.is_ok());
    }

    #[test]
    fn fifo_is_opened_and_written_before_its_reader_comes() {
        let directory = directory();
        let path = directory.path().join("fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let mut target = Target::file(&path).unwrap();
        target.write_all(b"early").unwrap();

        let mut reader = File::open(&path).unwrap();
        drop(target);

        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "early");
    }

    #[test]
    fn what_is_written_at_once_goes_on_where_the_rest_ended() {
        let directory = directory();
        let path = directory.path().join("log");
        let mut target = Target::file(&path).unwrap();
        target.write_all(b"one").unwrap();
        // Not every file system can tell whether it would wait.
        let written = target.write_now(b"two");
        target.write_all(&b"two"[written..]).unwrap();
        target.write_all(b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"onetwothree");
    }

    #[test]
    fn nothing_is_written_at_once_to_a_full_pipe() {
        let (_reader, writer) = io::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        let mut target = Target::File {
            path: "pipe".into(),
            file: std::os::fd::OwnedFd::from(writer).into(),
        };
        target.write_all(&[b'x'; 4096]).unwrap();
        assert_eq!(target.write_now(b"y"), 0);
    }

    #[test]
    fn full_non_blocking_pipe_is_waited_for() {
        const MORE_THAN_A_PIPE_HOLDS: usize = 1 << 20;
        let (reader, writer) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
        rustix::io::ioctl_fionbio(&reader, false).unwrap();
        let counter = thread::spawn(move || {
            let mut bytes = Vec::new();
            File::from(reader).read_to_end(&mut bytes).unwrap();
            bytes.len()
        });
        let mut target = Target::File {
            path: "pipe".into(),
            file: writer.into(),
        };
        target
            .write_all(&vec![b'x'; MORE_THAN_A_PIPE_HOLDS])
            .unwrap();
        drop(target);
        assert_eq!(counter.join().unwrap(), MORE_THAN_A_PIPE_HOLDS);
    }
}
