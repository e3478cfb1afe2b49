//! The same in the outer machine, with QEMU and what it loads in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::linux::{Files, Round};
use crate::error::{Error, FileContext, Result};
use crate::job::{Job, Message};
use crate::kernel::Kernel;
use crate::outer::{Console, Outer};
use crate::process;
use crate::workspace::Workspace;

const AEROSTAT: &str = "/bin/aerostat";
const KERNEL: &str = "/linux/kernel";
const INITRAMFS: &str = "/linux/initramfs";
/// What QEMU's microvm loads: its firmware, and the code that starts a bzImage.
const FIRMWARE: [&str; 2] = ["bios-microvm.bin", "linuxboot_dma.bin"];
/// Time to boot everything, and for a round of both machines, with much to spare.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
const ROUND_LIMIT: Duration = Duration::from_secs(300);

/// Runs [`super::linux::drive`] in an outer machine.
///
/// # Errors
///
/// As that, and when the outer machine fails.
pub fn drive(
    workspace: &Workspace,
    kernel: &Kernel,
    files: &Files,
    on_round: &mut dyn FnMut(Round),
) -> Result<()> {
    let mut programs = vec![(AEROSTAT.to_owned(), files.aerostat.clone())];
    let mut contents = vec![
        (KERNEL.to_owned(), files.kernel.clone()),
        (INITRAMFS.to_owned(), files.initramfs.clone()),
    ];
    if let Some(qemu) = &files.qemu {
        // Where it is here: it finds its files from there.
        let path = std::fs::canonicalize(qemu).file("find", qemu)?;
        contents.extend(firmware(&path)?);
        programs.push((path.to_string_lossy().into_owned(), path));
    }
    let job = Files {
        aerostat: AEROSTAT.into(),
        qemu: programs.get(1).map(|(path, _)| path.into()),
        kernel: KERNEL.into(),
        initramfs: INITRAMFS.into(),
        ..files.clone()
    };
    let outer = Outer {
        workspace,
        kernel,
        job: Job::Balloon(job),
        programs,
        files: contents,
        directories: Vec::new(),
        console: Console::Keep,
        limit: BOOT_LIMIT + ROUND_LIMIT * files.rounds,
    };
    outer.run(|message| {
        if let Message::Resized(round) = message {
            on_round(round);
        }
    })
}

/// Where QEMU looks for its firmware, and the files there.
fn firmware(qemu: &Path) -> Result<Vec<(String, PathBuf)>> {
    let text = process::output(Command::new(qemu).args(["-L", "help"]))?;
    let directories: Vec<PathBuf> = text
        .lines()
        .filter_map(|line| std::fs::canonicalize(line).ok())
        .collect();
    let found = FIRMWARE.map(|name| {
        let mut paths = directories.iter().map(|directory| directory.join(name));
        let path = paths
            .find(|path| path.is_file())
            .ok_or_else(|| Error::Check(format!("{} has no {name} beside it", qemu.display())))?;
        Ok((path.to_string_lossy().into_owned(), path))
    });
    found.into_iter().collect()
}
