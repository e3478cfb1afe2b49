//! Huge pages go whole: those of the pool back to it, transparent ones to form again.

use super::*;
use crate::memory::HugePageSize;
use crate::test_huge_pages::{self, HugePages};

const HUGE: Backing = Backing::HugeTlb(HugePageSize::Size2M);

#[test]
fn whole_huge_pages_go_back_to_the_pool_and_come_again() {
    let _pages = HugePages::take(9);
    let ram = ram_with(options(HUGE)).unwrap();
    write_all(&ram);
    let before = test_huge_pages::available();
    // Two huge pages and parts of two others.
    let done = release(&ram, &[run(511, 1026)]);
    assert_eq!((done.released_pages, done.partial_pages), (1024, 2));
    assert_eq!(test_huge_pages::available(), before + 2);
    assert_eq!(resident(&ram), 2 * PART - 4 * MIB);
    assert_eq!(written(&ram).len() as u64, (2 * PART - 4 * MIB) / 4096);
    assert_eq!(release(&ram, &[run(0, 511)]).released_pages, 0);
    ram.reserve(run(512, 1024));
    assert_eq!(test_huge_pages::available(), before);
    write_all(&ram);
    assert_eq!(test_huge_pages::available(), before);
}

#[test]
fn huge_pages_that_were_never_touched_go_back_to_the_pool_too() {
    let _pages = HugePages::take(9);
    let ram = ram_with(options(HUGE)).unwrap();
    let before = test_huge_pages::available();
    assert_eq!(release(&ram, &[run(0, 1024)]).released_pages, 1024);
    assert_eq!(test_huge_pages::available(), before + 2);
}

#[test]
fn huge_page_that_is_not_reserved_does_not_keep_others_from_the_pool() {
    let _pages = HugePages::take(8);
    let ram = ram_with(options(HUGE)).unwrap();
    assert_eq!(release(&ram, &[run(0, 512)]).released_pages, 512);
    test_huge_pages::leave(0);
    assert_eq!(release(&ram, &[run(0, 1536)]).released_pages, 1536);
    assert_eq!(test_huge_pages::available(), 2);
}

#[test]
fn reset_leaves_what_the_guest_has_not_touched_to_it() {
    let _pages = HugePages::take(8);
    let before = test_huge_pages::available();
    let ram = ram_with(options(HUGE)).unwrap();
    ram.memory().write_obj(1_u8, GuestAddress(0)).unwrap();
    // The host does not put a page anywhere but to give it back.
    let mut total = PageRelease::default();
    for part in &ram.0.parts {
        ram.0.release_all(part.whole(), &mut total);
    }
    assert_eq!((total.calls, total.released_pages), (2, 2 * PART / 4096));
    assert_eq!(test_huge_pages::available(), before - 7);
    ram.reset(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(test_huge_pages::available(), before - 8);
}

#[test]
fn huge_pages_of_the_pool_need_no_locking() {
    let _pages = HugePages::take(8);
    let ram = ram_with(RamOptions {
        lock: true,
        ..options(HUGE)
    });
    assert_eq!(mapped_kib(&ram.unwrap(), "Locked"), 0);
}

#[test]
fn all_is_reserved_for_a_guest_whose_driver_has_gone() {
    let _pages = HugePages::take(8);
    let before = test_huge_pages::available();
    let ram = ram_with(options(HUGE)).unwrap();
    write_all(&ram);
    release(&ram, &[run(0, 1024), run(SECOND / 4096, 512)]);
    assert_eq!(test_huge_pages::available(), before - 5);
    ram.reserve_all();
    assert_eq!(test_huge_pages::available(), before - 8);
}

#[test]
fn reset_makes_sure_that_the_pool_has_all_huge_pages_again() {
    let _pages = HugePages::take(8);
    let before = test_huge_pages::available();
    let ram = ram_with(options(HUGE)).unwrap();
    write_all(&ram);
    release(&ram, &[run(0, 2048)]);
    ram.reset(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(test_huge_pages::available(), before - 8);
    assert_eq!(resident(&ram), 0);
    // What is in the balloon goes to others, so that there is too little for the next guest.
    release(&ram, &[run(0, 2048)]);
    test_huge_pages::leave(0);
    let refused = ram.reset(&mut |_| ControlFlow::Continue(()));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("needs 4 huge pages of 2M"), "{refused}");
}

#[test]
fn too_small_a_pool_is_refused_with_what_is_needed_and_how_to_get_it() {
    let _pages = HugePages::take(5);
    test_huge_pages::leave(5);
    let refused = ram_with(options(HUGE)).unwrap_err().to_string();
    for part in [
        "needs 8 huge pages of 2M",
        "has 5 to give",
        "/proc/sys/vm/nr_hugepages",
        "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(test_huge_pages::available(), 5);
}

#[test]
fn memory_that_is_no_whole_number_of_huge_pages_is_refused_with_its_place() {
    let map = |start, bytes| {
        let ranges = [(GuestAddress(start), bytes)];
        let map = GuestRam::map(&ranges, options(HUGE), &mut |_| ControlFlow::Continue(()));
        map.unwrap_err().to_string()
    };
    let refused = map(1 << 32, 3 * MIB);
    assert!(
        refused.contains("3072 KiB of memory from 0x100000000"),
        "{refused}"
    );
    assert!(refused.contains("multiple of 2M"), "{refused}");
    assert!(map(MIB, 2 * MIB).contains("0x100000"));
}

#[test]
fn transparent_huge_pages_form_again_after_they_have_come_back() {
    let ram = ram_with(RamOptions {
        thp: Some(true),
        ..options(Backing::Anonymous)
    })
    .unwrap();
    write_all(&ram);
    let before = mapped_kib(&ram, "AnonHugePages");
    assert!(
        before > 0,
        "this test needs transparent huge pages: write madvise to \
         /sys/kernel/mm/transparent_hugepage/enabled, with memory free for them"
    );
    assert_eq!(
        release(&ram, &[run(0, PART / 4096)]).released_pages,
        PART / 4096
    );
    let between = mapped_kib(&ram, "AnonHugePages");
    assert!(between <= PART >> 10, "{between} of {before} KiB");
    write_all(&ram);
    let after = mapped_kib(&ram, "AnonHugePages");
    assert!(after > between, "{after} after {between} KiB");
}
