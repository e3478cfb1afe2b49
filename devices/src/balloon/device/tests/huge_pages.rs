//! Pages that wait for the rest of their huge page.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::test_huge_pages::{self, HugePages};
use crate::{Backing, HugePageSize, Pfn, RamOptions};

const MUST_TELL_HOST: u32 = 1 << 0;
/// Pages in a huge page.
const SIZE: u32 = 512;
/// The first huge page that no ring and no buffer is in.
const FIRST: u32 = SIZE;

fn transparent() -> RamOptions {
    RamOptions {
        thp: Some(true),
        ..RamOptions::default()
    }
}

fn of_the_pool() -> RamOptions {
    RamOptions {
        backing: Backing::HugeTlb(HugePageSize::Size2M),
        ..RamOptions::default()
    }
}

/// A driver with these features that has written all free pages.
fn running(ram: RamOptions, features: u32) -> TestDriver {
    let mut driver = TestDriver::with_backing(ram);
    driver.start_with(features, 2);
    driver.touch_all();
    driver
}

/// Sends `count` pages from `first`, 48 in a buffer, for which there is room.
fn send_run(driver: &mut TestDriver, queue: usize, first: u32, count: u32) {
    let pages: Vec<_> = (first..first + count).collect();
    for pages in pages.chunks(48) {
        driver.send(queue, pages);
    }
}

fn released(driver: &TestDriver) -> u32 {
    u32::try_from(driver.balloon.released_pages()).unwrap()
}

/// Lets the device serve its timer until it is not set any more.
fn let_time_pass(driver: &TestDriver) {
    let timer = driver.balloon.kept();
    let now = Timespec::default();
    let calls_within = |limit| {
        let mut fds = [PollFd::from_borrowed_fd(timer.as_fd(), PollFlags::IN)];
        poll(&mut fds, limit) == Ok(1)
    };
    // It may have called already, or while this looks.
    while timer.left().is_some() || calls_within(Some(&now)) {
        assert!(calls_within(None));
        assert!(timer.has_called());
        driver.balloon.release_kept();
    }
}

#[test]
fn guest_must_tell_only_where_pages_are_kept() {
    let offered = |ram| TestDriver::with_backing(ram).balloon.offered_features() & 1;
    let plain = RamOptions {
        thp: Some(false),
        ..RamOptions::default()
    };
    let memfd = RamOptions {
        backing: Backing::Memfd,
        ..RamOptions::default()
    };
    let _pages = HugePages::take(8);
    let offers = [plain, memfd, transparent(), of_the_pool()].map(offered);
    assert_eq!(offers, [0, 0, 1, 1]);
}

#[test]
fn huge_page_goes_when_its_last_page_comes() {
    let mut driver = running(transparent(), MUST_TELL_HOST);
    send_run(&mut driver, INFLATE, FIRST + 1, SIZE - 1);
    assert_eq!((released(&driver), driver.empty_pages()), (0, vec![]));
    assert_eq!(driver.used_index(INFLATE), 11);
    driver.send(INFLATE, &[FIRST]);
    assert_eq!(released(&driver), SIZE);
    assert_eq!(driver.empty_pages(), (FIRST..2 * SIZE).collect::<Vec<_>>());
    let_time_pass(&driver);
    assert_eq!(released(&driver), SIZE);
}

#[test]
fn pages_wait_on_while_others_come() {
    let mut driver = running(transparent(), MUST_TELL_HOST);
    driver.send(INFLATE, &[FIRST]);
    driver.send(INFLATE, &[FIRST + 7]);
    driver.balloon.release_kept();
    assert_eq!(released(&driver), 0);
    let_time_pass(&driver);
    assert_eq!(driver.empty_pages(), [FIRST, FIRST + 7]);
}

#[test]
fn rest_goes_page_by_page_when_no_more_comes() {
    let mut driver = running(transparent(), MUST_TELL_HOST);
    driver.send(INFLATE, &[FIRST + 9, FIRST + 8, FIRST + 3]);
    assert_eq!(released(&driver), 0);
    let_time_pass(&driver);
    assert_eq!(released(&driver), 3);
    assert_eq!(driver.empty_pages(), [FIRST + 3, FIRST + 8, FIRST + 9]);
    assert_eq!(driver.balloon.kept().left(), None);
}

#[test]
fn kick_without_pages_lets_the_rest_wait_no_longer() {
    let mut driver = running(transparent(), MUST_TELL_HOST);
    driver.send(INFLATE, &[FIRST]);
    let timer = driver.balloon.kept().as_fd();
    assert_eq!(
        poll(&mut [PollFd::from_borrowed_fd(timer, PollFlags::IN)], None),
        Ok(1)
    );
    driver.balloon.serve(INFLATE);
    assert!(driver.balloon.kept().has_called());
}

#[test]
fn page_that_the_guest_has_taken_back_is_not_released_later() {
    let mut driver = running(transparent(), MUST_TELL_HOST);
    driver.send(INFLATE, &[FIRST, FIRST + 1]);
    driver.send(DEFLATE, &[FIRST]);
    let_time_pass(&driver);
    assert_eq!(driver.empty_pages(), [FIRST + 1]);
    send_run(&mut driver, INFLATE, FIRST, SIZE);
    assert_eq!(driver.empty_pages().len(), SIZE as usize);
}

#[test]
fn pages_go_at_once_when_the_guest_need_not_tell() {
    let mut driver = running(transparent(), 0);
    driver.send(INFLATE, &[FIRST + 2]);
    assert_eq!(driver.empty_pages(), [FIRST + 2]);
    assert_eq!(driver.balloon.kept().left(), None);
}

#[test]
fn kept_pages_are_forgotten_with_their_driver() {
    for is_broken in [false, true] {
        let mut driver = running(transparent(), MUST_TELL_HOST);
        driver.send(INFLATE, &[FIRST]);
        if is_broken {
            driver.set_available_index(INFLATE, 1000);
            driver.balloon.serve(INFLATE);
        } else {
            driver.write(STATUS, 0);
        }
        assert_eq!(driver.balloon.kept().left(), None);
        driver.balloon.release_kept();
        driver.start_with(MUST_TELL_HOST, 2);
        send_run(&mut driver, INFLATE, FIRST + 1, SIZE - 1);
        assert!(driver.empty_pages().is_empty());
    }
}

#[test]
fn kept_pages_wait_while_the_machine_is_stopped() {
    let mut driver = running(transparent(), MUST_TELL_HOST);
    driver.send(INFLATE, &[FIRST]);
    driver.balloon.stop();
    assert_eq!(driver.balloon.kept().left(), None);
    driver.balloon.release_kept();
    assert!(driver.empty_pages().is_empty());
    driver.balloon.resume();
    let_time_pass(&driver);
    assert_eq!(driver.empty_pages(), [FIRST]);
}

#[test]
fn huge_page_whose_release_is_given_up_goes_when_the_batch_is_taken_again() {
    let mut driver = running(transparent(), MUST_TELL_HOST);
    send_run(&mut driver, INFLATE, FIRST, SIZE - 1);
    let (address, length) = driver.page_numbers(0, &[2 * FIRST - 1]);
    driver.describe(INFLATE, 0, address, length, 0);
    driver.make_available(INFLATE, 0);
    driver.balloon.is_halting.store(true, Ordering::Release);
    let take = |role: &mut RoleQueue| driver.balloon.take_batch(role);
    assert!(!driver.balloon.with_queue(INFLATE, take));
    assert_eq!(released(&driver), 0);
    driver.balloon.is_halting.store(false, Ordering::Release);
    driver.balloon.serve(INFLATE);
    assert_eq!(released(&driver), SIZE);
}

#[test]
fn pages_outside_of_memory_are_not_kept() {
    let mut driver = running(transparent(), MUST_TELL_HOST);
    driver.send(INFLATE, &[MEMORY_PAGES, MEMORY_PAGES + 1, u32::MAX]);
    assert_eq!(driver.balloon.kept().left(), None);
    assert_eq!(driver.used_index(INFLATE), 1);
}

#[test]
fn huge_page_of_the_pool_goes_only_as_a_whole_and_again_after_a_page_came_back() {
    let _pages = HugePages::take(8);
    let mut driver = running(of_the_pool(), MUST_TELL_HOST);
    send_run(&mut driver, INFLATE, FIRST, SIZE - 1);
    assert_eq!((released(&driver), driver.empty_pages()), (0, vec![]));
    assert_eq!(driver.balloon.kept().left(), None);
    driver.send(INFLATE, &[2 * SIZE - 1]);
    assert_eq!(released(&driver), SIZE);
    assert_eq!(driver.empty_pages().len(), SIZE as usize);

    driver.send(DEFLATE, &[FIRST + 7]);
    driver
        .memory
        .write_obj(1_u8, Pfn(FIRST + 7).address())
        .unwrap();
    driver.send(INFLATE, &[FIRST + 7]);
    assert_eq!(released(&driver), 2 * SIZE);
    assert_eq!(driver.empty_pages().len(), SIZE as usize);
}

#[test]
fn huge_pages_of_a_driver_that_goes_without_a_word_are_reserved_again() {
    let _pages = HugePages::take(8);
    for is_broken in [false, true] {
        let mut driver = running(of_the_pool(), MUST_TELL_HOST);
        let before = test_huge_pages::available();
        send_run(&mut driver, INFLATE, FIRST, 2 * SIZE);
        assert_eq!(test_huge_pages::available(), before + 2);
        if is_broken {
            driver.set_available_index(INFLATE, 1000);
            driver.balloon.serve(INFLATE);
        } else {
            driver.write(STATUS, 0);
        }
        assert_eq!(test_huge_pages::available(), before);
    }
}

#[test]
fn huge_page_is_reserved_before_the_guest_hears_that_it_may_use_it() {
    let _pages = HugePages::take(8);
    let mut driver = running(of_the_pool(), MUST_TELL_HOST);
    let before = test_huge_pages::available();
    send_run(&mut driver, INFLATE, FIRST, SIZE);
    let (address, length) = driver.page_numbers(0, &[FIRST]);
    driver.describe(DEFLATE, 0, address, length, 0);
    driver.make_available(DEFLATE, 0);
    driver.balloon.is_halting.store(true, Ordering::Release);
    let take = |role: &mut RoleQueue| driver.balloon.take_batch(role);
    assert!(!driver.balloon.with_queue(DEFLATE, take));
    assert_eq!(driver.used_index(DEFLATE), 0);
    assert_eq!(test_huge_pages::available(), before + 1);
    driver.balloon.is_halting.store(false, Ordering::Release);
    driver.balloon.serve(DEFLATE);
    assert_eq!(driver.used_index(DEFLATE), 1);
    assert_eq!(test_huge_pages::available(), before);
}

#[test]
fn without_telling_only_huge_pages_of_one_batch_go_back_to_the_pool() {
    let _pages = HugePages::take(8);
    let mut driver = running(of_the_pool(), 0);
    send_run(&mut driver, INFLATE, FIRST, SIZE);
    assert_eq!(released(&driver), 0);
    // All of one huge page in one buffer; its numbers stand in the second half of the first.
    let numbers: Vec<_> = (2 * SIZE..3 * SIZE).collect();
    let (address, length) = driver.page_numbers(0x10_0000 - BUFFER, &numbers);
    driver.describe(INFLATE, 0, address, length, 0);
    driver.make_available(INFLATE, 0);
    driver.balloon.serve(INFLATE);
    assert_eq!(released(&driver), SIZE);
}

/// What a guest does with some of its pages.
fn any_steps() -> impl Strategy<Value = Vec<(bool, u32, u32, bool)>> {
    let step = (any::<bool>(), FIRST..4 * SIZE, 1..700_u32, any::<bool>());
    prop::collection::vec(step, 1..12)
}

/// Inflates and deflates, and looks at every page after each step.
fn check_steps(ram: RamOptions, steps: &[(bool, u32, u32, bool)]) -> Result<(), TestCaseError> {
    let mut driver = running(ram, MUST_TELL_HOST);
    let mut in_balloon = vec![false; MEMORY_PAGES as usize];
    for &(deflates, first, count, waits) in steps {
        let count = count.min(4 * SIZE - first);
        let run = first as usize..(first + count) as usize;
        if deflates {
            send_run(&mut driver, DEFLATE, first, count);
            // The guest uses what it has taken back.
            for page in run.clone().filter(|&page| in_balloon[page]) {
                let page = u32::try_from(page).unwrap();
                let at = Pfn(page).address();
                driver.memory.write_obj(u64::from(page), at).unwrap();
            }
        } else {
            send_run(&mut driver, INFLATE, first, count);
        }
        in_balloon[run].fill(!deflates);
        if waits {
            let_time_pass(&driver);
        }
        let empty = driver.empty_pages();
        for page in &empty {
            prop_assert!(in_balloon[*page as usize], "page {page} is the guest's");
        }
        // Where parts have gone before, the rest of a huge page waits for its time.
        let goes_whole = ram.backing != Backing::Anonymous;
        for huge in (FIRST..4 * SIZE).step_by(SIZE as usize) {
            let mut pages = huge..huge + SIZE;
            if goes_whole && pages.all(|page| in_balloon[page as usize]) {
                let count = empty
                    .iter()
                    .filter(|page| **page / SIZE == huge / SIZE)
                    .count();
                prop_assert_eq!(count, SIZE as usize, "huge page at {}", huge);
            }
        }
    }
    if ram.backing == Backing::Anonymous {
        let_time_pass(&driver);
        let gone = driver.empty_pages();
        let given = (0..MEMORY_PAGES).filter(|page| in_balloon[*page as usize]);
        prop_assert_eq!(gone, given.collect::<Vec<_>>());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn guest_keeps_its_pages_and_whole_transparent_huge_pages_go(steps in any_steps()) {
        check_steps(transparent(), &steps)?;
    }

    #[test]
    fn guest_keeps_its_pages_and_whole_huge_pages_go_to_the_pool(steps in any_steps()) {
        let _pages = HugePages::take(8);
        check_steps(of_the_pool(), &steps)?;
        }
}
