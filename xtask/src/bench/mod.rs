//! `cargo xtask bench`: start-up, footprint and QMP beside QEMU's microvm, how soon a guest stands
//! still, and what a hostile one costs, on this machine's KVM.
//!
//! Both run the same tiny guest with the same memory, a balloon and a QMP socket. Rounds are taken
//! in turn, since this kind of figure drifts: compare within one run, and quote ratios.

pub mod balloon;
mod footprint;
mod hostile;
pub mod qmp;
mod start;
mod statistics;
mod stop;
mod table;
mod vmm;

use std::path::PathBuf;

use crate::error::{Error, FileContext, Result};
use crate::host::Host;
use crate::process;
use crate::workspace::Workspace;

use table::Figure;
use vmm::Vmm;

/// Rounds of measurements that take milliseconds, of the balloon's, and of those with Linux guests.
const ROUNDS: u32 = 31;
/// See [`ROUNDS`].
const BALLOON_ROUNDS: u32 = 5;
/// See [`ROUNDS`].
const LINUX_ROUNDS: u32 = 3;

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
    /// Rounds of each measurement, of which the median counts; 31 if not given, 5 of the
    /// balloon's and 3 of those with Linux, which take longer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
}

/// What is measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// From exec to the guest's first byte, and to the end
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
    /// `query-balloon` and the cost to the host while a guest attacks its balloon
    Hostile,
}

/// Measures and prints.
///
/// # Errors
///
/// When `/dev/kvm` cannot be used, or a machine does not do what is measured.
pub fn run(options: &Options) -> Result<()> {
    if !Host::detect().kvm_usable {
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
    let write = |name: &str, contents: Vec<u8>| {
        let path = scratch.path().join(name);
        std::fs::write(&path, contents)
            .file("write", &path)
            .map(|()| path)
    };
    let hello = write("hello", aerostat_tiny_guest::hello_elf())?;
    let halt = write("halt", aerostat_tiny_guest::halt_elf())?;

    let ours = Vmm::Aerostat(workspace.build_release()?);
    let peer = peer.map(Vmm::Qemu);
    let mut vmms = vec![&ours];
    vmms.extend(&peer);
    let wants = |part| options.parts.is_empty() || options.parts.contains(&part);
    let directory = scratch.path();
    let rounds = options.rounds.unwrap_or(ROUNDS);
    let mut figures: Vec<Figure> = Vec::new();
    if wants(Part::Start) {
        figures.extend(start::measure(&vmms, &hello, directory, rounds)?);
    }
    if wants(Part::Footprint) {
        figures.extend(footprint::measure(&vmms, &halt, directory)?);
    }
    if wants(Part::Stop) {
        figures.extend(stop::measure(ours.binary(), directory, rounds)?);
    }
    if wants(Part::Qmp) {
        figures.extend(qmp::measure(&vmms, &halt, directory, rounds)?);
        figures.extend(qmp::measure_parser(&workspace)?);
    }
    let rounds = options.rounds.unwrap_or(BALLOON_ROUNDS);
    let wants_of_balloon = |part| wants(part) || options.parts.contains(&Part::Balloon);
    if wants_of_balloon(Part::BalloonRelease) {
        figures.extend(balloon::release::measure(&workspace, rounds)?);
    }
    if wants_of_balloon(Part::BalloonTiny) {
        figures.extend(balloon::tiny::measure(&vmms, directory, rounds)?);
    }
    if wants_of_balloon(Part::BalloonLinux) {
        let say = |text: &str| match options.json {
            // There the figures are alone.
            true => eprintln!("{text}"),
            false => println!("{text}"),
        };
        let rounds = options.rounds.unwrap_or(LINUX_ROUNDS);
        figures.extend(balloon::measure_linux(&workspace, &vmms, rounds, &say)?);
    }
    if wants(Part::Hostile) {
        figures.extend(hostile::measure(ours.binary(), directory)?);
    }
    if options.json {
        println!("{}", table::json(&figures)?);
    } else {
        print!("{}", table::text(&figures, peer.is_some()));
    }
    Ok(())
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
