//! What the guest is asked to have, from what somebody wants it to have.
//!
//! Mostly the same. It differs
//!
//! - where [`Limits`] are set: a guest is not asked below the least, and is asked to give step by
//!   step where there is a rate;
//! - while a guest is stuck: a driver that is asked for what it cannot give tries again and again,
//!   which costs CPU time in guest and host and the guest its caches. So it is asked for what it
//!   has given already, and for the rest now and then ([`FIRST_PAUSE`], [`MAX_PAUSE`], [`TRY`]);
//! - when the guest's driver takes pages back because the guest is short of memory: the target
//!   follows, else the driver would take away again what it has just given, for ever.
//!
//! Pure logic; the caller gives sizes and time. Sizes are what the guest has left, in bytes, as in
//! `balloon` and `query-balloon`.

use std::num::NonZero;
use std::time::{Duration, Instant};

/// How long a guest that is stuck is left alone at first; each time twice as long as before.
pub const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest that it is left alone.
pub const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How long it is asked again. Linux's driver tries five times a second.
pub const TRY: Duration = Duration::from_secs(1);
/// The time between two steps where there is a rate.
pub const STEP_TIME: Duration = Duration::from_millis(100);
/// How long a guest may still be on its way to what it was asked for before: Linux's driver reads
/// what it is asked for, works, and tells of that when it is done.
const GRACE: Duration = Duration::from_secs(2);
/// A balloon that loses more than this at once and is empty then is one whose driver leaves. A guest
/// that is short of memory takes a MiB at a time.
const LEAVING_BYTES: u64 = 16 << 20;
/// How many steps fit into a second.
const STEPS_PER_SECOND: u64 = 10;
/// Bytes in a page of the balloon.
const PAGE_BYTES: u64 = 4096;

/// What may be asked of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// It always keeps this much, in bytes.
    pub min: u64,
    /// It is asked to give at most so much, in bytes per second; `None` for as fast as it can.
    pub max_rate: Option<NonZero<u64>>,
}

/// The balloon and its guest at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// RAM: what the guest has when nothing is in the balloon.
    pub memory: u64,
    /// What it is asked to have.
    pub asked: u64,
    /// What it has, by the word of the driver that is there; RAM if that has said nothing yet.
    pub actual: u64,
    /// Its driver, if there is one.
    pub driver: Option<Driver>,
    /// Whether its CPUs run.
    pub is_running: bool,
}

/// A driver of the balloon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Tells it from the others that there were and will be.
    pub number: u64,
    /// It may take pages back when the guest is short of memory.
    pub deflates_on_oom: bool,
}

/// A guest that is stuck.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    /// When it is asked again or, while it is, left alone again.
    until: Instant,
    /// How long it is left alone.
    pause: Duration,
    is_tried: bool,
}

/// What a guest may still be asked to give.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    bytes: u64,
    /// What was too little for a page.
    rest: u64,
    /// When it was last made good.
    at: Instant,
}

/// What was seen last.
#[derive(Clone, Copy, Debug)]
struct Seen {
    driver: Option<u64>,
    actual: u64,
}

/// What has happened that nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// Nothing.
    Nothing,
    /// A driver has come or gone. What one could not give, the next may: the target is again what
    /// somebody wants.
    OtherDriver,
    /// The guest has taken pages back since it is short of memory, and the target has followed
    /// from what it was before.
    Deflated {
        /// The target before, in bytes.
        before: u64,
    },
}

/// Decides what the guest is asked to have.
#[derive(Debug, Default)]
pub struct Governor {
    limits: Limits,
    /// What somebody wants it to have, within the limits; `None` while nobody has said so.
    wish: Option<u64>,
    /// What it is to have: the wish, or more if it has taken pages back.
    target: Option<u64>,
    /// What it was asked to have before and may still be on its way to, and since when it is asked
    /// for less.
    excused: Option<(u64, Instant)>,
    allowance: Option<Allowance>,
    stuck: Option<Stuck>,
    seen: Option<Seen>,
}

impl Stuck {
    /// What follows from what was before, for a guest that is stuck now.
    fn after(before: Option<Self>, now: Instant) -> Self {
        match before {
            Some(stuck) if now < stuck.until => stuck,
            Some(Self {
                pause,
                is_tried: false,
                ..
            }) => Self {
                until: now + TRY,
                pause,
                is_tried: true,
            },
            Some(Self { pause, .. }) => Self::alone_for((pause * 2).min(MAX_PAUSE), now),
            None => Self::alone_for(FIRST_PAUSE, now),
        }
    }

    fn alone_for(pause: Duration, now: Instant) -> Self {
        Self {
            until: now + pause,
            pause,
            is_tried: false,
        }
    }
}

impl Governor {
    /// One that asks for nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// What may be asked of the guest.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What the guest is to have, which is what it is asked to have unless somebody has said.
    pub fn target(&self, view: &View) -> u64 {
        self.target.unwrap_or(view.asked)
    }

    /// Takes a new wish: made good to whole pages, no more than RAM and no less than the least.
    pub fn wish(&mut self, guest_bytes: u64, view: &View) {
        let least = self.limits.min.min(view.memory);
        let given = view.memory.saturating_sub(guest_bytes.max(least));
        let wish = view.memory - given / PAGE_BYTES * PAGE_BYTES;
        self.wish = Some(wish);
        self.target = Some(wish);
        self.stuck = None;
    }

    /// Notes how things stand, and what has happened since the last time.
    pub fn look(&mut self, view: &View, now: Instant) -> Noted {
        let driver = view.driver.map(|driver| driver.number);
        let seen = self.seen.replace(Seen {
            driver,
            actual: view.actual,
        });
        let Some(seen) = seen.filter(|seen| seen.driver == driver) else {
            self.target = self.wish;
            self.excused = None;
            self.stuck = None;
            self.make_good(now);
            return Noted::OtherDriver;
        };
        if let Some(allowance) = &mut self.allowance {
            let given = seen.actual.saturating_sub(view.actual);
            allowance.bytes = allowance.bytes.saturating_sub(given);
        }
        self.make_good(now);
        let is_over = |since: Instant| now.saturating_duration_since(since) >= GRACE;
        self.excused = self.excused.filter(|(_, since)| !is_over(*since));
        let takes = view.driver.is_some_and(|driver| driver.deflates_on_oom);
        let Some(before) = self.target else {
            return Noted::Nothing;
        };
        let excused = self.excused.map_or(0, |(excused, _)| excused);
        let asked = view.asked.max(before).max(excused);
        let taken = view.actual.saturating_sub(seen.actual);
        let leaves = view.actual == view.memory && taken > LEAVING_BYTES;
        if takes && taken > 0 && view.actual > asked && !leaves {
            self.target = Some(view.actual);
            self.stuck = None;
            return Noted::Deflated { before };
        }
        Noted::Nothing
    }

    /// What the guest is to be asked to have now; `is_stalled` tells whether it has come no nearer
    /// to its target for some time.
    pub fn ask(&mut self, view: &View, is_stalled: bool, now: Instant) -> u64 {
        let asked = self.asked(view, is_stalled, now);
        if asked < view.asked && view.actual < view.asked {
            let excused = self.excused.map_or(0, |(excused, _)| excused);
            self.excused = Some((excused.max(view.asked), now));
        }
        asked
    }

    fn asked(&mut self, view: &View, is_stalled: bool, now: Instant) -> u64 {
        let Some(target) = self.target else {
            return view.asked;
        };
        let is_stuck = is_stalled && view.actual > target && view.driver.is_some();
        self.stuck = match is_stuck {
            true if view.is_running => Some(Stuck::after(self.stuck, now)),
            // A machine that is stopped for a moment is no other than it was.
            true => self.stuck,
            false => None,
        };
        if self.stuck.is_some_and(|stuck| !stuck.is_tried) {
            return view.actual;
        }
        let allowed = self.allowance.map(|allowance| allowance.bytes);
        let least = allowed.map_or(0, |bytes| view.actual.saturating_sub(bytes));
        target.max(least)
    }

    /// Whether the guest has done all that it was asked for, and is still not where it is to be.
    pub fn holds_back(&self, view: &View) -> bool {
        self.stuck.is_none() && view.actual == view.asked && view.asked > self.target(view)
    }

    /// When [`Self::look`] and [`Self::ask`] are to be called at the latest.
    pub fn deadline(&self, view: &View) -> Option<Instant> {
        if !view.is_running {
            return None;
        }
        if let Some(stuck) = self.stuck {
            return Some(stuck.until);
        }
        let allowance = self.allowance.filter(|_| self.holds_back(view))?;
        Some(allowance.at + STEP_TIME)
    }

    /// Lets the guest give another step, when it is time.
    fn make_good(&mut self, now: Instant) {
        let Some(rate) = self.limits.max_rate else {
            return;
        };
        let step = (rate.get() / STEPS_PER_SECOND).max(PAGE_BYTES);
        let is_due =
            |allowance: Allowance| now.saturating_duration_since(allowance.at) >= STEP_TIME;
        if self.allowance.is_none_or(is_due) {
            let rest = self.allowance.map_or(0, |allowance| allowance.rest);
            let bytes = step.saturating_add(rest);
            self.allowance = Some(Allowance {
                bytes: bytes / PAGE_BYTES * PAGE_BYTES,
                rest: bytes % PAGE_BYTES,
                at: now,
            });
        }
    }
}

#[cfg(test)]
mod tests {
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
    }
}
