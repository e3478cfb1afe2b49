//! How soon `query-balloon` and `stop` are answered while a guest attacks its balloon or its machine,
//! and what the attack costs the control and the device thread.
//!
//! The guest's own CPUs are busy all the while, and the asker needs one too: on a machine with few
//! CPUs compare with `spin` and `spin_all`, guests that attack nothing with one CPU or with all.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aerostat_tiny_guest::{Attack, HostileGuest, Script, script_elf};

use crate::error::{Error, FileContext, Result};
use crate::harness::machine::Machine;
use crate::harness::setup::Setup;
use crate::harness::tiny::DEVICE;

use super::qmp::percentile_us;
use super::table::Figure;

/// Time for the guest to do its first round.
const LIMIT: Duration = Duration::from_secs(30);
/// How long the threads are watched while nobody asks.
const WATCHED: Duration = Duration::from_secs(2);
/// Questions for each attack, and the time between two.
const QUESTIONS: usize = 2000;
const PAUSE: Duration = Duration::from_millis(1);
/// Times that the machine is stopped.
const STOPS: usize = 200;
/// CPUs beside the first where all take part.
const OTHERS: u16 = 3;

/// A guest and what it is called.
struct Kind {
    name: &'static str,
    cpus: u16,
    script: Script,
}

/// All attacks, a guest that resets its machine without end, and two that do no harm.
fn kinds() -> Vec<Kind> {
    let alone = |name, script| Kind {
        name,
        cpus: 1,
        script,
    };
    let spin = |script: Script| {
        let script = script.puts(".");
        let begin = script.here();
        script.jump(begin)
    };
    let spin_all = Kind {
        name: "spin_all",
        cpus: OTHERS + 1,
        script: spin(Script::new().start_others()),
    };
    let mut kinds = vec![alone("spin", spin(Script::new())), spin_all];
    kinds.extend(Attack::ALL.map(|attack| {
        let others = if attack == Attack::AllCpus { OTHERS } else { 0 };
        Kind {
            name: attack.name(),
            cpus: others + 1,
            script: HostileGuest { attack, others }.script(DEVICE),
        }
    }));
    kinds.push(alone("machine_resets", Script::new().puts(".").reset()));
    kinds
}

/// What was measured of one guest.
struct Measured {
    queries: Vec<Duration>,
    stops: Vec<Duration>,
    control_percent: f64,
    device_percent: f64,
}

/// Measures each kind of attack.
///
/// # Errors
///
/// When the machine does not start or does not answer.
pub fn measure(binary: &Path, directory: &Path) -> Result<Vec<Figure>> {
    let kernel = directory.join("hostile-kernel");
    std::fs::write(&kernel, script_elf()).file("write", &kernel)?;
    let mut figures = Vec::new();
    for Kind { name, cpus, script } in kinds() {
        let measured = attack(binary, &kernel, cpus, script)
            .map_err(|error| Error::Check(format!("Attack `{name}` ended it: {error:?}")))?;
        let figure =
            |of: &str, unit, value| Figure::alone(format!("hostile.{name}.{of}"), unit, value);
        let (queries, stops) = (&measured.queries, &measured.stops);
        figures.extend([
            figure("query_p99", "us", percentile_us(queries, 0.99)),
            figure("query_max", "us", percentile_us(queries, 1.0)),
            figure("stop_p99", "us", percentile_us(stops, 0.99)),
            figure("control_cpu", "%", measured.control_percent),
            figure("device_cpu", "%", measured.device_percent),
        ]);
    }
    Ok(figures)
}

fn attack(
    binary: &Path,
    kernel: &Path,
    cpus: u16,
    script: Script,
) -> std::result::Result<Measured, Box<dyn std::error::Error>> {
    let mut machine: Machine = Setup::new(binary, kernel, "64M")
        .argument("--balloon", "free-page-reporting=on")
        .argument("--cpus", cpus.to_string())
        .file("--initrd", "script", script.into_initrd())
        .start()?;
    machine.console.wait_for(".", LIMIT)?;
    let threads = Threads::of(machine.pid())?;
    let mut asker = Asker::connect(machine.socket())?;
    asker.ask()?;

    let (begun, before) = (Instant::now(), threads.busy()?);
    thread::sleep(WATCHED);
    let (took, after) = (begun.elapsed(), threads.busy()?);
    let percent = |index: usize| {
        let busy = after[index].saturating_sub(before[index]);
        busy.as_secs_f64() / took.as_secs_f64() * 100.0
    };

    let mut queries = Vec::with_capacity(QUESTIONS);
    for _ in 0..QUESTIONS {
        thread::sleep(PAUSE);
        queries.push(asker.ask()?);
    }
    let mut stops = Vec::with_capacity(STOPS);
    for _ in 0..STOPS {
        thread::sleep(PAUSE);
        stops.push(asker.request(b"{\"execute\": \"stop\"}\n")?);
        asker.request(b"{\"execute\": \"cont\"}\n")?;
    }
    Ok(Measured {
        queries,
        stops,
        control_percent: percent(0),
        device_percent: percent(1),
    })
}

/// The control and the device thread of a process.
struct Threads([PathBuf; 2]);

impl Threads {
    fn of(pid: u32) -> std::io::Result<Self> {
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        let mut device = None;
        for task in std::fs::read_dir(&tasks)? {
            let task = task?.path();
            if std::fs::read_to_string(task.join("comm"))?.trim() == "device" {
                device = Some(task);
            }
        }
        let device = device.ok_or_else(|| std::io::Error::other("it has no device thread"))?;
        Ok(Self([tasks.join(pid.to_string()), device]))
    }

    /// How long each has been on a CPU (`schedstat`, in ns).
    fn busy(&self) -> std::io::Result<[Duration; 2]> {
        let mut busy = [Duration::ZERO; 2];
        for (thread, busy) in self.0.iter().zip(&mut busy) {
            let text = std::fs::read_to_string(thread.join("schedstat"))?;
            let first = text.split_whitespace().next().unwrap_or_default();
            *busy = Duration::from_nanos(first.parse().map_err(std::io::Error::other)?);
        }
        Ok(busy)
    }
}

/// A client that asks one thing, and overhears events.
struct Asker {
    lines: BufReader<UnixStream>,
    line: String,
}

impl Asker {
    fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut asker = Self {
            lines: BufReader::new(stream),
            line: String::new(),
        };
        asker.lines.read_line(&mut asker.line)?;
        asker.request(b"{\"execute\": \"qmp_capabilities\"}\n")?;
        Ok(asker)
    }

    fn ask(&mut self) -> std::io::Result<Duration> {
        self.request(b"{\"execute\": \"query-balloon\"}\n")
    }

    /// Sends a request and waits for its reply. The time that took.
    fn request(&mut self, request: &[u8]) -> std::io::Result<Duration> {
        let begun = Instant::now();
        self.lines.get_mut().write_all(request)?;
        loop {
            self.line.clear();
            if self.lines.read_line(&mut self.line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if self.line.starts_with("{\"return\"") {
                return Ok(begun.elapsed());
            }
            if self.line.starts_with("{\"error\"") {
                return Err(std::io::Error::other(self.line.clone()));
            }
        }
    }
}
