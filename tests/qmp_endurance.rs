//! What ten thousand clients and a million commands leave behind in the machine's process: nothing.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use aerostat_tiny_guest::Script;
use common::machine::Machine;
use common::scaled;
use common::setup::Setup;

const LIMIT: Duration = Duration::from_secs(60);
/// What the process may have grown by, in KiB: fragments on the heap, pages of code not used before.
const GROWTH_KIB: u64 = 256;
/// Commands that are sent without a look at the replies.
const BATCH: usize = 50_000;

const NEGOTIATION: &str = "{'execute': 'qmp_capabilities'}";
const COMMAND: &str = "{'execute':'query-kvm'}";

/// Connects `count` clients one after the other: some go at once, some without a word, some in the
/// middle of one, and some negotiate, work and leave in order.
fn come_and_go(socket: &Path, count: usize) {
    for client in 0..count {
        let mut stream = UnixStream::connect(socket).expect("connect");
        stream.set_read_timeout(Some(LIMIT)).expect("time-out");
        let mut greeting = [0; 16];
        match client % 4 {
            0 => {}
            1 => stream.read_exact(&mut greeting).expect("greeting"),
            2 => stream.write_all(b"{'execute': 'qmp_").expect("write"),
            _ => {
                let request = format!("{NEGOTIATION}{COMMAND}");
                stream.write_all(request.as_bytes()).expect("write");
                let mut lines = BufReader::new(stream).lines();
                let reply = lines.nth(2).expect("reply").expect("line");
                assert!(reply.contains("present"), "{reply}");
            }
        }
    }
}

/// Sends `count` commands in a few large pieces, and reads all replies.
fn command(socket: &Path, count: usize) {
    let mut stream = UnixStream::connect(socket).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("time-out");
    stream.write_all(NEGOTIATION.as_bytes()).expect("write");
    let mut replies = stream.try_clone().expect("clone");
    let reader = thread::spawn(move || {
        // The greeting and the answer to the negotiation come first.
        let mut missing = count + 2;
        let mut buffer = vec![0; 1 << 18];
        while missing > 0 {
            let read = replies.read(&mut buffer).expect("read");
            assert!(read > 0, "{missing} replies are missing");
            missing -= buffer[..read].iter().filter(|b| **b == b'\n').count();
        }
    });
    let batch = COMMAND.repeat(BATCH.min(count));
    for _ in 0..count / BATCH.min(count) {
        stream.write_all(batch.as_bytes()).expect("write");
    }
    reader.join().expect("replies");
}

fn open_files(machine: &Machine) -> usize {
    let directory = format!("/proc/{}/fd", machine.pid());
    fs::read_dir(directory).expect("list").count()
}

/// Waits until the process has as many files open again.
fn wait_for_open_files(machine: &Machine, count: usize) {
    let deadline = Instant::now() + scaled(LIMIT);
    while open_files(machine) != count {
        assert!(
            Instant::now() < deadline,
            "{} are open",
            open_files(machine)
        );
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn ten_thousand_clients_and_a_million_commands_leave_nothing_behind() {
    let setup = Setup::tiny(Script::new()).expect("guest").flag("--paused");
    let machine = setup.start().expect("start");
    let first = machine.qmp().expect("connect");
    let files = open_files(&machine) - 1;
    drop(first);
    let socket = machine.socket();
    come_and_go(socket, 400);
    command(socket, BATCH);
    wait_for_open_files(&machine, files);
    let before = machine.resident_kib().expect("memory");

    come_and_go(socket, 10_000);
    command(socket, 1_000_000);

    wait_for_open_files(&machine, files);
    let after = machine.resident_kib().expect("memory");
    assert!(after <= before + GROWTH_KIB, "{before} KiB became {after}");
}
