//! The sample kernel, compressed with the tools that build kernels:
//!
//! ```text
//! gzip -n -9
//! xz --check=crc32 --x86 --lzma2=dict=32MiB
//! lz4 -l -9
//! zstd -22 --ultra
//! ```
//!
//! each reading standard input, and but for gzip with the unpacked length behind it.

use std::collections::BTreeSet;
use std::io::Write;

use tempfile::NamedTempFile;
use vm_memory::Bytes;

use super::super::tests::sample::{self, START, put};
use super::*;
use crate::config::BootMethod;

const LZ4: &[u8] = include_bytes!("fixtures/vmlinux.lz4");
const FIXTURES: [&[u8]; 4] = [
    include_bytes!("fixtures/vmlinux.gz"),
    include_bytes!("fixtures/vmlinux.xz"),
    LZ4,
    include_bytes!("fixtures/vmlinux.zst"),
];
const MEMORY: u64 = 64 << 20;

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap()
}

fn file(content: &[u8]) -> Image {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    let mut image = Image::kernel(file.path()).unwrap();
    image.refresh().unwrap();
    image
}

fn boot(cmdline: &str) -> Boot {
    Boot {
        cmdline: cmdline.to_owned(),
        method: BootMethod::Direct,
        cache: None,
    }
}

fn open(bzimage: &[u8], cmdline: &str, memory: &GuestMemory) -> Result<Kernel, NotOpened> {
    open_with(bzimage, &boot(cmdline), memory)
}

fn open_with(bzimage: &[u8], boot: &Boot, memory: &GuestMemory) -> Result<Kernel, NotOpened> {
    let image = file(bzimage);
    let header = Header::read(&image, memory).unwrap();
    load(&image, &header, boot, &(0..0), memory)
}

/// Why a bzImage with this payload is left to the guest.
fn refusal(payload: &[u8]) -> String {
    let opened = open(&sample::bzimage_of(payload), "", &memory());
    opened.unwrap_err().to_string()
}

fn byte(memory: &GuestMemory, address: u64) -> u8 {
    memory.read_obj(GuestAddress(address)).unwrap()
}

fn wide(memory: &GuestMemory, kernel: &Kernel) -> u64 {
    let at = kernel.range.start + sample::WIDE[0];
    memory.read_obj(GuestAddress(at)).unwrap()
}

#[test]
fn kernels_of_every_format_are_unpacked_in_place() {
    for fixture in FIXTURES {
        let memory = memory();
        let kernel = open(&sample::bzimage_of(fixture), "nokaslr", &memory).unwrap();
        assert_eq!(kernel.entry, Entry::Linux64(GuestAddress(START + 0x10)));
        assert_eq!(kernel.range, START..START + sample::MEMORY_BYTES);
        assert_eq!(wide(&memory, &kernel), sample::linked(sample::WIDE[0]));
        for [_, address, file_bytes, memory_bytes] in sample::SEGMENTS {
            let last = address + file_bytes - 9;
            assert_eq!(byte(&memory, last), sample::content(last - START));
            let after = address + memory_bytes - 1;
            assert!(memory_bytes == file_bytes || byte(&memory, after) == 0);
        }
    }
}

#[test]
fn kernel_is_moved_in_memory_and_in_its_addresses() {
    let (mut places, mut offsets) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..20 {
        let memory = memory();
        let kernel = open(&sample::bzimage_of(LZ4), "", &memory).unwrap();
        let start = kernel.range.start;
        assert!(start >= START && start + (16 << 20) <= MEMORY, "{start:#x}");
        assert_eq!(start % (2 << 20), 0);
        assert_eq!(kernel.entry, Entry::Linux64(GuestAddress(start + 0x10)));
        assert_eq!(byte(&memory, start + 0x3001), sample::content(0x3001));
        let offset = wide(&memory, &kernel) - sample::linked(sample::WIDE[0]);
        assert_eq!(offset % (2 << 20), 0);
        assert!(START + offset + (16 << 20) <= 1 << 30, "{offset:#x}");
        assert_ne!(kernel.header.unwrap().loadflags & KASLR_FLAG, 0);
        places.insert(start);
        offsets.insert(offset);
    }
    // Of 17 places and 497 offsets: fewer come once in 10^13 runs and never.
    assert!(places.len() >= 4, "{places:x?}");
    assert!(offsets.len() >= 10, "{offsets:x?}");
}

#[test]
fn kernel_that_the_user_limits_to_some_memory_is_moved_in_its_addresses_alone() {
    let memory = memory();
    let kernel = open(&sample::bzimage_of(LZ4), "mem=60M", &memory).unwrap();
    assert_eq!(kernel.range.start, START);
    assert_ne!(kernel.header.unwrap().loadflags & KASLR_FLAG, 0);
}

#[test]
fn kernel_that_is_not_moved_says_so() {
    let mut fixed = sample::bzimage_of(LZ4);
    put(&mut fixed, 0x234, &[0]);
    let nokaslr = (sample::bzimage_of(LZ4), "nokaslr");
    for (bzimage, cmdline) in [nokaslr, (fixed, "")] {
        let kernel = open(&bzimage, cmdline, &memory()).unwrap();
        assert_eq!(kernel.range.start, START);
        assert_eq!(kernel.header.unwrap().loadflags & KASLR_FLAG, 0);
    }
}

#[test]
fn moved_kernel_keeps_clear_of_what_is_taken() {
    let taken = 20 << 20..45 << 20;
    let image = file(&sample::bzimage_of(LZ4));
    for _ in 0..20 {
        let memory = memory();
        let header = Header::read(&image, &memory).unwrap();
        let kernel = load(&image, &header, &boot(""), &taken, &memory).unwrap();
        assert_eq!(kernel.range.start, 48 << 20);
        assert_eq!(byte(&memory, taken.start), 0);
    }
}

#[test]
fn kernel_goes_above_4_gib_where_it_can() {
    let ranges = [
        (GuestAddress(0), 40 << 20),
        (GuestAddress(4 << 30), 64 << 20),
    ];
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let memory = GuestMemory::from_ranges(&ranges).unwrap();
        let kernel = open(&sample::bzimage_of(LZ4), "", &memory).unwrap();
        let is_above = kernel.range.start >= 4 << 30;
        assert_eq!(byte(&memory, kernel.range.start + 1), sample::content(1));
        seen.insert(is_above);
        if seen.len() == 2 {
            break;
        }
    }
    assert_eq!(seen.len(), 2);
    let mut low = sample::bzimage_of(LZ4);
    put(&mut low, 0x236, &[1]);
    for _ in 0..20 {
        let memory = GuestMemory::from_ranges(&ranges).unwrap();
        let kernel = open(&low, "", &memory).unwrap();
        assert!(kernel.range.end <= 40 << 20);
    }
}

#[test]
fn payloads_that_are_cut_or_changed_are_left_to_the_guest() {
    for fixture in FIXTURES {
        for at in [fixture.len() / 2, fixture.len() * 3 / 4] {
            let mut cut = fixture[..at].to_vec();
            cut.extend(&fixture[fixture.len() - 4..]);
            let text = refusal(&cut);
            assert!(text.contains("does not unpack"), "{text}");
        }
    }
    // Those with checksums notice any bit.
    for fixture in &FIXTURES[..2] {
        let mut changed = fixture.to_vec();
        changed[fixture.len() / 2] ^= 1;
        let text = refusal(&changed);
        assert!(text.contains("does not unpack"), "{text}");
    }
}

#[test]
fn length_that_is_not_the_payloads_is_noticed() {
    let length = u32::try_from(sample::vmlinux().len()).unwrap();
    for fixture in FIXTURES {
        for wrong in [length - 1, length + 1, 0, 100] {
            let mut changed = fixture.to_vec();
            let at = fixture.len() - 4;
            put(&mut changed, at, &wrong.to_le_bytes());
            let text = refusal(&changed);
            assert!(text.contains("unpack"), "{wrong}: {text}");
        }
    }
}

#[test]
fn length_larger_than_memory_is_refused_before_unpacking() {
    let mut changed = LZ4.to_vec();
    let at = LZ4.len() - 4;
    put(&mut changed, at, &u32::MAX.to_le_bytes());
    assert!(refusal(&changed).contains("does not fit"));
}

#[test]
fn payload_that_is_not_there_is_left_to_the_guest() {
    let mut image = sample::bzimage_of(LZ4);
    put(&mut image, 0x248, &u32::MAX.to_le_bytes());
    let opened = open(&image, "", &memory()).unwrap_err();
    assert!(matches!(opened, NotOpened::NoPayload));
    let opened = open(&sample::bzimage(&[0; 64]), "", &memory());
    assert!(matches!(opened.unwrap_err(), NotOpened::NoPayload));
}

#[test]
fn unknown_formats_are_named() {
    let text = refusal(b"BZh91AY&SY and so on");
    assert!(text.contains("[42, 5a, 68, 39, 31, 41]"), "{text}");
}

#[test]
fn alignments_that_no_kernel_has_are_refused() {
    for alignment in [0_u32, 0x1000, 0x30_0000, 0x8000_0000] {
        let mut image = sample::bzimage_of(LZ4);
        put(&mut image, 0x230, &alignment.to_le_bytes());
        let opened = open(&image, "", &memory()).unwrap_err();
        assert!(matches!(opened, NotOpened::Alignment(_)), "{opened}");
    }
}

#[test]
fn kernel_linked_elsewhere_than_its_header_says_is_left_to_the_guest() {
    let mut image = sample::bzimage_of(LZ4);
    put(&mut image, 0x258, &(START + (2 << 20)).to_le_bytes());
    let opened = open(&image, "", &memory()).unwrap_err();
    assert!(opened.to_string().contains("does not begin"), "{opened}");
}

#[test]
fn cached_kernel_is_the_same_and_a_spoilt_one_is_unpacked_again() {
    let directory = tempfile::TempDir::new().unwrap();
    let boot = Boot {
        cache: Some(Cache::open(&directory.path().join("cache")).unwrap()),
        ..boot("nokaslr")
    };
    let files = || {
        let files = std::fs::read_dir(directory.path().join("cache")).unwrap();
        files.map(|file| file.unwrap().path()).collect::<Vec<_>>()
    };
    for fixture in FIXTURES {
        let bzimage = sample::bzimage_of(fixture);
        let kernels = [(); 2].map(|()| {
            let memory = memory();
            open_with(&bzimage, &boot, &memory).unwrap();
            let mut kernel = vec![0; usize::try_from(sample::MEMORY_BYTES).unwrap()];
            memory.read_slice(&mut kernel, GuestAddress(START)).unwrap();
            kernel
        });
        assert!(kernels[0] == kernels[1]);
    }
    // LZ4 is not slow.
    assert_eq!(files().len(), FIXTURES.len() - 1);

    for file in files() {
        std::fs::write(file, b"no kernel").unwrap();
    }
    let memory = memory();
    let kernel = open_with(&sample::bzimage_of(FIXTURES[0]), &boot, &memory).unwrap();
    assert_eq!(wide(&memory, &kernel), sample::linked(sample::WIDE[0]));
    let lengths = files().into_iter().map(|it| it.metadata().unwrap().len());
    let mended = lengths.filter(|length| *length > 1000);
    assert_eq!(mended.count(), 1);
}
