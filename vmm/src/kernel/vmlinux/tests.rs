//! Kernels in place, moved, and of forms that no kernel has.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::tests::sample::{self, MEMORY_BYTES, START, put, vmlinux};
use super::*;

const AT: usize = 2 << 20;

/// What is wrong with `file`.
fn refusal(file: &[u8]) -> String {
    Vmlinux::parse(file, START).unwrap_err().to_string()
}

/// The sample with a program header's field overwritten.
fn with_header(segment: usize, field: usize, value: u64) -> Vec<u8> {
    let mut file = vmlinux();
    put(&mut file, 64 + segment * 56 + field, &value.to_le_bytes());
    file
}

/// The bytes of `area` where the kernel's are, but for those that relocations change.
fn assert_in_place(area: &[u8], at: usize) {
    let changed: Vec<u64> = sample::WIDE
        .iter()
        .flat_map(|at| *at..at + 8)
        .chain(sample::NARROW.iter().flat_map(|at| *at..at + 4))
        .chain(sample::INVERSE.iter().flat_map(|at| *at..at + 4))
        .collect();
    for [_, address, file_bytes, memory_bytes] in sample::SEGMENTS {
        let first = address - START;
        for offset in first..first + memory_bytes {
            let expected = if offset < first + file_bytes {
                sample::content(offset)
            } else {
                0
            };
            let byte = area[at + usize::try_from(offset).unwrap()];
            assert!(byte == expected || changed.contains(&offset), "{offset:#x}");
        }
    }
}

#[test]
fn sample_is_understood() {
    let kernel = Vmlinux::parse(&vmlinux(), START).unwrap();
    assert_eq!(kernel.entry(), 0x10);
    assert_eq!(kernel.memory_bytes(), MEMORY_BYTES);
    assert!(kernel.has_relocations());
}

#[test]
fn entry_may_be_a_virtual_address() {
    let mut file = vmlinux();
    put(
        &mut file,
        24,
        &(sample::KERNEL_MAP + START + 0x20).to_le_bytes(),
    );
    assert_eq!(Vmlinux::parse(&file, START).unwrap().entry(), 0x20);
}

#[test]
fn segments_are_moved_down_to_their_places() {
    let mut area = vmlinux();
    let kernel = Vmlinux::parse(&area, START).unwrap();
    kernel.place(&mut area, AT).unwrap();
    assert_in_place(&area, AT);
}

#[test]
fn segments_are_moved_up_to_their_places() {
    let mut area = vmlinux();
    let kernel = Vmlinux::parse(&area, START).unwrap();
    area.resize(12 << 20, 0xff);
    kernel.place(&mut area, 9 << 20).unwrap();
    assert_in_place(&area, 9 << 20);
}

#[test]
fn segments_that_go_up_and_down_do_not_meet() {
    let mut area = vmlinux();
    let kernel = Vmlinux::parse(&area, START).unwrap();
    area.resize(12 << 20, 0xff);
    kernel.place(&mut area, 4 << 20).unwrap();
    assert_in_place(&area, 4 << 20);
}

#[test]
fn area_that_ends_before_the_kernel_is_refused() {
    let mut area = vmlinux();
    let kernel = Vmlinux::parse(&area, START).unwrap();
    let at = area.len() - usize::try_from(MEMORY_BYTES).unwrap() + 1;
    assert!(kernel.place(&mut area, at).is_err());
}

#[test]
fn moved_kernel_has_other_addresses() {
    let mut area = vmlinux();
    let kernel = Vmlinux::parse(&area, START).unwrap();
    kernel.place(&mut area, AT).unwrap();
    let image = &mut area[AT..AT + usize::try_from(MEMORY_BYTES).unwrap()];
    kernel.relocate(image, 0x60_0000).unwrap();
    let word = |offset: u64| {
        let at = usize::try_from(offset).unwrap();
        u32::from_le_bytes(*image[at..].first_chunk().unwrap())
    };
    let low = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap();
    for offset in sample::WIDE {
        assert_eq!(word(offset), low(sample::linked(offset) + 0x60_0000));
        assert_eq!(word(offset + 4), u32::MAX);
    }
    for offset in sample::NARROW {
        assert_eq!(word(offset), low(sample::linked(offset) + 0x60_0000));
    }
    for offset in sample::INVERSE {
        assert_eq!(word(offset), low(sample::linked(offset) - 0x60_0000));
    }
}

#[test]
fn file_without_a_table_cannot_be_moved() {
    let file = vmlinux();
    let end = usize::try_from(sample::SEGMENTS[3][0] + sample::SEGMENTS[3][2]).unwrap() + 64;
    let kernel = Vmlinux::parse(&file[..end], START).unwrap();
    assert!(!kernel.has_relocations());
}

#[test]
fn file_cut_anywhere_is_refused() {
    let file = vmlinux();
    for length in (0..300).chain((300..file.len() - 1).step_by(50_001)) {
        assert!(Vmlinux::parse(&file[..length], START).is_err(), "{length}");
    }
}

#[test]
fn other_files_are_refused_with_the_reason() {
    let mut file = vmlinux();
    file[0] = 0;
    assert_eq!(refusal(&file), "what it unpacks to is no ELF file");
    let mut file = vmlinux();
    file[4] = 1;
    assert_eq!(refusal(&file), "what it unpacks to is no kernel for x86-64");
    let mut file = vmlinux();
    put(&mut file, 54, &[32]);
    assert!(refusal(&file).contains("program headers"));
    let mut file = vmlinux();
    put(&mut file, 24, &(START - 1).to_le_bytes());
    assert!(refusal(&file).contains("entered outside"));
    assert!(refusal(&with_header(0, 24, START + 0x1000)).contains("does not begin"));
}

#[test]
fn segments_out_of_order_are_refused() {
    assert!(refusal(&with_header(1, 24, START + 0x1000)).contains("out of order"));
    assert!(refusal(&with_header(1, 8, 0x20_0000)).contains("out of order"));
}

#[test]
fn segment_larger_than_memory_is_refused() {
    let mut file = with_header(3, 40, u64::MAX);
    let kernel = Vmlinux::parse(&file, START).unwrap();
    assert!(kernel.place(&mut file, AT).is_err());
}

/// Where in the file something is said of the rest: in the headers, counted from its start, or in the
/// relocation table, counted from its end.
fn statement() -> impl Strategy<Value = usize> {
    let file = vmlinux().len();
    prop_oneof![0..64 + 4 * 56_usize, file - 32..file - 8]
}

/// Numbers that could be right, and such that cannot.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0..0x100_0000_u64,
        START..START + 0x100_0000,
        sample::KERNEL_MAP + START..=u64::MAX,
        Just(u64::MAX),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn file_that_says_anything_of_itself_is_refused_or_stays_in_its_area(
        statements in vec((statement(), number(), 1..=8_usize), 1..5),
        offset in (0..512_u64).prop_map(|place| place << 21),
    ) {
        let mut file = vmlinux();
        for (at, number, bytes) in statements {
            put(&mut file, at, &number.to_le_bytes()[..bytes]);
        }
        if let Ok(kernel) = Vmlinux::parse(&file, START) {
            prop_assert!(kernel.entry() < kernel.memory_bytes());
            let mut area = file;
            area.resize(12 << 20, 0);
            if kernel.place(&mut area, AT).is_ok() {
                let end = AT + usize::try_from(kernel.memory_bytes()).unwrap();
                prop_assert!(end <= area.len());
                // Whether everything to change is there does not matter.
                let _ = kernel.relocate(&mut area[AT..end], offset);
            }
        }
    }
}
