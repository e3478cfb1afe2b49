//! Work that is divided among the host's CPUs.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Does `work` for each of `items`, on as many threads as there are CPUs, each with an `S` of its own
/// that it keeps. A thread that cannot be had leaves its share to the others.
///
/// # Errors
/// One of those of `work`. What others had begun is done then, and the rest is not.
pub(super) fn side_by_side<T: Send, S: Default, E: Send>(
    items: Vec<T>,
    work: impl Fn(&mut S, T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(items.len());
    let items = Mutex::new(items.into_iter());
    let share = || {
        let mut own = S::default();
        loop {
            let next = items.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(item) = next else {
                return Ok(());
            };
            if let Err(error) = work(&mut own, item) {
                // Nobody else begins anything.
                items
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .by_ref()
                    .for_each(drop);
                return Err(error);
            }
        }
    };
    thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, share).ok();
        let others: Vec<_> = (1..threads).filter_map(spawn).collect();
        let own = share();
        let others = others.into_iter();
        let others = others.map(|it| it.join().unwrap_or_else(|panic| resume_unwind(panic)));
        others.fold(own, Result::and)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn each_item_is_worked_on_once() {
        let sum = AtomicU32::new(0);
        let work = |(): &mut (), item| {
            sum.fetch_add(item, Ordering::Relaxed);
            Ok::<_, ()>(())
        };
        side_by_side((1..=100).collect(), work).unwrap();
        assert_eq!(sum.into_inner(), 5050);
    }

    #[test]
    fn error_ends_the_work() {
        let done = AtomicU32::new(0);
        let work = |(): &mut (), item| {
            done.fetch_add(1, Ordering::Relaxed);
            if item == 0 { Err("wrong") } else { Ok(()) }
        };
        assert_eq!(side_by_side((0..1_000_000).collect(), work), Err("wrong"));
        assert!(done.into_inner() < 1_000_000);
    }

    #[test]
    fn nothing_to_do_is_done() {
        assert_eq!(
            side_by_side(Vec::<()>::new(), |(): &mut (), ()| Err(1)),
            Ok(())
        );
    }
}
