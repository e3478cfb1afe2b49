//! The log: warnings to standard error, or more, or to a file.
//!
//! Any thread may log, those of the guest's CPUs too, so none waits for whoever reads the log: what
//! does not go out at once is lost, and the next line that does go out says so.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use aerostat_vmm::BootTimer;
use env_logger::{Builder, Target};
use log::LevelFilter;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Starts the log. `verbose` counts from 0 (warnings) to 3 (everything); the lines of the boot timer
/// are in it in any case if `boot_timer` says so.
///
/// # Errors
/// When the file cannot be written.
pub fn start(verbose: u8, boot_timer: bool, file: Option<&Path>) -> io::Result<()> {
    let level = match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    let mut builder = Builder::new();
    builder.filter_level(level).format_target(false);
    if verbose < 2 {
        // It reports each fault of a guest, as often as the guest likes; the devices count them
        // and log at a limited rate.
        builder.filter_module("virtio_queue", LevelFilter::Off);
    }
    if boot_timer {
        builder.filter_module(BootTimer::LOG_TARGET, level.max(LevelFilter::Info));
    }
    builder.target(Target::Pipe(match file {
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            Box::new(Unwaiting::new(file))
        }
        None => Box::new(Unwaiting::new(io::stderr())),
    }));
    builder.init();
    Ok(())
}

/// What a pipe that is ready takes without waiting (`PIPE_BUF`).
const PIECE_BYTES: usize = 4096;

/// An output for whole lines that never waits.
#[derive(Debug)]
struct Unwaiting<W> {
    output: W,
    /// Lines, each given to one `write`, that are not in the output, or not whole.
    lost: u64,
}

impl<W: Write + AsFd> Unwaiting<W> {
    fn new(output: W) -> Self {
        Self { output, lost: 0 }
    }

    /// Writes as much as goes out at once; whether that was all.
    fn write_now(&mut self, bytes: &[u8]) -> io::Result<bool> {
        for piece in bytes.chunks(PIECE_BYTES) {
            let mut ready = [PollFd::new(&self.output, PollFlags::OUT)];
            if poll(&mut ready, Some(&Timespec::default()))? == 0 {
                return Ok(false);
            }
            self.output.write_all(piece)?;
        }
        Ok(true)
    }
}

impl<W: Write + AsFd> Write for Unwaiting<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lost > 0 {
            let lost = format!(
                "[WARN ] {} lines of the log are lost: nobody read it\n",
                self.lost
            );
            if self.write_now(lost.as_bytes())? {
                self.lost = 0;
            }
        }
        if self.lost > 0 || !self.write_now(line)? {
            self.lost += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn lines_that_nobody_reads_are_lost_and_that_is_told() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut log = Unwaiting::new(writer);
        let line = [vec![b'x'; 999], vec![b'\n']].concat();
        for _ in 0..200 {
            log.write_all(&line).unwrap();
        }
        let lost = log.lost;
        assert!((1..200).contains(&lost), "{lost}");

        let mut read = vec![0; 128 << 10];
        let count = reader.read(&mut read).unwrap();
        assert_eq!(count, (200 - usize::try_from(lost).unwrap()) * line.len());
        log.write_all(b"next\n").unwrap();
        let count = reader.read(&mut read).unwrap();
        let told = String::from_utf8_lossy(&read[..count]);
        let expected = format!("[WARN ] {lost} lines of the log are lost: nobody read it\nnext\n");
        assert_eq!(told, expected);
    }

    #[test]
    fn line_longer_than_a_piece_arrives_whole() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut log = Unwaiting::new(writer);
        let line = vec![b'x'; 3 * PIECE_BYTES + 1];
        log.write_all(&line).unwrap();
        drop(log);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, line);
    }
}
