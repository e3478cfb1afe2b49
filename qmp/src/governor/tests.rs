//! Hosts that want, and guests that give, take, are slow or stuck.

mod properties;

use super::*;

const MIB: u64 = 1 << 20;
const RAM: u64 = 1024 * MIB;
const LEFT_100: Noted = Noted::Deflated { before: 100 * MIB };

/// A governor, a guest that has all its memory, and a clock.
struct Bench {
    governor: Governor,
    view: View,
    now: Instant,
    is_stalled: bool,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        let driver = Driver {
            number: 1,
            deflates_on_oom: false,
        };
        let view = View {
            memory: RAM,
            asked: RAM,
            actual: RAM,
            driver: Some(driver),
            is_running: true,
        };
        let mut bench = Self {
            governor: Governor::new(limits),
            view,
            now: Instant::now(),
            is_stalled: false,
        };
        bench.follow();
        bench
    }

    /// With a driver that takes pages back.
    fn with_oom() -> Self {
        let mut bench = Self::new(Limits::default());
        bench.view.driver = Some(Driver {
            number: 1,
            deflates_on_oom: true,
        });
        bench
    }

    fn follow(&mut self) -> Noted {
        let noted = self.governor.look(&self.view, self.now);
        self.view.asked = self.governor.ask(&self.view, self.is_stalled, self.now);
        noted
    }

    /// What the guest is asked to have, in MiB, after somebody has said what it is to have.
    fn wish(&mut self, mib: u64) -> u64 {
        self.governor.look(&self.view, self.now);
        self.governor.wish(mib * MIB, &self.view);
        self.is_stalled = false;
        self.follow();
        self.view.asked / MIB
    }

    /// What the guest is asked to have, in MiB, when it has so much.
    fn guest_has(&mut self, mib: u64) -> u64 {
        self.view.actual = mib * MIB;
        self.follow();
        self.view.asked / MIB
    }

    /// The guest is to have 100 MiB, and stays at 200 until it is left alone.
    fn get_stuck(&mut self) {
        self.wish(100);
        self.guest_has(200);
        self.is_stalled = true;
        assert_eq!(self.pass(Duration::from_secs(5)), 200);
    }

    /// The guest goes so many MiB towards a size.
    fn go(&mut self, mib: u64, to: u64) {
        let actual = self.view.actual;
        let way = to.abs_diff(actual).min(mib * MIB);
        self.view.actual = if to < actual {
            actual - way
        } else {
            actual + way
        };
    }

    fn pass(&mut self, time: Duration) -> u64 {
        self.now += time;
        self.follow();
        self.view.asked / MIB
    }

    fn target(&self) -> u64 {
        self.governor.target(&self.view) / MIB
    }
}

#[test]
fn guest_is_asked_for_what_somebody_wants_in_whole_pages() {
    let mut bench = Bench::new(Limits::default());
    assert_eq!(bench.view.asked, RAM);
    assert_eq!(bench.wish(300), 300);
    bench.governor.wish(300 * MIB + 1, &bench.view);
    assert_eq!(bench.governor.target(&bench.view), 300 * MIB + 4096);
    assert_eq!(bench.wish(5000), 1024);
    assert_eq!(bench.governor.deadline(&bench.view), None);
}

#[test]
fn guest_keeps_the_least_whatever_is_wanted() {
    let mut bench = Bench::new(Limits {
        min: 256 * MIB,
        max_rate: None,
    });
    assert_eq!((bench.wish(1), bench.target()), (256, 256));
    assert_eq!(bench.wish(300), 300);
}

#[test]
fn least_above_ram_leaves_all_of_it() {
    let mut bench = Bench::new(Limits {
        min: 2 * RAM,
        max_rate: None,
    });
    assert_eq!(bench.wish(1), 1024);
}

fn with_rate(mib: u64) -> Bench {
    Bench::new(Limits {
        min: 0,
        max_rate: NonZero::new(mib * MIB),
    })
}

#[test]
fn guest_gives_a_step_at_a_time_where_there_is_a_rate() {
    let mut bench = with_rate(100);
    assert_eq!((bench.wish(500), bench.target()), (1014, 500));
    assert!(bench.guest_has(1014) >= 1014);
    assert!(bench.governor.holds_back(&bench.view));
    assert_eq!(
        bench.governor.deadline(&bench.view),
        Some(bench.now + STEP_TIME)
    );
    assert_eq!(bench.pass(STEP_TIME), 1004);
    // It has not come yet: nothing more is due.
    assert_eq!(bench.governor.deadline(&bench.view), None);
    assert_eq!(bench.pass(10 * STEP_TIME), 1004);
}

#[test]
fn rate_holds_for_a_guest_that_is_sent_up_and_down() {
    let mut bench = with_rate(100);
    bench.wish(500);
    bench.guest_has(1014);
    assert_eq!(bench.wish(1024), 1024);
    bench.guest_has(1024);
    assert_eq!(bench.wish(500), 1024);
    assert_eq!(bench.pass(STEP_TIME), 1014);
}

#[test]
fn guest_gets_memory_back_as_fast_as_it_can() {
    let mut bench = with_rate(10);
    bench.view.actual = 100 * MIB;
    assert_eq!(bench.wish(1000), 1000);
}

#[test]
fn rates_below_a_page_a_step_still_move() {
    let mut bench = Bench::new(Limits {
        min: 0,
        max_rate: NonZero::new(1),
    });
    bench.wish(500);
    assert_eq!(bench.view.asked, RAM - PAGE_BYTES);
}

#[test]
fn guest_that_is_stuck_is_left_alone_longer_each_time() {
    let mut bench = Bench::new(Limits::default());
    bench.get_stuck();
    assert_eq!(bench.target(), 100);
    for pause in [10, 20, 40, 60, 60].map(Duration::from_secs) {
        assert_eq!(
            bench.governor.deadline(&bench.view),
            Some(bench.now + pause)
        );
        assert_eq!(bench.pass(pause / 2), 200);
        assert_eq!(bench.pass(pause / 2), 100);
        assert_eq!(bench.governor.deadline(&bench.view), Some(bench.now + TRY));
        assert_eq!(bench.pass(TRY), 200);
    }
}

#[test]
fn guest_that_is_no_longer_stuck_is_asked_for_all() {
    let mut bench = Bench::new(Limits::default());
    bench.get_stuck();
    bench.is_stalled = false;
    assert_eq!(bench.guest_has(199), 100);
    bench.is_stalled = true;
    bench.pass(Duration::from_secs(5));
    assert_eq!(
        bench.governor.deadline(&bench.view),
        Some(bench.now + FIRST_PAUSE)
    );
    assert_eq!(bench.wish(50), 50);
}

#[test]
fn guest_without_a_driver_or_running_is_asked_for_all() {
    let mut bench = Bench::new(Limits::default());
    bench.view.driver = None;
    bench.wish(100);
    bench.is_stalled = true;
    assert_eq!(bench.pass(Duration::from_secs(5)), 100);
    assert_eq!(bench.governor.deadline(&bench.view), None);
}

#[test]
fn target_follows_a_guest_that_takes_pages_back() {
    let mut bench = Bench::with_oom();
    bench.wish(100);
    bench.guest_has(150);
    bench.view.actual = 151 * MIB;
    assert_eq!(bench.follow(), LEFT_100);
    assert_eq!((bench.target(), bench.view.asked), (151, 151 * MIB));
    // One that had given all, too.
    bench.wish(100);
    bench.guest_has(100);
    bench.view.actual = 110 * MIB;
    assert_eq!(bench.follow(), LEFT_100);
    assert_eq!(bench.target(), 110);
}

#[test]
fn target_stays_when_the_driver_does_not_say_that_it_takes_pages_back() {
    let mut bench = Bench::new(Limits::default());
    bench.wish(100);
    bench.guest_has(100);
    assert_eq!(bench.guest_has(110), 100);
}

#[test]
fn guest_on_its_way_to_a_former_target_has_not_taken_anything() {
    let mut bench = Bench::with_oom();
    bench.wish(100);
    bench.guest_has(100);
    bench.wish(500);
    bench.guest_has(200);
    bench.wish(100);
    assert_eq!(bench.guest_has(201), 100);
    assert_eq!(bench.guest_has(200), 100);
    assert_eq!(bench.guest_has(201), 100);
    bench.pass(GRACE);
    bench.view.actual = 202 * MIB;
    assert_eq!(bench.follow(), LEFT_100);
}

#[test]
fn guest_that_gives_back_what_it_gave_too_late_has_not_taken_anything() {
    let mut bench = Bench::with_oom();
    bench.get_stuck();
    // Its driver was still at work, and then finds that it has given more than it is asked for.
    bench.is_stalled = false;
    assert_eq!(bench.guest_has(199), 100);
    assert_eq!((bench.guest_has(200), bench.target()), (100, 100));
}

#[test]
fn driver_that_leaves_has_taken_nothing_for_the_guest() {
    let mut bench = Bench::with_oom();
    bench.wish(100);
    bench.guest_has(100);
    assert_eq!((bench.guest_has(1024), bench.target()), (100, 100));
}

#[test]
fn guest_that_is_stuck_stays_so_while_the_machine_stops() {
    let mut bench = Bench::new(Limits::default());
    bench.get_stuck();
    bench.view.is_running = false;
    assert_eq!(bench.pass(Duration::from_secs(5)), 200);
    bench.view.is_running = true;
    assert_eq!(bench.pass(Duration::from_secs(4)), 200);
    assert_eq!(bench.wish(90), 90);
}

#[test]
fn rate_is_kept_though_steps_are_whole_pages() {
    let mut bench = Bench::new(Limits {
        min: 0,
        max_rate: NonZero::new(64 << 10),
    });
    bench.wish(500);
    for _ in 0..100 {
        bench.view.actual = bench.view.asked;
        bench.pass(STEP_TIME);
    }
    let given = RAM - bench.view.asked;
    let expected = 640 << 10;
    assert!(given.abs_diff(expected) <= 2 * PAGE_BYTES, "{given}");
}

#[test]
fn new_driver_is_asked_for_what_somebody_wanted() {
    let mut bench = Bench::with_oom();
    bench.wish(100);
    bench.guest_has(100);
    bench.guest_has(300);
    assert_eq!(bench.target(), 300);
    bench.view.driver = Some(Driver {
        number: 2,
        deflates_on_oom: true,
    });
    assert_eq!((bench.guest_has(1024), bench.target()), (100, 100));
}
