//! What holds whatever hosts and guests do.

use proptest::prelude::*;

use super::*;

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
                Step::Obey(mib) => bench.go(mib, bench.view.asked),
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
                Orderly::Move(mib) => bench.go(mib, read),
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
