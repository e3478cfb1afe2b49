//! The whole way with a stock Linux guest, beside QEMU with the same kernel and the same files: both
//! machines on one KVM, each stopped while the other is measured.
//!
//! It runs on the machine that has the usable `/dev/kvm`: this one, or the outer machine.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machine::{Guest, Machine, Resize};
use super::tiny::{all_cpu, speed, vmm_cpu};
use crate::bench::linux;
use crate::bench::table::Figure;
use crate::bench::vmm::Vmm;
use crate::error::{Error, Result};
use crate::process;

/// What the guest's init prints when its devices have their drivers, and its shell's prompt.
const READY: &str = "guest is ready";
const PROMPT: &str = "guest# ";
/// Time to boot.
const BOOT_LIMIT: Duration = Duration::from_secs(30);
/// Time from one event of a balloon on its way to the next; they come once a second.
const EVENT_LIMIT: Duration = Duration::from_secs(15);
/// Time to write what is given.
const FILL_LIMIT: Duration = Duration::from_secs(30);

/// Lines of the guest's console that go into an error.
const ERROR_LINES: usize = 15;

/// What runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Files {
    /// Programs, kernel and initial file system.
    pub linux: linux::Files,
    /// The guest's memory.
    pub mem_mib: u64,
    /// What the guest gives of it.
    pub given_mib: u64,
    /// How often.
    pub rounds: u32,
}

/// What one round of one machine took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The peer's, not ours.
    pub is_peer: bool,
    /// The guest gives.
    pub inflate: Resize,
    /// The guest takes back.
    pub deflate: Resize,
}

/// For people, who wait for minutes where it runs nested.
impl fmt::Display for Round {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.is_peer { "QEMU" } else { "aerostat" };
        let [inflate, deflate] = [self.inflate, self.deflate].map(|part| part.took.as_secs_f64());
        write!(
            formatter,
            "Linux on {whose}: gave in {inflate:.2} s, took back in {deflate:.2} s"
        )
    }
}

/// Boots both machines and hands each round on.
///
/// # Errors
///
/// When a guest does not boot, or does not follow its target.
pub fn drive(files: &Files, on_round: &mut dyn FnMut(Round)) -> Result<()> {
    let ours = Vmm::Aerostat(files.linux.aerostat.clone());
    let peer = files.linux.qemu.clone().map(Vmm::Qemu);
    let vmms: Vec<&Vmm> = std::iter::once(&ours).chain(&peer).collect();
    let machines: Result<Vec<_>> = vmms.iter().map(|vmm| booted(vmm, files)).collect();
    let mut machines = machines?;
    for _ in 0..files.rounds {
        for (machine, vmm) in machines.iter_mut().zip(&vmms) {
            let (inflate, deflate) =
                round(machine, files).map_err(|error| named(vmm, machine, &error))?;
            on_round(Round {
                is_peer: vmm.binary() != ours.binary(),
                inflate,
                deflate,
            });
        }
    }
    Ok(())
}

/// The guest writes what it then gives and takes back; nothing of the machine runs before or after.
fn round(machine: &mut Machine, files: &Files) -> Result<(Resize, Resize)> {
    machine.qmp.execute("cont")?;
    // What was never written costs nothing to give.
    let mib = files.given_mib + files.given_mib / 8;
    let fill = format!("dd if=/dev/zero of=/tmp/fill bs=1M count={mib}; rm /tmp/fill");
    machine.console.run_for(&fill, FILL_LIMIT)?;
    let inflate = machine.resize(files.given_mib, EVENT_LIMIT, None)?;
    let deflate = machine.resize(0, EVENT_LIMIT, None)?;
    machine.qmp.execute("stop")?;
    Ok((inflate, deflate))
}

/// The error with whose guest it was, and what that said last.
fn named(vmm: &Vmm, machine: &Machine, error: &Error) -> Error {
    let console = process::last_lines(&machine.console.log(), ERROR_LINES);
    let (name, cause) = (vmm.name(), crate::chain(error));
    Error::Check(format!(
        "Linux on {name}: {cause}\n--- its console ---\n{console}"
    ))
}

/// A machine whose guest is up, and stopped.
fn booted(vmm: &Vmm, files: &Files) -> Result<Machine> {
    let guest = Guest {
        kernel: files.linux.kernel.clone(),
        initrd: files.linux.initramfs.clone(),
        cmdline: "console=ttyS0 panic=-1",
        mem_mib: files.mem_mib,
        wants_clock: true,
    };
    let mut machine = Machine::start(vmm, &guest)?;
    machine.console.wait_for(READY, BOOT_LIMIT)?;
    machine.console.wait_for(PROMPT, BOOT_LIMIT)?;
    machine.qmp.execute("stop")?;
    Ok(machine)
}

/// The figures of all rounds.
pub fn figures(rounds: &[Round], given_mib: u64) -> Vec<Figure> {
    type Part = fn(&Round) -> Resize;
    let of = |is_peer, part: Part| {
        let rounds = rounds.iter().filter(|round| round.is_peer == is_peer);
        rounds.map(part).collect::<Vec<Resize>>()
    };
    let figure = |name: &'static str, unit, part: Part, value: fn(&[Resize], u64) -> f64| {
        let peer = of(true, part);
        let peer = (!peer.is_empty()).then(|| value(&peer, given_mib));
        Figure::alone(name, unit, value(&of(false, part), given_mib)).beside_qemu(peer)
    };
    let inflate: Part = |round| round.inflate;
    let deflate: Part = |round| round.deflate;
    vec![
        figure("balloon.linux.inflate", "MiB/s", inflate, speed),
        figure("balloon.linux.vmm_cpu", "s/GiB", inflate, vmm_cpu),
        figure("balloon.linux.all_cpu", "s/GiB", inflate, all_cpu),
        figure("balloon.linux.deflate", "MiB/s", deflate, speed),
        figure("balloon.linux.deflate_vmm_cpu", "s/GiB", deflate, vmm_cpu),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::threads::Work;

    fn round(is_peer: bool, seconds: u64) -> Round {
        let resize = Resize {
            took: Duration::from_secs(seconds),
            work: Work::default(),
        };
        Round {
            is_peer,
            inflate: resize,
            deflate: resize,
        }
    }

    #[test]
    fn figures_stand_beside_those_of_the_peer() {
        let rounds = [
            round(false, 1),
            round(true, 4),
            round(false, 1),
            round(true, 4),
        ];
        let figures = figures(&rounds, 256);
        assert_eq!((figures[0].value, figures[0].peers[0].value), (256.0, 64.0));
    }

    #[test]
    fn figures_without_a_peer_stand_alone() {
        assert!(
            figures(&[round(false, 1)], 256)
                .iter()
                .all(|figure| figure.peers.is_empty())
        );
    }

    #[test]
    fn rounds_survive_the_line_between_machines() {
        let line = serde_json::to_string(&round(true, 3)).unwrap();
        assert_eq!(
            serde_json::from_str::<Round>(&line).unwrap(),
            round(true, 3)
        );
    }
}
