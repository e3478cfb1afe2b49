use proptest::prelude::*;

use super::*;

/// Pages in a huge page of these tests.
const SIZE: u32 = 128;
/// Huge pages of memory.
const HUGE_PAGES: u32 = 4;

fn run(first: u32, count: u64) -> PageRun {
    PageRun {
        first: Pfn(first),
        count,
    }
}

fn huge_pages() -> HugePages {
    HugePages::new(SIZE, true)
}

/// Takes pages out, and what has to be reserved for them.
fn deflated(huge: &mut HugePages, run: PageRun) -> Vec<PageRun> {
    huge.deflate(run);
    let mut broken = Vec::new();
    while let Some(run) = huge.broken() {
        broken.push(run);
        huge.reserved_broken();
    }
    broken
}

#[test]
fn huge_page_is_due_when_its_last_page_comes_and_not_before() {
    let mut huge = huge_pages();
    huge.inflate(run(64, 64));
    huge.inflate(run(0, 63));
    assert_eq!((huge.due(), huge.kept_pages()), (vec![], 127));
    huge.inflate(run(63, 1));
    assert_eq!((huge.due(), huge.kept_pages()), (vec![run(0, 128)], 0));
}

#[test]
fn neighbouring_huge_pages_are_due_as_one_run() {
    let mut huge = huge_pages();
    huge.inflate(run(100, 300));
    assert_eq!(huge.due(), [run(128, 256)]);
    assert_eq!(huge.kept(), [run(100, 28), run(384, 16)]);
}

#[test]
fn what_was_released_is_due_no_more_until_pages_have_left_and_come_again() {
    let mut huge = huge_pages();
    huge.inflate(run(0, 128));
    huge.released_due();
    huge.inflate(run(0, 128));
    assert_eq!(huge.due(), []);
    assert_eq!(deflated(&mut huge, run(5, 1)), [run(0, 128)]);
    assert_eq!((huge.due(), huge.kept_pages()), (vec![], 127));
    assert_eq!(deflated(&mut huge, run(7, 1)), []);
    huge.inflate(run(5, 3));
    assert_eq!(huge.due(), [run(0, 128)]);
}

#[test]
fn page_that_leaves_takes_its_huge_page_from_those_that_are_due() {
    let mut huge = huge_pages();
    huge.inflate(run(0, 128));
    assert_eq!(deflated(&mut huge, run(127, 1)), []);
    assert_eq!(huge.due(), []);
    assert_eq!(huge.kept(), [run(0, 127)]);
}

#[test]
fn huge_page_of_which_all_pages_have_left_is_forgotten() {
    let mut huge = huge_pages();
    huge.inflate(run(0, 256));
    huge.released_due();
    huge.deflate(run(0, u64::MAX));
    assert_eq!((huge.known.len(), huge.kept_pages()), (0, 0));
}

#[test]
fn time_is_set_once_and_again_when_pages_have_come_since() {
    let mut huge = huge_pages();
    huge.inflate(run(0, 1));
    assert!(huge.begin_to_wait());
    huge.inflate(run(1, 1));
    assert!(!huge.begin_to_wait());
    assert!(!huge.have_waited());
    assert!(huge.have_waited());
    assert!(huge.begin_to_wait());
    huge.inflate(run(2, 126));
    assert!(!huge.begin_to_wait());
    // All of them have gone meanwhile.
    assert!(huge.have_waited());
    assert!(huge.begin_to_wait());
    assert!(!huge.clear());
    assert!(huge.begin_to_wait());
}

#[test]
fn what_was_released_has_to_be_reserved_when_all_is_forgotten() {
    let mut huge = huge_pages();
    huge.inflate(run(0, 200));
    assert!(!huge.clear());
    huge.inflate(run(0, 200));
    huge.released_due();
    assert!(huge.clear());
    assert!(!huge.clear());
    huge.inflate(run(0, 128));
    huge.released_due();
    huge.deflate(run(0, 128));
    assert!(huge.clear());
}

#[test]
fn broken_huge_pages_are_named_until_they_are_reserved_or_whole_again() {
    let mut huge = huge_pages();
    huge.inflate(run(0, 512));
    huge.released_due();
    for page in [0, 128, 384] {
        huge.deflate(run(page, 1));
    }
    assert_eq!(huge.broken(), Some(run(0, 256)));
    assert_eq!(huge.broken(), Some(run(0, 256)));
    huge.inflate(run(128, 1));
    assert_eq!(huge.due(), [run(128, 128)]);
    assert_eq!(huge.broken(), Some(run(0, 128)));
    huge.reserved_broken();
    assert_eq!(huge.broken(), Some(run(384, 128)));
    huge.reserved_broken();
    assert_eq!(huge.broken(), None);
}

#[test]
fn pages_that_were_not_in_the_balloon_leave_without_effect() {
    let mut huge = huge_pages();
    huge.inflate(run(3, 1));
    assert_eq!(deflated(&mut huge, run(4, 1000)), []);
    assert_eq!(deflated(&mut huge, run(u32::MAX, u64::MAX)), []);
    assert_eq!(huge.kept(), [run(3, 1)]);
}

#[test]
fn without_memory_released_huge_pages_are_forgotten() {
    let mut huge = HugePages::new(SIZE, false);
    huge.inflate(run(0, 300));
    huge.released_due();
    assert_eq!(huge.kept(), [run(256, 44)]);
    assert_eq!(deflated(&mut huge, run(0, 1)), []);
    huge.released_kept();
    assert_eq!((huge.known.len(), huge.kept_pages()), (0, 0));
}

#[test]
fn last_huge_page_of_all_numbers_can_be_whole() {
    let mut huge = huge_pages();
    huge.inflate(run(u32::MAX - 127, 128));
    assert_eq!(huge.due(), [run(u32::MAX - 127, 128)]);
    huge.released_due();
    assert_eq!(deflated(&mut huge, run(u32::MAX, 1)).len(), 1);
}

/// What a guest does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Inflate(PageRun),
    Deflate(PageRun),
    /// The device releases what is due.
    Release,
    /// It releases what is kept, page by page.
    ReleaseKept,
}

fn any_step() -> impl Strategy<Value = Step> {
    let pages = SIZE * HUGE_PAGES;
    let run = (0..pages, 1..=300_u64)
        .prop_map(move |(first, count)| run(first, count.min(u64::from(pages - first))));
    prop_oneof![
        4 => run.clone().prop_map(Step::Inflate),
        2 => run.prop_map(Step::Deflate),
        2 => Just(Step::Release),
        1 => Just(Step::ReleaseKept),
    ]
}

/// What a balloon is, page by page.
struct Model {
    in_balloon: Vec<bool>,
    /// Huge pages that were released since a page of them came into the balloon last.
    released: Vec<bool>,
}

impl Model {
    fn pages(&self) -> impl Iterator<Item = usize> {
        0..self.in_balloon.len()
    }

    fn is_whole(&self, huge: usize) -> bool {
        let size = SIZE as usize;
        self.in_balloon[huge * size..][..size]
            .iter()
            .all(|page| *page)
    }
}

fn numbers(runs: &[PageRun]) -> Vec<usize> {
    let numbers = runs
        .iter()
        .flat_map(|run| u64::from(run.first.0)..run.end());
    numbers.map(|page| usize::try_from(page).unwrap()).collect()
}

proptest! {
    #[test]
    fn what_is_due_is_whole_and_unreleased_and_nothing_of_the_guests_is_ever_released(
        remembers: bool,
        steps in prop::collection::vec(any_step(), 0..60),
    ) {
        let mut huge = HugePages::new(SIZE, remembers);
        let pages = (SIZE * HUGE_PAGES) as usize;
        let mut model = Model {
            in_balloon: vec![false; pages],
            released: vec![false; HUGE_PAGES as usize],
        };
        for step in steps {
            match step {
                Step::Inflate(run) => {
                    huge.inflate(run);
                    for page in numbers(&[run]) {
                        // Without memory, a page that comes again counts as if it came anew.
                        if !model.in_balloon[page] {
                            model.released[page / SIZE as usize] = false;
                        }
                        model.in_balloon[page] = true;
                    }
                }
                Step::Deflate(run) => {
                    let broken = numbers(&deflated(&mut huge, run));
                    for page in numbers(&[run]) {
                        let of = page / SIZE as usize;
                        let was_released = model.released[of] && model.is_whole(of);
                        let is_told = broken.contains(&page);
                        prop_assert!(remembers || !is_told);
                        prop_assert!(!remembers || is_told == was_released || !model.is_whole(of));
                        model.in_balloon[page] = false;
                    }
                }
                Step::Release => {
                    for page in numbers(&huge.due()) {
                        prop_assert!(model.in_balloon[page], "page {page} is the guest's");
                        model.released[page / SIZE as usize] = true;
                    }
                    huge.released_due();
                }
                Step::ReleaseKept => {
                    for page in numbers(&huge.kept()) {
                        prop_assert!(model.in_balloon[page], "page {page} is the guest's");
                    }
                    if !remembers {
                        huge.released_kept();
                    }
                }
            }
            let kept = numbers(&huge.kept());
            prop_assert_eq!(u64::try_from(kept.len()).unwrap(), huge.kept_pages());
            if remembers {
                let due = numbers(&huge.due());
                for page in model.pages() {
                    let of = page / SIZE as usize;
                    let is_due = model.is_whole(of) && !model.released[of];
                    prop_assert_eq!(due.contains(&page), is_due, "page {}", page);
                    let is_kept = model.in_balloon[page] && !model.is_whole(of);
                    prop_assert_eq!(kept.contains(&page), is_kept, "page {}", page);
                }
            }
        }
    }
}
