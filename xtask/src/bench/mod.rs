//! `cargo xtask bench`: start-up, footprint, QMP and the balloon beside QEMU's microvm, how soon a
//! guest stands still, what a hostile one costs, and how many machines the host holds, on this machine's
//! KVM. Start-up and density are also measured beside the least that KVM needs, and beside other machine
//! monitors on the search path.
//!
//! The machines run the same guest with the same memory, a balloon and a QMP socket. Rounds are taken
//! in turn, since this kind of figure drifts: compare within one run, and quote ratios.

pub mod balloon;
pub mod boot;
mod density;
mod floor;
mod footprint;
mod hostile;
pub mod linux;
mod program;
pub mod qmp;
mod running;
mod start;
mod statistics;
mod stop;
mod table;
mod taken;
mod threads;
mod vmm;

use std::path::PathBuf;

use crate::dist;
use crate::error::{Error, FileContext, Result};
use crate::host::Host;
use crate::process;
use crate::workspace::Workspace;

use program::{Guests, Program};
use table::Figure;
use vmm::Vmm;

/// Rounds of measurements that take milliseconds.
const ROUNDS: u32 = 31;
/// Rounds with Linux, which may run nested.
const LINUX_ROUNDS: u32 = 3;
/// Rounds of boots.
const BOOT_ROUNDS: u32 = 5;
/// Rounds of what takes some seconds for both machines.
const TINY_ROUNDS: u32 = 7;
/// Rounds of what takes a fraction of a second.
const RELEASE_ROUNDS: u32 = 15;

/// Options of the benchmark.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only these parts; all of them if none is named
    parts: Vec<Part>,
    /// Print an array of objects (name, value, unit; peer, peer_value and ratio) instead of a table
    #[arg(long)]
    json: bool,
    /// The QEMU to compare with, instead of the one on the search path
    #[arg(long, value_name = "PATH")]
    qemu: Option<PathBuf>,
    /// Rounds of each measurement, of which the median counts; 31 if not given, and of the balloon's,
    /// which take longer, 15 of pages, 7 of the small guest and 3 of Linux; 5 of boots
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Draw how the memory of a guest comes and goes, besides all else
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// What is measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// From exec to the guest's first byte, and to the end; CPU time for that; memory
    Start,
    /// Memory, threads and files of a machine at rest
    Footprint,
    /// From QMP's `stop` to its answer
    Stop,
    /// Requests a second and their latency; how fast large requests are parsed
    Qmp,
    /// How fast memory comes back through the balloon, and what that costs: the three parts below
    Balloon,
    /// Pages that the device gives back, beside the fewest calls and one a page
    BalloonRelease,
    /// From command to the guest's last word, with a guest of a few instructions
    BalloonTiny,
    /// The same with Linux, which takes minutes where it runs nested
    BalloonLinux,
    /// From exec to the first line of a stock Linux's init, which takes minutes where it runs nested
    Boot,
    /// `query-balloon` and the cost to the host while a guest attacks its balloon
    Hostile,
    /// Machines in 4 GiB of the host's memory (6 GiB have to be available), and what they cost at rest
    Density,
}

/// Measures and prints.
///
/// # Errors
///
/// When `/dev/kvm` cannot be used, or a machine does not do what is measured.
pub fn run(options: &Options) -> Result<()> {
    if options.needs_kvm() && !Host::detect().kvm_usable {
        return Err(Error::Check(
            "The benchmark needs /dev/kvm, which is missing or closed to this user".to_owned(),
        ));
    }
    let workspace = Workspace::find()?;
    let peer = peer(options)?;
    let scratch = tempfile::tempdir().map_err(|source| Error::System {
        action: "create a temporary directory",
        source,
    })?;
    dist::prepare();
    let ours = Vmm::Aerostat(dist::build(&workspace)?);
    let peer = peer.map(Vmm::Qemu);
    let mut vmms = vec![&ours];
    vmms.extend(&peer);
    let bench = Bench {
        workspace,
        vmms,
        directory: scratch.path().to_owned(),
    };
    let mut figures: Vec<Figure> = Vec::new();
    let outcome = bench.measure(options, &mut figures);
    // What was measured before something failed is worth showing too.
    if options.json {
        println!("{}", table::json(&figures)?);
    } else {
        print!("{}", table::text(&figures, peer.is_some()));
    }
    outcome
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn wants_of_balloon(&self, part: Part) -> bool {
        self.wants(part) || self.parts.contains(&Part::Balloon)
    }

    /// Linux guests alone can run nested.
    fn needs_kvm(&self) -> bool {
        let other = |part: &Part| !matches!(part, Part::BalloonLinux | Part::Boot);
        self.plot.is_some() || self.parts.is_empty() || self.parts.iter().any(other)
    }
}

/// What all parts need.
struct Bench<'a> {
    workspace: Workspace,
    /// Ours, then the peer.
    vmms: Vec<&'a Vmm>,
    /// For files that are gone afterwards.
    directory: PathBuf,
}

impl Bench<'_> {
    fn measure(&self, options: &Options, figures: &mut Vec<Figure>) -> Result<()> {
        let rounds = |default| options.rounds.unwrap_or(default);
        self.measure_machine(options, rounds(ROUNDS), figures)?;
        if options.wants_of_balloon(Part::BalloonRelease) {
            let rounds = rounds(RELEASE_ROUNDS);
            figures.extend(balloon::release::measure(&self.workspace, rounds)?);
        }
        if options.wants_of_balloon(Part::BalloonTiny) {
            let rounds = rounds(TINY_ROUNDS);
            figures.extend(balloon::tiny::measure(&self.vmms, &self.directory, rounds)?);
        }
        let say = |text: &str| match options.json {
            // There the figures are alone.
            true => eprintln!("{text}"),
            false => println!("{text}"),
        };
        if options.wants(Part::Boot) {
            let rounds = rounds(BOOT_ROUNDS);
            figures.extend(boot::measure(&self.workspace, &self.vmms, rounds, &say)?);
        }
        if options.wants_of_balloon(Part::BalloonLinux) {
            let rounds = rounds(LINUX_ROUNDS);
            let linux = balloon::measure_linux(&self.workspace, &self.vmms, rounds, &say);
            figures.extend(linux?);
        }
        if let (true, Some(ours)) = (options.wants(Part::Hostile), self.vmms.first()) {
            figures.extend(hostile::measure(ours.binary(), &self.directory)?);
        }
        if options.wants(Part::Density) {
            let guests = Guests::write(&self.directory)?;
            figures.extend(density::measure(
                &self.programs(),
                &guests,
                &self.directory,
            )?);
        }
        if let (Some(path), Some(ours)) = (&options.plot, self.vmms.first()) {
            let trace = balloon::trace::take(ours, &self.directory)?;
            std::fs::write(path, balloon::plot::svg(&trace)?).file("write", path)?;
        }
        Ok(())
    }

    /// What start-up and density are measured of: ours, the floor, QEMU, and others that there are. A
    /// floor that cannot be built is left out as every peer is.
    fn programs(&self) -> Vec<Program<'_>> {
        let mut vmms = self.vmms.iter().copied().map(Program::Vmm);
        let mut programs: Vec<_> = vmms.next().into_iter().collect();
        match floor::build(&self.workspace) {
            Ok(path) => programs.push(Program::Floor(path)),
            Err(error) => taken::leave_out("floor", &error),
        }
        programs.extend(vmms);
        programs.extend(Program::found_on_path());
        programs
    }

    /// Neither the balloon nor attacks, nor many machines at once.
    fn measure_machine(
        &self,
        options: &Options,
        rounds: u32,
        figures: &mut Vec<Figure>,
    ) -> Result<()> {
        let (vmms, directory) = (&self.vmms, self.directory.as_path());
        let guests = Guests::write(directory)?;
        if options.wants(Part::Start) {
            let programs = self.programs();
            figures.extend(start::measure(&programs, &guests, directory, rounds)?);
        }
        if options.wants(Part::Footprint) {
            figures.extend(footprint::measure(vmms, &guests.halt, directory)?);
        }
        if let (true, Some(ours)) = (options.wants(Part::Stop), vmms.first()) {
            figures.extend(stop::measure(ours.binary(), directory, rounds)?);
        }
        if options.wants(Part::Qmp) {
            figures.extend(qmp::measure(vmms, &guests.halt, directory, rounds)?);
            figures.extend(qmp::measure_parser(&self.workspace)?);
        }
        Ok(())
    }
}

/// The QEMU to compare with: the one asked for, which must be there, or the one found.
fn peer(options: &Options) -> Result<Option<PathBuf>> {
    match &options.qemu {
        Some(path) if path.is_file() => Ok(Some(path.clone())),
        Some(path) => Err(Error::Check(format!(
            "There is no QEMU at {}",
            path.display()
        ))),
        None => Ok(process::find_on_path("qemu-system-x86_64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(parts: &[Part]) -> Options {
        Options {
            parts: parts.to_vec(),
            json: false,
            qemu: None,
            rounds: None,
            plot: None,
        }
    }

    #[test]
    fn balloon_stands_for_its_three_parts_and_nothing_for_all() {
        let of_balloon = [Part::BalloonRelease, Part::BalloonTiny, Part::BalloonLinux];
        for parts in [&[Part::Balloon][..], &[]] {
            let options = options(parts);
            assert!(
                of_balloon
                    .iter()
                    .all(|part| options.wants_of_balloon(*part))
            );
        }
        let one = options(&[Part::BalloonTiny]);
        assert!(!one.wants_of_balloon(Part::BalloonLinux) && !one.wants(Part::Start));
    }

    #[test]
    fn linux_alone_needs_no_kvm_here() {
        assert!(!options(&[Part::BalloonLinux]).needs_kvm());
        assert!(options(&[Part::BalloonLinux, Part::Start]).needs_kvm());
        assert!(options(&[]).needs_kvm());
    }
}
