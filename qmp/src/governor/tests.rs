//! Hosts that want, and guests that give, take, are slow or stuck.

use proptest::prelude::*;

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
    bench.wish(100);
    bench.guest_has(200);
    bench.is_stalled = true;
    assert_eq!(bench.pass(Duration::from_secs(5)), 200);
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
    bench.wish(100);
    bench.guest_has(200);
    bench.is_stalled = true;
    assert_eq!(bench.pass(Duration::from_secs(5)), 200);
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
    bench.wish(100);
    bench.guest_has(200);
    bench.is_stalled = true;
    assert_eq!(bench.pass(Duration::from_secs(5)), 200);
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
    bench.wish(100);
    bench.guest_has(200);
    bench.is_stalled = true;
    bench.pass(Duration::from_secs(5));
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

/// What may happen between two looks.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Somebody wants the guest to have so many MiB.
    Wish(u64),
    /// The guest goes so many MiB towards what it is asked for.
    Obey(u64),
    /// The guest has so many MiB, whatever it is asked for.
    Jump(u64),
    /// So many milliseconds pass.
    Pass(u64),
    /// The guest comes no nearer, or does.
    Stall(bool),
    /// Another driver comes.
    Driver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..2000u64).prop_map(Step::Wish),
        (0..2000u64).prop_map(Step::Obey),
        (0..1024u64).prop_map(Step::Jump),
        (0..20_000u64).prop_map(Step::Pass),
        any::<bool>().prop_map(Step::Stall),
        Just(Step::Driver),
    ]
}

/// What happens where a driver does what it is told, be it that it has not read the last word yet.
#[derive(Clone, Debug)]
enum Orderly {
    /// Somebody wants the guest to have so many MiB.
    Wish(u64),
    /// The driver reads what it is asked for.
    Read,
    /// It goes so many MiB towards what it has read.
    Move(u64),
    /// Milliseconds pass, in which the driver reads.
    Pass(u64),
}

fn orderly() -> impl Strategy<Value = Orderly> {
    prop_oneof![
        (0..1100u64).prop_map(Orderly::Wish),
        Just(Orderly::Read),
        (1..600u64).prop_map(Orderly::Move),
        (1..4000u64).prop_map(Orderly::Pass),
    ]
}

proptest! {
    #[test]
    fn guest_is_never_asked_for_more_than_was_wanted_or_allowed(
        steps in proptest::collection::vec(step(), 0..60),
        min in 0..1024u64,
        rate in proptest::option::of(1..2000u64),
    ) {
        let max_rate = rate.and_then(|rate| NonZero::new(rate * MIB));
        let mut bench = Bench::new(Limits { min: min * MIB, max_rate });
        let mut deflates = false;
        for step in steps {
            match step {
                Step::Wish(mib) => { bench.wish(mib); }
                Step::Obey(mib) => {
                    let (asked, actual) = (bench.view.asked, bench.view.actual);
                    let way = asked.abs_diff(actual).min(mib * MIB);
                    bench.view.actual = match asked < actual {
                        true => actual - way,
                        false => actual + way,
                    };
                }
                Step::Jump(mib) => bench.view.actual = mib * MIB,
                Step::Pass(ms) => bench.now += Duration::from_millis(ms),
                Step::Stall(is_stalled) => bench.is_stalled = is_stalled,
                Step::Driver => {
                    deflates = !deflates;
                    let number = bench.view.driver.map_or(0, |driver| driver.number) + 1;
                    bench.view.driver = Some(Driver { number, deflates_on_oom: deflates });
                    bench.view.actual = RAM;
                }
            }
            bench.follow();
            let View { asked, actual, .. } = bench.view;
            let target = bench.governor.target(&bench.view);
            prop_assert!(target >= min * MIB && target <= RAM);
            prop_assert!(asked >= target && asked <= RAM);
            let given = actual.saturating_sub(asked);
            let step = rate.map_or(RAM, |rate| rate * MIB / STEPS_PER_SECOND);
            prop_assert!(given <= step + PAGE_BYTES, "{given} at once");
            let is_due = |deadline| deadline > bench.now;
            prop_assert!(bench.governor.deadline(&bench.view).is_none_or(is_due));
        }
    }

    #[test]
    fn driver_that_does_as_it_was_told_has_taken_nothing_for_the_guest(
        steps in proptest::collection::vec(orderly(), 0..60),
        rate in proptest::option::of(1..2000u64),
    ) {
        let max_rate = rate.and_then(|rate| NonZero::new(rate * MIB));
        let mut bench = Bench::with_oom();
        bench.governor.limits.max_rate = max_rate;
        let mut read = RAM;
        let mut wish = None;
        for step in steps {
            match step {
                Orderly::Wish(mib) => {
                    bench.wish(mib);
                    wish = Some(mib.min(RAM / MIB));
                }
                Orderly::Read => read = bench.view.asked,
                Orderly::Move(mib) => {
                    let actual = bench.view.actual;
                    let way = read.abs_diff(actual).min(mib * MIB);
                    bench.view.actual = match read < actual {
                        true => actual - way,
                        false => actual + way,
                    };
                }
                Orderly::Pass(ms) => {
                    bench.pass(Duration::from_millis(ms));
                    read = bench.view.asked;
                }
            }
            prop_assert_eq!(bench.follow(), Noted::Nothing);
            if let Some(wish) = wish {
                prop_assert_eq!(bench.target(), wish);
            }
        }
    }
}
