//! The boot of a stock Linux: from exec of the VMM to init's first line, which init tells by a write to
//! a port rather than on the console.
//!
//! The same bzImage and initial file system in all: unpacked by us and moved, unpacked and not moved,
//! unpacked by the guest itself, and on QEMU's microvm. One boots at a time, and each of the others
//! between two of ours: the speed of a shared machine drifts by more than what is to be told apart, but
//! less from one boot to the next.

mod drive;
mod phases;

use super::linux::Linux;
use super::statistics::median;
use super::table::Figure;
use super::vmm::Vmm;
use crate::error::Result;
use crate::host::Way;
use crate::job::{Job, Message};
use crate::workspace::Workspace;

pub use drive::{Files, Kind, Round, drive};
use phases::Phases;

/// Boots in `rounds` rounds, and tells `say` which way the guests run.
///
/// # Errors
///
/// When a guest does not boot.
pub fn measure(
    workspace: &Workspace,
    vmms: &[&Vmm],
    rounds: u32,
    say: &dyn Fn(&str),
) -> Result<Vec<Figure>> {
    let linux = Linux::prepare(workspace, vmms, say)?;
    let mut taken = Vec::new();
    let mut on_round = |round: Round| {
        eprintln!("{round}");
        taken.push(round);
    };
    let job = |linux| Files { linux, rounds };
    match linux.way {
        Way::Direct => drive(&job(linux.files.clone()), &mut on_round)?,
        Way::Nested => linux.nested(
            rounds,
            |files| Job::Boot(job(files)),
            |message| {
                if let Message::Booted(round) = message {
                    on_round(round);
                }
            },
        )?,
    }
    Ok(figures(&taken))
}

/// The figures of all rounds: ours beside the others, then what our boots consist of.
fn figures(rounds: &[Round]) -> Vec<Figure> {
    let seconds = |kind| {
        let rounds = rounds.iter().filter(|round| round.kind == kind);
        let times: Vec<f64> = rounds.map(|round| round.init.as_secs_f64()).collect();
        (!times.is_empty()).then(|| median(times.into_iter()))
    };
    let ours = seconds(Kind::Direct).unwrap_or_default();
    let mut init = Figure::alone("boot.init", "s", ours);
    for kind in [Kind::Qemu, Kind::GuestDecompress, Kind::NoKaslr] {
        if let Some(value) = seconds(kind) {
            init = init.beside_in_pairs(kind.name(), value, ratio(rounds, kind));
        }
    }
    let phases = |kind| {
        let rounds = rounds.iter().filter(move |round| round.kind == kind);
        rounds.filter_map(|round| round.phases.clone())
    };
    let direct: Vec<Phases> = phases(Kind::Direct).collect();
    let guest: Vec<Phases> = phases(Kind::GuestDecompress).collect();
    let mut figures = vec![init];
    for (name, part) in Phases::PARTS {
        let part = |all: &[Phases]| median(all.iter().map(part)) * 1e3;
        let figure = Figure::alone(name, "ms", part(&direct));
        figures.push(figure.beside(Kind::GuestDecompress.name(), part(&guest)));
    }
    figures
}

/// Our boots as a part of those of another kind: the median over the latter, each with the mean of those of
/// ours on either side of it.
fn ratio(rounds: &[Round], kind: Kind) -> f64 {
    let ratios = rounds.windows(3).filter_map(|three| match three {
        [before, it, after] if it.kind == kind => {
            let ours = (before.init + after.init).as_secs_f64() / 2.0;
            Some(ours / it.init.as_secs_f64())
        }
        _ => None,
    });
    median(ratios)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn round(kind: Kind, seconds: u64) -> Round {
        Round {
            kind,
            init: Duration::from_secs(seconds),
            phases: None,
        }
    }

    #[test]
    fn boot_stands_beside_each_other_way() {
        let rounds = [
            round(Kind::Direct, 2),
            round(Kind::NoKaslr, 4),
            round(Kind::Direct, 4),
            round(Kind::Qemu, 10),
            // The machine has become slower.
            round(Kind::Direct, 8),
        ];
        let figure = &figures(&rounds)[0];
        let peers = figure.peers.iter();
        let peers: Vec<_> = peers.map(|it| (it.name, it.value, it.ratio)).collect();
        assert_eq!(figure.value, 4.0);
        assert_eq!(
            peers,
            [("qemu", 10.0, Some(0.6)), ("nokaslr", 4.0, Some(0.75))]
        );
    }

    #[test]
    fn rounds_survive_the_line_between_machines() {
        let line = serde_json::to_string(&round(Kind::Qemu, 3)).unwrap();
        let back: Round = serde_json::from_str(&line).unwrap();
        assert_eq!(back, round(Kind::Qemu, 3));
    }
}
