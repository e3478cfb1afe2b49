//! The balloon: how fast memory comes back, at what cost, and how the machine answers meanwhile.
//!
//! `release` is the device alone, `tiny` the whole way with the tiny guest on this machine's KVM,
//! `linux` with Linux, directly or nested.

pub mod linux;
mod machine;
mod nested;
pub mod plot;
mod query;
pub mod release;
mod script;
mod threads;
pub mod tiny;
pub mod trace;

use super::table::Figure;
use super::vmm::Vmm;
use crate::error::Result;
use crate::host::{Host, Way};
use crate::initramfs::LinuxFiles;
use crate::kernel::Kernel;
use crate::packages;
use crate::workspace::Workspace;

/// What the Linux guest has, and gives, in MiB: on this machine, and nested, where a MiB takes 20
/// times longer.
const LINUX_DIRECT: (u64, u64) = (2048, 1024);
const LINUX_NESTED: (u64, u64) = (512, 256);

/// Measures with Linux guests, and tells `say` which way they run.
///
/// # Errors
///
/// When a guest does not boot, or does not follow its target.
pub fn measure_linux(
    workspace: &Workspace,
    vmms: &[&Vmm],
    rounds: u32,
    say: &dyn Fn(&str),
) -> Result<Vec<Figure>> {
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
    let (mem_mib, given_mib) = match way {
        Way::Direct => LINUX_DIRECT,
        Way::Nested => LINUX_NESTED,
    };
    let files = linux::Files {
        aerostat: binary(0).unwrap_or_default(),
        qemu: binary(1),
        kernel: kernel.bzimage.clone(),
        initramfs: guest.directory.join("initramfs"),
        mem_mib,
        given_mib,
        rounds,
    };
    let mut taken = Vec::new();
    let mut on_round = |round: linux::Round| {
        eprintln!("{round}");
        taken.push(round);
    };
    match way {
        Way::Direct => linux::drive(&files, &mut on_round)?,
        Way::Nested => nested::drive(workspace, &kernel, &files, &mut on_round)?,
    }
    Ok(linux::figures(&taken, given_mib))
}
