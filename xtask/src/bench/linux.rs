//! What benchmarks with Linux guests have in common: the files, and the outer machine with QEMU and
//! what it loads in it, where guests run nested.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::vmm::Vmm;
use crate::error::{Error, FileContext, Result};
use crate::host::{Host, Way};
use crate::initramfs::LinuxFiles;
use crate::job::{Job, Message};
use crate::kernel::Kernel;
use crate::outer::{Console, Cpu, Outer};
use crate::packages;
use crate::process;
use crate::workspace::Workspace;

const AEROSTAT: &str = "/bin/aerostat";
const KERNEL: &str = "/linux/kernel";
const INITRAMFS: &str = "/linux/initramfs";
/// What QEMU's microvm loads: its firmware, and the code that starts a bzImage.
const FIRMWARE: [&str; 2] = ["bios-microvm.bin", "linuxboot_dma.bin"];
/// Time to boot everything, and for a round of all machines, with much to spare.
const BOOT_LIMIT: Duration = Duration::from_secs(300);
const ROUND_LIMIT: Duration = Duration::from_secs(300);

/// What runs, wherever that is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Files {
    /// Our binary.
    pub aerostat: PathBuf,
    /// The peer.
    pub qemu: Option<PathBuf>,
    /// The guest's bzImage.
    pub kernel: PathBuf,
    /// The guest's initial file system.
    pub initramfs: PathBuf,
}

/// Linux guests, and how they run here.
#[derive(Debug)]
pub struct Linux<'a> {
    workspace: &'a Workspace,
    kernel: Kernel,
    /// Directly or nested.
    pub way: Way,
    /// The files on this machine.
    pub files: Files,
}

impl<'a> Linux<'a> {
    /// Makes everything ready for `vmms`, ours and maybe QEMU, and tells `say` which way the guests
    /// run.
    ///
    /// # Errors
    ///
    /// When a file cannot be had.
    pub fn prepare(workspace: &'a Workspace, vmms: &[&Vmm], say: &dyn Fn(&str)) -> Result<Self> {
        let host = Host::detect();
        let way = host.way();
        say(&format!(
            "Linux guests run here {way},\nsince {}.",
            host.reason()
        ));
        packages::ensure(&[packages::BUSYBOX])?;
        if way == Way::Nested {
            packages::ensure(&[packages::QEMU])?;
        }
        let kernel = Kernel::ensure(&workspace.linux()?)?;
        let guest = LinuxFiles::prepare(workspace, &kernel)?;
        let binary = |index: usize| vmms.get(index).map(|vmm| vmm.binary().to_owned());
        let files = Files {
            aerostat: binary(0).unwrap_or_default(),
            qemu: binary(1),
            kernel: kernel.bzimage.clone(),
            initramfs: guest.directory.join("initramfs"),
        };
        Ok(Self {
            workspace,
            kernel,
            way,
            files,
        })
    }

    /// Has `job`, made of the files as they are there, done in an outer machine, in `rounds` rounds.
    ///
    /// # Errors
    ///
    /// Those of the job, and when the outer machine fails.
    pub fn nested(
        &self,
        rounds: u32,
        job: impl FnOnce(Files) -> Job,
        on_message: impl FnMut(Message),
    ) -> Result<()> {
        let files = &self.files;
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
        let there = Files {
            aerostat: AEROSTAT.into(),
            qemu: programs.get(1).map(|(path, _)| path.into()),
            kernel: KERNEL.into(),
            initramfs: INITRAMFS.into(),
        };
        let job = job(there);
        let outer = Outer {
            workspace: self.workspace,
            kernel: &self.kernel,
            cpu: Cpu::Whole,
            // Only boots are measured from the first touch of their memory on.
            clears_freed: matches!(job, Job::Boot(_)),
            job,
            programs,
            files: contents,
            directories: Vec::new(),
            console: Console::Keep,
            limit: BOOT_LIMIT + ROUND_LIMIT * rounds,
        };
        outer.run(on_message)
    }
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
