//! How fast pages that a guest gives come back to the host, and with how many system calls: the
//! device, from the guest's first buffer to the return of its last, beside a call for each of the
//! longest runs in the order in which the pages come (`limit`), a call for each of the longest runs of
//! all of them (`fewest`), and a call for each page (`per-page`).

mod calls;
mod guest;
mod memory;
pub mod order;
mod rounds;
mod server;

use std::path::Path;
use std::process::Command;

use crate::bench::statistics::median;
use crate::bench::table::Figure;
use crate::error::{Error, Result};
use crate::process;
use crate::workspace::Workspace;

use calls::Calls;
use order::{Order, PAGES, runs};
use rounds::{Line, Way};

/// The name of the thread with the device's event loop, by which its calls are told.
const DEVICE_THREAD: &str = "device";

/// What the process that measures is asked to do.
#[derive(Debug, clap::Args)]
pub struct Task {
    /// Rounds of each way
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Give pages once, for one who counts system calls
    #[arg(long)]
    counted: bool,
}

/// Does what that process is asked to do.
///
/// # Errors
///
/// When the host does not get all pages back.
pub fn run(task: &Task) -> Result<()> {
    if task.counted {
        rounds::run_counted()
    } else {
        rounds::measure(task.rounds)
    }
}

/// Measures, with this program built as the machine is shipped.
///
/// # Errors
///
/// When it does not build, or fails.
pub fn measure(workspace: &Workspace, count: u32) -> Result<Vec<Figure>> {
    let program = workspace.build_release_of("xtask")?;
    let task = || task(&program);
    let text = process::output(task().args(["--rounds", &count.to_string()]))?;
    let lines = text.lines().map(line).collect::<Result<Vec<_>>>()?;
    let mut figures = Vec::new();
    for order in Order::ALL {
        figures.extend(speeds(order, &lines));
    }
    figures.extend(
        calls::count(task().arg("--counted"))?
            .iter()
            .flat_map(numbers),
    );
    Ok(figures)
}

fn task(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("release");
    command
}

fn line(text: &str) -> Result<Line> {
    serde_json::from_str(text).map_err(|source| Error::Json {
        what: "The output of the benchmark of pages",
        source,
    })
}

/// GiB/s: of the host's side, and with each driver.
fn speeds(order: Order, lines: &[Line]) -> [Figure; 3] {
    let speed = |way| {
        let line = lines
            .iter()
            .find(|line| (line.order, line.way) == (order, way));
        let seconds = line
            .into_iter()
            .flat_map(|line| line.seconds.iter().copied());
        // 1 GiB each time.
        1.0 / median(seconds).max(1e-9)
    };
    [
        ("", Way::Host),
        ("_two_threads", Way::Device),
        ("_full_queue", Way::FullQueue),
    ]
    .map(|(suffix, way)| {
        let name = format!("balloon.release.{}{suffix}", order.name());
        Figure::alone(name, "GiB/s", speed(way))
            .beside("limit", speed(Way::Limit))
            .beside("fewest", speed(Way::Fewest))
            .beside("per-page", speed(Way::PerPage))
    })
}

/// Calls for a GiB; those of the peers follow from what they do.
fn numbers(calls: &Calls) -> [Figure; 2] {
    let limit = runs(&calls.order.pages(PAGES)).len() as f64;
    let figure = |name, value| {
        Figure::alone(
            format!("balloon.release.{name}.{}", calls.order.name()),
            "/GiB",
            value,
        )
    };
    [
        figure("calls", calls.all),
        figure("calls_that_release", calls.releasing)
            .beside("limit", limit)
            .beside("per-page", f64::from(PAGES)),
    ]
}
