//! How the guest follows the target of its balloon: whether it moves, has arrived, or is stuck.
//!
//! Pure logic; the caller gives sizes and time. Sizes are what the guest has left, in bytes, as in
//! `balloon` and `query-balloon`.

mod waiting;

use std::time::{Duration, Instant};

pub use waiting::{Outcome, Wish};

/// How long there may be no progress before the balloon counts as stalled, unless chosen otherwise.
pub const DEFAULT_STALL_AFTER: Duration = Duration::from_secs(5);

/// What the balloon is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BalloonState {
    /// Nobody has asked for anything.
    #[default]
    Idle,
    /// The guest is to give memory, and does.
    Inflating,
    /// The guest is to get memory back, and does.
    Deflating,
    /// The guest is not where it is to be, and has not come nearer for some time.
    Stalled,
    /// The guest is where it is to be.
    Reached,
}

impl BalloonState {
    /// The names of all of them.
    pub const NAMES: &[&str] = &["idle", "inflating", "deflating", "stalled", "reached"];

    /// The name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Inflating => "inflating",
            Self::Deflating => "deflating",
            Self::Stalled => "stalled",
            Self::Reached => "reached",
        }
    }
}

/// The balloon's sizes at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// What the guest is to have.
    pub target: u64,
    /// What the guest has, by its own word.
    pub actual: u64,
}

impl Sizes {
    fn distance(self) -> u64 {
        self.target.abs_diff(self.actual)
    }
}

/// A way from one size to another, from the moment it was asked for.
#[derive(Clone, Copy, Debug)]
struct Move {
    started: Instant,
    from: u64,
    /// The smallest distance to the target so far, and when it was reached. A guest that only goes
    /// to and fro makes no progress.
    nearest: u64,
    progress_at: Instant,
    /// When the target was reached.
    ended: Option<Instant>,
}

/// Watches how the guest follows the target.
#[derive(Debug)]
pub struct Resize {
    stall_after: Duration,
    state: BalloonState,
    since: Instant,
    sizes: Sizes,
    /// How many targets were set.
    wishes: u64,
    /// How often the target was given up, since the guest has gone away from it.
    given_up: u64,
    current: Option<Move>,
}

impl Resize {
    /// A balloon that nobody has asked for anything. It is stalled when there has been no
    /// progress for `stall_after`.
    pub fn new(stall_after: Duration, now: Instant) -> Self {
        Self {
            stall_after,
            state: BalloonState::Idle,
            since: now,
            sizes: Sizes::default(),
            wishes: 0,
            given_up: 0,
            current: None,
        }
    }

    /// The state now.
    pub fn state(&self) -> BalloonState {
        self.state
    }

    /// When the state came about.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The sizes that were told last.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Notes that the target is given up for what the guest has taken: that was not asked for, and
    /// is told by the next [`Self::observe`].
    pub fn give_up(&mut self) {
        self.given_up += 1;
    }

    /// Notes that a driver has come that starts from nothing.
    pub fn start_anew(&mut self, sizes: Sizes, now: Instant) {
        if self.current.is_some() {
            self.start(sizes, now);
        }
    }

    /// Notes that no progress could be made up to now. Without effect on a guest that has stalled.
    pub fn excuse(&mut self, now: Instant) {
        if self.state != BalloonState::Stalled
            && let Some(current) = &mut self.current
        {
            current.progress_at = now;
        }
    }

    /// Notes that somebody has set the target, be it the one that was set before. What follows
    /// from that is told by the next [`Self::observe`].
    pub fn ask(&mut self, sizes: Sizes, now: Instant) {
        self.wishes += 1;
        self.sizes = sizes;
        self.start(sizes, now);
    }

    /// Notes the sizes now; whether the state is another one than before.
    pub fn observe(&mut self, sizes: Sizes, now: Instant) -> bool {
        let is_moved = self.sizes.target != sizes.target;
        self.sizes = sizes;
        let before = self.state;
        if self.current.is_none() && sizes.distance() == 0 {
            return false;
        }
        let has_ended = self.current.is_none_or(|current| current.ended.is_some());
        // The guest has left its place without being asked, or is to be at another one.
        if is_moved || has_ended && sizes.distance() > 0 {
            self.start(sizes, now);
        }
        if let Some(current) = &mut self.current {
            self.state = current.advance(sizes, now, self.stall_after);
        }
        let changed = self.state != before;
        if changed {
            self.since = now;
        }
        changed
    }

    /// When [`Self::observe`] is to be called at the latest: then the guest will have stalled.
    pub fn deadline(&self) -> Option<Instant> {
        let moving = matches!(
            self.state,
            BalloonState::Inflating | BalloonState::Deflating
        );
        let current = self.current.filter(|_| moving)?;
        Some(current.progress_at + self.stall_after)
    }

    /// The mean speed of the move that is going on, or else of the last, in bytes per second.
    pub fn rate(&self, now: Instant) -> u64 {
        let Some(current) = self.current else {
            return 0;
        };
        let time = current
            .ended
            .unwrap_or(now)
            .saturating_duration_since(current.started);
        let bytes = u128::from(current.from.abs_diff(self.sizes.actual));
        let rate = (bytes * 1_000_000_000).checked_div(time.as_nanos());
        rate.map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
    }

    fn start(&mut self, sizes: Sizes, now: Instant) {
        self.current = Some(Move {
            started: now,
            from: sizes.actual,
            nearest: sizes.distance(),
            progress_at: now,
            ended: None,
        });
    }
}

impl Move {
    /// The state that follows from the sizes.
    fn advance(&mut self, sizes: Sizes, now: Instant, stall_after: Duration) -> BalloonState {
        let distance = sizes.distance();
        if distance < self.nearest {
            self.nearest = distance;
            self.progress_at = now;
        }
        if distance == 0 {
            self.ended.get_or_insert(now);
            BalloonState::Reached
        } else if now.saturating_duration_since(self.progress_at) >= stall_after {
            BalloonState::Stalled
        } else if sizes.actual > sizes.target {
            BalloonState::Inflating
        } else {
            BalloonState::Deflating
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(5);

    /// A balloon of which nothing is asked, and a clock.
    struct Bench {
        resize: Resize,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            let resize = Resize::new(STALL, now);
            let mut bench = Self { resize, now };
            bench.observe(100, 100);
            bench
        }

        fn ask(&mut self, target: u64, actual: u64) -> BalloonState {
            self.resize.ask(Sizes { target, actual }, self.now);
            self.observe(target, actual)
        }

        fn observe(&mut self, target: u64, actual: u64) -> BalloonState {
            self.resize.observe(Sizes { target, actual }, self.now);
            self.resize.state()
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }

        fn outcome(&self, wish: Wish) -> Option<Outcome> {
            wish.outcome(&self.resize, self.now)
        }
    }

    #[test]
    fn balloon_is_idle_until_somebody_asks() {
        let mut bench = Bench::new();
        assert_eq!(bench.observe(100, 100), BalloonState::Idle);
        assert_eq!(bench.ask(100, 100), BalloonState::Reached);
    }

    #[test]
    fn guest_that_gives_and_takes_inflates_and_deflates() {
        let mut bench = Bench::new();
        assert_eq!(bench.ask(50, 100), BalloonState::Inflating);
        assert_eq!(bench.observe(50, 70), BalloonState::Inflating);
        assert_eq!(bench.observe(50, 50), BalloonState::Reached);
        assert_eq!(bench.ask(80, 50), BalloonState::Deflating);
        assert_eq!(bench.observe(80, 80), BalloonState::Reached);
        assert_eq!(bench.resize.deadline(), None);
    }

    #[test]
    fn guest_without_progress_stalls_and_goes_on_when_it_moves() {
        let mut bench = Bench::new();
        bench.ask(50, 100);
        bench.pass(4);
        assert_eq!(bench.observe(50, 90), BalloonState::Inflating);
        assert_eq!(bench.resize.deadline(), Some(bench.now + STALL));
        bench.pass(5);
        assert_eq!(bench.observe(50, 90), BalloonState::Stalled);
        assert_eq!(bench.resize.deadline(), None);
        assert_eq!(bench.observe(50, 89), BalloonState::Inflating);
    }

    #[test]
    fn going_to_and_fro_is_no_progress() {
        let mut bench = Bench::new();
        bench.ask(50, 100);
        for _ in 0..5 {
            bench.pass(1);
            bench.observe(50, 80);
            bench.observe(50, 100);
        }
        bench.pass(1);
        assert_eq!(bench.observe(50, 80), BalloonState::Stalled);
    }

    #[test]
    fn asking_again_starts_anew() {
        let mut bench = Bench::new();
        bench.ask(50, 100);
        bench.pass(6);
        assert_eq!(bench.observe(50, 100), BalloonState::Stalled);
        assert_eq!(bench.ask(50, 100), BalloonState::Inflating);
    }

    #[test]
    fn guest_that_leaves_its_place_by_itself_is_seen() {
        let mut bench = Bench::new();
        bench.ask(50, 100);
        bench.observe(50, 50);
        bench.pass(60);
        assert_eq!(bench.observe(50, 60), BalloonState::Inflating);
        bench.pass(5);
        assert_eq!(bench.observe(50, 60), BalloonState::Stalled);
        assert_eq!(bench.observe(50, 50), BalloonState::Reached);
    }

    #[test]
    fn rate_is_that_of_the_move() {
        let mut bench = Bench::new();
        assert_eq!(bench.resize.rate(bench.now), 0);
        bench.ask(50, 100);
        bench.pass(2);
        bench.observe(50, 80);
        assert_eq!(bench.resize.rate(bench.now), 10);
        bench.pass(3);
        bench.observe(50, 50);
        bench.pass(100);
        assert_eq!(bench.resize.rate(bench.now), 10);
    }

    #[test]
    fn waiting_ends_when_the_target_is_reached_missed_or_replaced() {
        let mut bench = Bench::new();
        bench.ask(50, 100);
        let until = bench.now + Duration::from_secs(2);
        let wish = bench.resize.wish(until);
        assert_eq!(bench.outcome(wish), None);
        bench.pass(2);
        assert_eq!(bench.outcome(wish), Some(Outcome::Timeout));
        bench.pass(3);
        bench.observe(50, 100);
        assert_eq!(bench.outcome(wish), Some(Outcome::Stalled));
        bench.observe(50, 50);
        assert_eq!(bench.outcome(wish), Some(Outcome::Reached));
        bench.ask(50, 50);
        assert_eq!(bench.outcome(wish), Some(Outcome::Replaced));
    }
}
