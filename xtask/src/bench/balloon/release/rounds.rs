//! The process that releases pages and takes the time: this program, built as the machine is
//! shipped. It prints a JSON text a line.

use std::time::{Duration, Instant};

use rustix::process::getppid;
use serde::{Deserialize, Serialize};

use super::guest::{Guest, QUEUE_SIZE, RINGS_BYTES};
use super::memory::{FIRST_PAGE, Slot, resident_pages};
use super::order::{Order, PAGES, Random, Run, runs, runs_in_all};
use crate::error::{Error, Result};

/// How pages come back to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Through the device, on one thread with a driver that waits for each buffer, as Linux's does:
    /// what the host does for it, from the kick to the interrupt.
    Host,
    /// The same on two threads, each of which waits for the other.
    Device,
    /// The same with a driver that fills the queue.
    FullQueue,
    /// With a call for each of the longest runs in the order in which the guest gives them.
    Limit,
    /// With a call for each of the longest runs of all of them.
    Fewest,
    /// With a call for each page, as QEMU and Cloud Hypervisor do.
    PerPage,
}

impl Way {
    const ALL: [Self; 6] = [
        Self::Host,
        Self::Device,
        Self::FullQueue,
        Self::Limit,
        Self::Fewest,
        Self::PerPage,
    ];
}

/// What one way took, round by round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The order of the pages.
    pub order: Order,
    /// The way.
    pub way: Way,
    /// Seconds for all pages, in each round.
    pub seconds: Vec<f64>,
}

/// Pages that are given while calls are counted, which makes each of them slow.
pub const COUNTED_PAGES: u32 = PAGES / 8;

/// A guest with a GiB to give, in one order.
struct Bench {
    host: Guest,
    guest: Guest,
    slot: Slot,
    pages: Vec<u32>,
    /// The same as the driver sends them.
    numbers: Vec<u8>,
    runs: Vec<Run>,
    runs_in_all: Vec<Run>,
}

impl Bench {
    fn new(order: Order) -> Result<Self> {
        let slot = Slot::new(order)?;
        let pages = order.pages(PAGES);
        let numbers = pages
            .iter()
            .flat_map(|page| (FIRST_PAGE + page).to_le_bytes());
        Ok(Self {
            host: Guest::on_one_thread(&slot.ram, 0)?,
            guest: Guest::new(&slot.ram, RINGS_BYTES)?,
            numbers: numbers.collect(),
            runs: runs(&pages),
            runs_in_all: runs_in_all(&pages),
            pages,
            slot,
        })
    }

    /// Writes all pages, gives them back, and checks that the host has them.
    fn round(&mut self, way: Way) -> Result<Duration> {
        self.slot.write_all()?;
        let before = resident_pages()?;
        let begun = Instant::now();
        match way {
            Way::Host => self.host.give(&self.numbers, 1)?,
            Way::Device => self.guest.give(&self.numbers, 1)?,
            Way::FullQueue => self.guest.give(&self.numbers, QUEUE_SIZE)?,
            Way::Limit => self.slot.drop_runs(&self.runs)?,
            Way::Fewest => self.slot.drop_runs(&self.runs_in_all)?,
            Way::PerPage => self.slot.drop_pages(&self.pages)?,
        }
        let host = match way {
            Way::Host => self.host.host_time(),
            _ => None,
        };
        let took = host.unwrap_or_else(|| begun.elapsed());
        self.slot.check_dropped(before)?;
        Ok(took)
    }
}

/// Takes `rounds` of each way in turn, for each order. Which way comes after which changes from round
/// to round: how one frees pages shows in where the next finds its own.
///
/// # Errors
///
/// When the host does not get all pages back.
pub fn measure(rounds: u32) -> Result<()> {
    for order in Order::ALL {
        let mut bench = Bench::new(order)?;
        let mut lines = Way::ALL.map(|way| Line {
            order,
            way,
            seconds: Vec::new(),
        });
        let mut random = Random::default();
        for _ in 0..rounds {
            random.shuffle(&mut lines);
            for line in &mut lines {
                let took = bench.round(line.way)?;
                line.seconds.push(took.as_secs_f64());
            }
        }
        for line in lines {
            let text = serde_json::to_string(&line).map_err(|source| Error::Json {
                what: "A line of the benchmark",
                source,
            })?;
            println!("{text}");
        }
    }
    Ok(())
}

/// Gives an eighth of the pages in each order through the device, between two marks for whoever
/// counts the system calls ([`super::calls`]).
///
/// # Errors
///
/// As [`measure`].
pub fn run_counted() -> Result<()> {
    for order in Order::ALL {
        let mut bench = Bench::new(order)?;
        bench.slot.write_all()?;
        let bytes = COUNTED_PAGES as usize * size_of::<u32>();
        mark();
        bench.guest.give(&bench.numbers[..bytes], 1)?;
        mark();
    }
    Ok(())
}

/// A system call that nothing else here makes.
fn mark() {
    let _ = getppid();
}
