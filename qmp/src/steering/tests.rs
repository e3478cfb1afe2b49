use std::num::NonZero;

use super::*;
use crate::backend::RunState;
use crate::governor::{Driver, FIRST_PAUSE, STEP_TIME};
use crate::resize::Outcome;
use crate::testing::{Machine, RAM_BYTES};

const MIB: u64 = 1 << 20;
const STALL: Duration = DEFAULT_STALL_AFTER;

/// A machine with a driver that does as a test says, its steering, and a clock.
struct Bench {
    machine: Machine,
    steering: Steering,
    now: Instant,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let driver = Driver {
            number: 1,
            deflates_on_oom: true,
        };
        let machine = Machine {
            status: RunState::Running,
            driver: Some(driver),
            ..Machine::default()
        };
        let options = SteeringOptions {
            limits,
            stall_after: STALL,
        };
        let now = Instant::now();
        let mut bench = Self {
            machine,
            steering: Steering::new(options, now),
            now,
        };
        assert_eq!(bench.follow(), []);
        bench
    }

    fn ask(&mut self, mib: u64) {
        let asked = self.steering.ask(&mut self.machine, mib * MIB, self.now);
        asked.expect("a machine with a balloon");
    }

    fn follow(&mut self) -> Vec<Event> {
        self.steering.follow(&mut self.machine, self.now)
    }

    fn guest_has(&mut self, mib: u64) -> Vec<Event> {
        self.machine.actual_bytes = mib * MIB;
        self.follow()
    }

    /// What happens until the deadline, and at it.
    fn pass_to_deadline(&mut self) -> Vec<Event> {
        self.now = self.steering.deadline().expect("a deadline");
        self.follow()
    }

    fn state(&self) -> BalloonState {
        self.steering.resize().state()
    }

    fn asked(&self) -> u64 {
        self.machine.target_bytes.expect("asked") / MIB
    }
}

fn state(state: BalloonState, target: u64, actual: u64) -> Event {
    Event::BalloonState {
        state,
        sizes: sizes(target, actual),
    }
}

fn sizes(target: u64, actual: u64) -> Sizes {
    Sizes {
        target: target * MIB,
        actual: actual * MIB,
    }
}

#[test]
fn machine_is_told_at_once_and_what_follows_is_told_afterwards() {
    let mut bench = Bench::new(Limits::default());
    bench.ask(100);
    assert_eq!(bench.asked(), 100);
    assert_eq!(
        bench.follow(),
        [state(BalloonState::Inflating, 100, RAM_BYTES / MIB)]
    );
    assert_eq!(
        bench.guest_has(100),
        [state(BalloonState::Reached, 100, 100)]
    );
    assert_eq!(bench.steering.deadline(), None);
}

#[test]
fn guest_that_stalls_is_left_alone_and_asked_again_later() {
    let mut bench = Bench::new(Limits::default());
    bench.ask(100);
    bench.guest_has(200);
    assert_eq!(
        bench.pass_to_deadline(),
        [state(BalloonState::Stalled, 100, 200)]
    );
    assert_eq!(bench.asked(), 200);
    assert_eq!(bench.steering.deadline(), Some(bench.now + FIRST_PAUSE));
    assert_eq!(bench.pass_to_deadline(), []);
    assert_eq!((bench.asked(), bench.state()), (100, BalloonState::Stalled));
    assert_eq!(
        bench.guest_has(150),
        [state(BalloonState::Inflating, 100, 150)]
    );
    assert_eq!(bench.steering.deadline(), Some(bench.now + STALL));
}

#[test]
fn asking_a_guest_that_has_stalled_asks_it_at_once() {
    let mut bench = Bench::new(Limits::default());
    bench.ask(100);
    bench.guest_has(200);
    bench.pass_to_deadline();
    bench.ask(100);
    assert_eq!(bench.asked(), 100);
    bench.follow();
    assert_eq!(
        (bench.asked(), bench.state()),
        (100, BalloonState::Inflating)
    );
}

#[test]
fn stopped_machine_neither_stalls_nor_moves() {
    let mut bench = Bench::new(Limits::default());
    bench.ask(100);
    bench.follow();
    bench.machine.status = RunState::Paused;
    bench.follow();
    assert_eq!(bench.steering.deadline(), None);
    bench.now += 10 * STALL;
    assert_eq!(bench.follow(), []);
    bench.now += 10 * STALL;
    bench.machine.status = RunState::Running;
    assert_eq!(bench.follow(), []);
    assert_eq!(bench.steering.deadline(), Some(bench.now + STALL));
}

#[test]
fn guest_that_waits_for_its_rate_does_not_stall() {
    let mut bench = Bench::new(Limits {
        min: 0,
        max_rate: NonZero::new(10 * MIB),
    });
    bench.ask(100);
    bench.follow();
    for left in (150..256).rev() {
        assert_eq!(bench.asked(), left);
        assert_eq!(bench.guest_has(left), []);
        assert_eq!(bench.steering.deadline(), Some(bench.now + STEP_TIME));
        assert_eq!(bench.pass_to_deadline(), []);
    }
    assert_eq!(bench.state(), BalloonState::Inflating);
}

#[test]
fn guest_that_takes_pages_back_is_told_of_and_keeps_them() {
    let mut bench = Bench::new(Limits::default());
    bench.ask(100);
    bench.guest_has(120);
    let wish = bench.steering.resize().wish(bench.now + STALL);
    assert_eq!(
        bench.guest_has(130),
        [
            Event::BalloonDeflated {
                before: 100 * MIB,
                sizes: sizes(130, 130),
            },
            state(BalloonState::Reached, 130, 130),
        ]
    );
    assert_eq!(bench.asked(), 130);
    let outcome = wish.outcome(bench.steering.resize(), bench.now);
    assert_eq!(outcome, Some(Outcome::Deflated));
    assert_eq!(bench.steering.deadline(), None);
}

#[test]
fn what_a_guest_took_just_before_it_was_asked_is_told_too() {
    let mut bench = Bench::new(Limits::default());
    bench.ask(100);
    bench.guest_has(100);
    bench.machine.actual_bytes = 130 * MIB;
    bench.ask(90);
    let wish = bench.steering.resize().wish(bench.now + STALL);
    let told = bench.follow();
    assert_eq!(
        told[0],
        Event::BalloonDeflated {
            before: 100 * MIB,
            sizes: sizes(130, 130),
        }
    );
    assert_eq!(bench.asked(), 90);
    // Who waits for the new target is not told of the old one.
    assert_eq!(wish.outcome(bench.steering.resize(), bench.now), None);
}

#[test]
fn next_driver_starts_from_nothing_and_is_asked_for_all() {
    let mut bench = Bench::new(Limits::default());
    bench.ask(100);
    bench.guest_has(110);
    bench.machine.driver = None;
    bench.guest_has(256);
    bench.now += 2 * STALL;
    bench.machine.driver = Some(Driver {
        number: 2,
        deflates_on_oom: true,
    });
    bench.guest_has(256);
    bench.now += STALL / 2;
    bench.guest_has(250);
    assert_eq!(bench.state(), BalloonState::Inflating);
    assert_eq!(bench.steering.deadline(), Some(bench.now + STALL));
    assert_eq!(bench.asked(), 100);
}
