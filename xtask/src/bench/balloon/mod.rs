//! The balloon: how fast memory comes back, at what cost, and how the machine answers meanwhile.
//!
//! `release` is the device alone, `tiny` the whole way with the tiny guest on this machine's KVM,
//! `linux` with Linux, directly or nested.

pub mod linux;
mod machine;
pub mod plot;
mod query;
pub mod release;
mod script;
pub mod tiny;
pub mod trace;

use super::linux::Linux;
use super::table::Figure;
use super::vmm::Vmm;
use crate::error::Result;
use crate::host::Way;
use crate::job::{Job, Message};
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
    let linux = Linux::prepare(workspace, vmms, say)?;
    let (mem_mib, given_mib) = match linux.way {
        Way::Direct => LINUX_DIRECT,
        Way::Nested => LINUX_NESTED,
    };
    let job = |linux| linux::Files {
        linux,
        mem_mib,
        given_mib,
        rounds,
    };
    let mut taken = Vec::new();
    let mut on_round = |round: linux::Round| {
        eprintln!("{round}");
        taken.push(round);
    };
    match linux.way {
        Way::Direct => linux::drive(&job(linux.files.clone()), &mut on_round)?,
        Way::Nested => {
            let job = |files| Job::Balloon(job(files));
            linux.nested(rounds, job, |message| {
                if let Message::Resized(round) = message {
                    on_round(round);
                }
            })?;
        }
    }
    Ok(linux::figures(&taken, given_mib))
}
