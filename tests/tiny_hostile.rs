//! Guests that attack their balloon, against the real process: QMP answers all the while, the
//! process does not grow, the log stays short, and a driver that behaves finds a balloon that works.
//!
//! What the device makes of each single thing is checked in `devices/tests`.

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aerostat_tiny_guest::{Attack, HostileGuest};
use common::machine::Machine;
use common::qmp::Client;
use common::scaled;
use common::setup::Setup;
use common::tiny::{DEVICE, PAGE};

const MEMORY: u64 = 64 << 20;
const PAGE_KIB: u64 = 4;
const LIMIT: Duration = Duration::from_secs(60);
/// CPUs beside the first where all take part.
const OTHERS: u16 = 3;
/// Rounds of an attack, and questions meanwhile, that are waited for each time.
const ROUNDS: usize = 1;
const QUESTIONS: usize = 200;
/// What the process may have grown by, in KiB: fragments on the heap, pages of code not used before.
const GROWTH_KIB: u64 = 512;
/// A device tells of its guest's faults no more often.
const LOG_INTERVAL_SECONDS: u64 = 5;

/// What the devices' lines about faults begin with.
const FAULTS: [&str; 2] = ["virtio-mmio", "balloon"];

/// A machine under attack.
struct Attacked {
    machine: Machine,
    qmp: Client,
    started: Instant,
}

/// What the process has: its memory in KiB while that of its guest is given back, open files, and
/// threads.
#[derive(Debug)]
struct Possessions {
    memory_kib: u64,
    files: usize,
    threads: usize,
}

impl Attacked {
    fn new(attack: Attack, others: u16) -> Self {
        Self::with(attack, others, |setup| setup)
    }

    fn with(attack: Attack, others: u16, options: impl FnOnce(Setup) -> Setup) -> Self {
        let started = Instant::now();
        let script = HostileGuest { attack, others }.script(DEVICE);
        let setup = Setup::tiny(script)
            .expect("guest")
            .argument("--balloon", "free-page-reporting=on")
            .argument("--cpus", (others + 1).to_string());
        let machine = options(setup).start().expect("start");
        let qmp = machine.qmp().expect("connect");
        Self {
            machine,
            qmp,
            started,
        }
    }

    fn rounds(&self) -> usize {
        self.machine.console.log().matches('.').count()
    }

    /// Asks, as fast as replies come, until the guest has done some rounds and enough was asked.
    fn question_under_attack(&mut self) {
        let deadline = Instant::now() + scaled(LIMIT);
        let first = self.rounds();
        let mut asked = 0;
        while asked < QUESTIONS || self.rounds() < first + ROUNDS {
            let actual = self.qmp.balloon_actual().expect("query-balloon");
            assert!(actual <= MEMORY);
            assert_eq!(self.qmp.status().expect("query-status"), "running");
            asked += 1;
            // What the guest tells is not kept for ever on this side.
            self.qmp.take_events();
            assert!(Instant::now() < deadline, "{} rounds", self.rounds());
        }
    }

    fn want_pages(&mut self, pages: u32) {
        let bytes = MEMORY - u64::from(pages) * PAGE;
        self.qmp.balloon(bytes).expect("balloon");
    }

    fn wait_for(&mut self, text: &str) -> String {
        self.machine.console.wait_for(text, LIMIT).expect("console")
    }

    /// The guest has been told to behave: its balloon works.
    fn see_that_the_balloon_works(&mut self) {
        let given = HostileGuest::GIVES;
        let left = MEMORY - u64::from(given) * PAGE;
        self.wait_for("behaves");
        let full_kib = self.machine.resident_kib().expect("RSS");
        self.want_pages(given);
        self.wait_for("inflated");
        self.qmp.wait_for_actual(left, LIMIT).expect("actual");
        let left_kib = self.machine.resident_kib().expect("RSS");
        let given_kib = u64::from(given) * PAGE_KIB;
        assert!(
            left_kib + given_kib * 9 / 10 < full_kib,
            "{full_kib} KiB became {left_kib}"
        );
        self.want_pages(0);
        self.wait_for("contents ");
        assert_eq!(self.wait_for("\n"), "0000000000000000");
        self.wait_for("deflated");
        self.qmp.wait_for_actual(MEMORY, LIMIT).expect("actual");
        self.machine.console.send("k").expect("type");
    }

    /// Resets the machine while it is paused, so that no memory of the guest is in use, and looks.
    /// It goes on afterwards, and behaves.
    fn reset(&mut self) -> Possessions {
        self.want_pages(HostileGuest::BEHAVE);
        self.qmp.execute("stop").expect("stop");
        self.qmp.execute("system_reset").expect("reset");
        let possessions = self.settled();
        self.qmp.execute("cont").expect("cont");
        self.see_that_the_balloon_works();
        possessions
    }

    /// What the process has once the threads of its CPUs have let go of the machine before.
    fn settled(&self) -> Possessions {
        let process = PathBuf::from(format!("/proc/{}", self.machine.pid()));
        let count = |folder: &str| {
            let entries = std::fs::read_dir(process.join(folder)).expect("proc");
            entries.count()
        };
        let mut seen = 0;
        common::wait_until(LIMIT, || std::mem::replace(&mut seen, count("fd")) == seen);
        Possessions {
            memory_kib: self.machine.resident_kib().expect("RSS"),
            files: count("fd"),
            threads: count("task"),
        }
    }

    /// What the devices logged so far: each kind of line no more often than it may.
    fn check_log(&self, known: &[&str]) {
        let text = self.machine.stderr();
        let mut lines: BTreeMap<&str, u64> = BTreeMap::new();
        for line in text.lines() {
            let (_, rest) = line.split_once("] ").expect("a level");
            let kind = rest.split([':', ' ']).next().expect("a word");
            *lines.entry(kind).or_default() += 1;
        }
        let most = self.started.elapsed().as_secs() / LOG_INTERVAL_SECONDS + 1;
        let is_few = |kind: &&str| lines.get(*kind).is_none_or(|count| *count <= most);
        assert!(known.iter().all(is_few), "{text}");
        assert!(lines.keys().all(|kind| known.contains(kind)), "{text}");
    }
}

/// A guest attacks; is told to behave and does, in the same machine; attacks again; and the machine
/// is reset, twice.
fn survive(attack: Attack, others: u16) {
    let mut attacked = Attacked::new(attack, others);
    attacked.question_under_attack();

    attacked.want_pages(HostileGuest::BEHAVE);
    attacked.see_that_the_balloon_works();

    attacked.question_under_attack();
    let before = attacked.reset();
    attacked.question_under_attack();
    let after = attacked.reset();

    assert_eq!(after.files, before.files);
    assert_eq!(after.threads, before.threads);
    assert!(
        after.memory_kib <= before.memory_kib + GROWTH_KIB,
        "{before:?} became {after:?}"
    );
    attacked.check_log(&FAULTS);
}

#[test]
fn kicks_without_end_and_of_queues_that_do_not_exist() {
    survive(Attack::Kicks, 0);
}

#[test]
fn resets_of_the_device_without_end() {
    survive(Attack::Resets, 0);
}

#[test]
fn drivers_that_come_and_go_without_end_do_not_fill_a_verbose_log() {
    let mut attacked = Attacked::with(Attack::Resets, 0, |setup| setup.flag("-v"));
    attacked.question_under_attack();
    attacked.check_log(&[&FAULTS[..], &["Kernel", "QMP", "Balloon"]].concat());
}

#[test]
fn sizes_of_the_balloon_that_go_to_and_fro() {
    survive(Attack::Sizes, 0);
}

#[test]
fn every_byte_of_the_device_read_and_written_in_every_width() {
    survive(Attack::Registers, 0);
}

#[test]
fn generation_of_the_configuration_read_without_end() {
    survive(Attack::Generation, 0);
}

#[test]
fn longest_buffers_of_the_same_page_in_all_queues() {
    survive(Attack::LongBuffers, 0);
}

#[test]
fn buffers_that_no_driver_should_use_in_all_queues() {
    survive(Attack::BadBuffers, 0);
}

#[test]
fn rings_given_to_the_balloon_and_over_each_other() {
    survive(Attack::LostRings, 0);
}

#[test]
fn available_rings_that_jump() {
    survive(Attack::Jumps, 0);
}

#[test]
fn queues_moved_while_the_device_works() {
    survive(Attack::MovedQueues, 0);
}

#[test]
fn several_cpus_at_the_device_at_once() {
    survive(Attack::AllCpus, OTHERS);
}
