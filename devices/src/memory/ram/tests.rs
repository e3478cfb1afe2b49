//! Every backing: what was released is gone, and what comes back is there.

mod huge_pages;

use std::collections::BTreeMap;
use std::ptr::with_exposed_provenance_mut;

use proptest::prelude::*;
use rustix::io::Errno;
use vm_memory::Bytes;

use super::*;
use crate::Pfn;

/// Bytes of a range of this process that are in RAM (`mincore`): of a file, whether the process has
/// mapped them or not.
pub fn resident_bytes(address: usize, bytes: usize) -> u64 {
    let mut pages = vec![0_u8; bytes / 4096];
    let pointer = with_exposed_provenance_mut(address);
    // SAFETY: the vector has a byte for each page of the range.
    let result = unsafe { libc::mincore(pointer, bytes, pages.as_mut_ptr()) };
    assert_eq!(result, 0);
    pages.iter().map(|page| u64::from(page & 1)).sum::<u64>() * 4096
}

const MIB: u64 = 1 << 20;
/// Where the second part of the memory of these tests begins, and how large each is.
const SECOND: u64 = 16 * MIB;
const PART: u64 = 8 * MIB;

fn options(backing: Backing) -> RamOptions {
    RamOptions {
        backing,
        ..RamOptions::default()
    }
}

/// Two parts with a hole between them.
fn ram_with(options: RamOptions) -> Result<GuestRam, RamError> {
    let ranges = [(GuestAddress(0), PART), (GuestAddress(SECOND), PART)];
    GuestRam::map(&ranges, options, &mut |_| ControlFlow::Continue(()))
}

fn run(first: u64, count: u64) -> PageRun {
    PageRun {
        first: Pfn(u32::try_from(first).unwrap()),
        count,
    }
}

fn write_all(ram: &GuestRam) {
    for start in [0, SECOND] {
        for address in (start..start + PART).step_by(4096) {
            ram.memory()
                .write_obj(address | 1, GuestAddress(address))
                .unwrap();
        }
    }
}

/// The pages that hold what [`write_all`] has written.
fn written(ram: &GuestRam) -> Vec<u64> {
    let pages = (0..PART / 4096).chain(SECOND / 4096..(SECOND + PART) / 4096);
    let holds = |page: &u64| {
        let address = page * 4096;
        let value: u64 = ram.memory().read_obj(GuestAddress(address)).unwrap();
        assert!(value == 0 || value == address | 1);
        value != 0
    };
    pages.filter(holds).collect()
}

fn resident(ram: &GuestRam) -> u64 {
    let parts = ram.0.parts.iter();
    parts
        .map(|part| resident_bytes(part.address, usize::try_from(part.bytes).unwrap()))
        .sum()
}

fn release(ram: &GuestRam, runs: &[PageRun]) -> PageRelease {
    ram.release(runs, &|| false).unwrap()
}

/// The sum of a field, in KiB, over the mappings of guest memory (`/proc/self/smaps`).
fn mapped_kib(ram: &GuestRam, field: &str) -> u64 {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut sum = 0;
    let mut is_ours = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-')
            && let (Ok(start), Ok(end)) = (
                usize::from_str_radix(start, 16),
                usize::from_str_radix(end, 16),
            )
        {
            let is_part = |part: &Part| part.address < end && start < part.address + 1;
            is_ours = ram.0.parts.iter().any(is_part);
        } else if is_ours && first.strip_suffix(':') == Some(field) {
            sum += words.next().unwrap().parse::<u64>().unwrap();
        }
    }
    sum
}

/// What holds for memory that goes in pages of 4 KiB.
fn pages_go_and_come(options: RamOptions) {
    let ram = ram_with(options).unwrap();
    write_all(&ram);
    let all = resident(&ram);
    assert_eq!(all, 2 * PART);
    // Across the hole, one more, and one that is no memory.
    let across = run(PART / 4096 - 3, (SECOND - PART) / 4096 + 5);
    let runs = [run(3, 1), across, run(1 << 20, 7)];
    let done = release(&ram, &runs);
    assert_eq!(done.released_pages, 6, "{done:?}");
    assert_eq!(done.outside_pages, (SECOND - PART) / 4096 + 7);
    assert_eq!((done.refused_pages, done.partial_pages), (0, 0));
    assert_eq!(resident(&ram), all - 6 * 4096);
    let left = written(&ram);
    assert_eq!(left.len() as u64, 2 * PART / 4096 - 6);
    for gone in [
        3,
        PART / 4096 - 1,
        PART / 4096 - 3,
        SECOND / 4096,
        SECOND / 4096 + 1,
    ] {
        assert!(!left.contains(&gone), "{gone}");
    }
    write_all(&ram);
    assert_eq!(
        (written(&ram).len() as u64, resident(&ram)),
        (2 * PART / 4096, all)
    );
    ram.reset(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(resident(&ram), if options.prealloc { all } else { 0 });
    assert!(written(&ram).is_empty());
}

#[test]
fn pages_of_anonymous_memory_go_and_come() {
    pages_go_and_come(RamOptions {
        thp: Some(false),
        ..options(Backing::Anonymous)
    });
}

#[test]
fn pages_of_a_memfd_go_and_come() {
    pages_go_and_come(options(Backing::Memfd));
}

#[test]
fn pages_that_are_taken_in_advance_go_and_come_and_are_taken_again_by_a_reset() {
    for backing in [Backing::Anonymous, Backing::Memfd] {
        pages_go_and_come(RamOptions {
            prealloc: true,
            thp: Some(false),
            ..options(backing)
        });
    }
}

#[test]
fn pages_that_are_locked_go_and_come_and_stay_locked() {
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let options = RamOptions {
            lock: true,
            thp: Some(false),
            ..options(backing)
        };
        pages_go_and_come(options);
        let ram = ram_with(options).unwrap();
        assert_eq!(mapped_kib(&ram, "Locked"), 0);
        write_all(&ram);
        release(&ram, &[run(0, 256)]);
        assert_eq!(mapped_kib(&ram, "Locked"), (2 * PART - MIB) >> 10);
        write_all(&ram);
        assert_eq!(mapped_kib(&ram, "Locked"), (2 * PART) >> 10);
    }
}

#[test]
fn scattered_pages_of_anonymous_memory_go_with_one_call() {
    let ram = ram_with(RamOptions::default()).unwrap();
    write_all(&ram);
    let runs: Vec<_> = (0..500).map(|page| run(page * 2, 1)).collect();
    let done = release(&ram, &runs);
    let calls = if ram.0.vectored.works() { 1 } else { 501 };
    assert_eq!((done.released_pages, done.calls), (500, calls));
    assert_eq!(written(&ram).len() as u64, 2 * PART / 4096 - 500);
}

proptest! {
    #[test]
    fn exactly_the_pages_of_the_runs_are_released(
        runs in prop::collection::vec((0..60_u64, 1..9_u64), 0..20),
        takes_vectors: bool,
        is_file: bool,
    ) {
        // 16 pages at 0 and 16 more from page 32.
        let ranges = [(GuestAddress(0), 16 * 4096), (GuestAddress(32 * 4096), 16 * 4096)];
        let backing = if is_file { Backing::Memfd } else { Backing::Anonymous };
        let ram = GuestRam::map(&ranges, options(backing), &mut |_| ControlFlow::Continue(()));
        let ram = ram.unwrap();
        if !takes_vectors {
            ram.0.vectored.give_up();
        }
        let pages = || (0..16).chain(32..48_u64);
        for page in pages() {
            ram.memory().write_obj(1_u8, GuestAddress(page * 4096)).unwrap();
        }
        let runs: Vec<_> = runs.into_iter().map(|(first, count)| run(first, count)).collect();
        let done = release(&ram, &runs);
        for page in pages() {
            let left: u8 = ram.memory().read_obj(GuestAddress(page * 4096)).unwrap();
            let is_in = |run: &PageRun| (u64::from(run.first.0)..run.end()).contains(&page);
            prop_assert_eq!(left == 0, runs.iter().any(is_in), "page {}", page);
        }
        let all = runs.iter().map(|run| run.count).sum::<u64>();
        prop_assert_eq!(done.released_pages + done.outside_pages, all);
        prop_assert_eq!((done.refused_pages, done.partial_pages), (0, 0));
    }
}

#[test]
fn memory_of_vm_memory_goes_as_anonymous_memory_does() {
    let ranges = [
        (GuestAddress(0), 16 * 4096),
        (GuestAddress(32 * 4096), 16 * 4096),
    ];
    let ram = GuestRam::from(GuestMemory::from_ranges(&ranges).unwrap());
    for page in 0..16 {
        ram.memory()
            .write_obj(1_u8, GuestAddress(page * 4096))
            .unwrap();
    }
    let done = release(&ram, &[run(14, 20), run(u32::MAX.into(), 1)]);
    assert_eq!((done.released_pages, done.outside_pages), (4, 17));
    let left: u8 = ram.memory().read_obj(GuestAddress(15 * 4096)).unwrap();
    assert_eq!(left, 0);
    assert_eq!(ram.granularity(), Granularity::Pages);
}

#[test]
fn release_is_given_up_when_somebody_wants_it() {
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let ram = ram_with(options(backing)).unwrap();
        write_all(&ram);
        assert_eq!(ram.release(&[run(0, 1)], &|| true), Err(GivenUp));
        assert_eq!(written(&ram).len() as u64, 2 * PART / 4096);
    }
}

#[test]
fn populating_is_interrupted_when_the_watch_says_so() {
    let ranges = [(GuestAddress(0), PART)];
    let options = RamOptions {
        prealloc: true,
        ..RamOptions::default()
    };
    let mut told = Vec::new();
    let mapped = GuestRam::map(&ranges, options, &mut |progress| {
        told.push(progress);
        ControlFlow::Break(())
    });
    assert!(matches!(mapped, Err(RamError::Interrupted)));
    assert_eq!(told.len(), 1);
}

#[test]
fn memory_outlives_the_handle_that_mapped_it() {
    let memory = ram_with(options(Backing::Memfd)).unwrap().memory().clone();
    memory.write_obj(5_u8, GuestAddress(SECOND)).unwrap();
    assert_eq!(memory.read_obj::<u8>(GuestAddress(SECOND)).unwrap(), 5);
}

#[test]
fn mappings_are_aligned_to_huge_pages_and_go_with_the_last_handle() {
    let mut starts = BTreeMap::new();
    for backing in [Backing::Anonymous, Backing::Memfd] {
        let ram = ram_with(options(backing)).unwrap();
        for part in &ram.0.parts {
            assert!(part.address.is_multiple_of(2 << 20));
            starts.insert(part.address, backing);
        }
        let weak: Vec<_> = ram
            .0
            .parts
            .iter()
            .filter_map(|part| part.mapping.as_ref())
            .map(Arc::downgrade)
            .collect();
        drop(ram);
        assert!(weak.iter().all(|weak| weak.upgrade().is_none()));
    }
    assert!(!starts.is_empty());
}

#[test]
fn locking_more_than_allowed_is_refused_with_the_limit() {
    let error = RamError::Lock {
        bytes: 2 << 30,
        limit: Some(8 << 20),
        source: Errno::NOMEM.into(),
    };
    let text = error.to_string();
    for part in [
        "2048 MiB",
        "8192 KiB",
        "RLIMIT_MEMLOCK",
        "ulimit -l",
        "LimitMEMLOCK=",
    ] {
        assert!(text.contains(part), "{text}");
    }
}
