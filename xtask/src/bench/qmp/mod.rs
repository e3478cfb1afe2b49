//! QMP: how many requests a second are answered, and how soon, beside QEMU and beside a server that
//! does nothing (the limit); and how fast large requests are parsed.
//!
//! Each server is another process, and their rounds are taken in turn. The request is
//! `query-balloon`, and the guest is halted.

mod connection;
pub mod echo;
mod parse;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::Result;

use super::running::Running;
use super::statistics::{median, percentile};
use super::table::Figure;
use super::vmm::Vmm;
use connection::Connection;
pub use parse::measure as measure_parser;

/// Clients at once.
const CLIENTS: usize = 16;
/// Requests of one client in a round.
const ROUND_REQUESTS: usize = 500;
/// The same where there are [`CLIENTS`].
const SHARED_ROUND_REQUESTS: usize = 50;
/// Requests that are sent without waiting for replies.
const PIPELINED: usize = 100;

/// A server that runs.
#[derive(Debug)]
struct Server {
    /// Ended with it.
    _process: Running,
    /// One for each client, of which the first is also for those that are alone.
    connections: Vec<Connection>,
    rounds: Rounds,
}

/// What was measured of a server.
#[derive(Debug, Default)]
struct Rounds {
    one: Latencies,
    clients: Latencies,
    pipelined: Latencies,
}

/// Times of single requests, and of whole rounds.
#[derive(Debug, Default)]
struct Latencies {
    requests: Vec<Duration>,
    /// Time of a round, per request.
    rounds: Vec<Duration>,
}

impl Latencies {
    fn add_round(&mut self, requests: Vec<Duration>, took: Duration, count: usize) {
        self.requests.extend(requests);
        self.rounds.push(took.div_f64(count as f64));
    }

    /// Requests a second, in the median round.
    fn rate(&self) -> f64 {
        1.0 / median(self.rounds.iter().copied()).as_secs_f64().max(1e-9)
    }

    fn percentile_us(&self, part: f64) -> f64 {
        percentile_us(&self.requests, part)
    }
}

/// The time in µs within which this part of the requests was answered.
pub fn percentile_us(requests: &[Duration], part: f64) -> f64 {
    percentile(requests.iter().copied(), part).as_secs_f64() * 1e6
}

impl Server {
    fn new(process: Running) -> Self {
        Self {
            _process: process,
            connections: Vec::new(),
            rounds: Rounds::default(),
        }
    }

    fn start_vmm(vmm: &Vmm, kernel: &Path, directory: &Path) -> Result<Self> {
        let sockets = vmm.sockets(directory, CLIENTS);
        let mut process = vmm.start(kernel, &sockets, directory)?;
        process.await_greeting(false)?;
        let mut server = Self::new(process);
        let paths = sockets.iter().cycle().take(CLIENTS);
        let connections: Result<_> = paths.map(|path| Connection::to_qmp(path)).collect();
        server.connections = connections?;
        Ok(server)
    }

    fn start_echo(directory: &Path) -> Result<Self> {
        let socket = directory.join("echo");
        let program = format!("/proc/{}/exe", std::process::id());
        let mut command = Command::new(program);
        command.arg("echo").arg(&socket);
        let errors = directory.join("errors");
        let mut server = Self::new(Running::spawn("echo", &mut command, &errors)?);
        let connections: Result<_> = (0..CLIENTS).map(|_| Connection::to_echo(&socket)).collect();
        server.connections = connections?;
        Ok(server)
    }

    fn round(&mut self) -> Result<()> {
        let Some(first) = self.connections.first_mut() else {
            return Ok(());
        };
        let begun = Instant::now();
        let times = ask_repeatedly(first, ROUND_REQUESTS)?;
        let took = begun.elapsed();
        self.rounds.one.add_round(times, took, ROUND_REQUESTS);

        let took = first.ask(PIPELINED)?;
        self.rounds.pipelined.add_round(vec![took], took, PIPELINED);

        let begun = Instant::now();
        let connections = &mut self.connections;
        let times: Result<Vec<Vec<Duration>>> = std::thread::scope(|scope| {
            let ask = |connection| move || ask_repeatedly(connection, SHARED_ROUND_REQUESTS);
            let clients: Vec<_> = connections
                .iter_mut()
                .map(|connection| scope.spawn(ask(connection)))
                .collect();
            clients
                .into_iter()
                .map(|client| match client.join() {
                    Ok(times) => times,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
                .collect()
        });
        let took = begun.elapsed();
        let count = CLIENTS * SHARED_ROUND_REQUESTS;
        self.rounds.clients.add_round(times?.concat(), took, count);
        Ok(())
    }
}

fn ask_repeatedly(connection: &mut Connection, count: usize) -> Result<Vec<Duration>> {
    (0..count).map(|_| connection.ask(1)).collect()
}

/// Takes `rounds` of each server in turn. The first of `vmms` is ours, the second the peer.
///
/// # Errors
///
/// When a machine does not start or does not answer.
pub fn measure(vmms: &[&Vmm], kernel: &Path, directory: &Path, rounds: u32) -> Result<Vec<Figure>> {
    let mut servers = vmms
        .iter()
        .map(|vmm| Server::start_vmm(vmm, kernel, directory))
        .collect::<Result<Vec<_>>>()?;
    servers.push(Server::start_echo(directory)?);
    // One round more than asked for: the first one fills caches and does not count.
    for number in 0..=rounds {
        for server in &mut servers {
            server.round()?;
            if number == 0 {
                server.rounds = Rounds::default();
            }
        }
    }
    let echo = servers
        .pop()
        .map(|mut echo| std::mem::take(&mut echo.rounds));
    let echo = echo.unwrap_or_default();
    let taken: Vec<Rounds> = servers
        .iter_mut()
        .map(|server| std::mem::take(&mut server.rounds))
        .collect();
    Ok(figures(&taken, &echo))
}

fn figures(taken: &[Rounds], echo: &Rounds) -> Vec<Figure> {
    type Part = fn(&Rounds) -> &Latencies;
    let one: Part = |rounds| &rounds.one;
    let clients: Part = |rounds| &rounds.clients;
    let pipelined: Part = |rounds| &rounds.pipelined;
    let figure = |name: &'static str, unit, of: &dyn Fn(&Rounds) -> f64| {
        Figure::alone(name, unit, taken.first().map_or(0.0, of)).beside_qemu(taken.get(1).map(of))
    };
    let rate = |name, part: Part| figure(name, "1/s", &|rounds| part(rounds).rate());
    let of_echo = |name, part: Part| {
        let limit = part(echo).rate();
        figure(name, "%", &|rounds| part(rounds).rate() / limit * 100.0)
    };
    let time = |name, part: Part, percentile| {
        figure(name, "us", &|rounds| part(rounds).percentile_us(percentile))
    };
    vec![
        rate("qmp.one", one),
        of_echo("qmp.one_of_echo", one),
        time("qmp.one_p50", one, 0.5),
        time("qmp.one_p99", one, 0.99),
        rate("qmp.clients_16", clients),
        of_echo("qmp.clients_16_of_echo", clients),
        time("qmp.clients_16_p50", clients, 0.5),
        time("qmp.clients_16_p99", clients, 0.99),
        rate("qmp.pipelined_100", pipelined),
        of_echo("qmp.pipelined_100_of_echo", pipelined),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_sends_back_to_each_of_its_clients() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("echo");
        let path = socket.clone();
        // It serves until the process ends.
        std::thread::spawn(move || echo::serve(&path));
        let mut clients = [0; 2].map(|_| Connection::to_echo(&socket).unwrap());
        for client in &mut clients {
            client.ask(3).unwrap();
        }
    }
}
