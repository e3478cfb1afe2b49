//! Files that are kernels, and many that are not.

pub(super) mod sample;

use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;

use super::*;
use sample::{bzimage, put};

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), 64 << 20)]).unwrap()
}

fn file(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

fn kernel_file(content: &[u8]) -> Image {
    Image::kernel(file(content).path()).unwrap()
}

fn initrd_file(file: &NamedTempFile) -> Image {
    Image::initrd(file.path()).unwrap()
}

/// Where nothing else is.
const NOTHING: Range<u64> = 0..0;

fn load_kernel(image: &mut Image, memory: &GuestMemory) -> Result<Kernel, KernelError> {
    let checked = check(image, memory)?;
    let boot = Boot {
        cmdline: String::new(),
        method: BootMethod::GuestDecompress,
        cache: None,
    };
    super::load(image, &checked, &boot, &NOTHING, memory)
}

fn load(content: &[u8]) -> Result<Kernel, KernelError> {
    load_kernel(&mut kernel_file(content), &memory())
}

fn limits(content: &[u8]) -> Limits {
    check(&mut kernel_file(content), &memory())
        .unwrap()
        .limits()
}

/// What a user reads.
fn message(content: &[u8]) -> String {
    load(content).unwrap_err().to_string()
}

#[test]
fn bzimage_is_loaded_at_1_mib_and_entered_at_its_64_bit_entry() {
    let memory = memory();
    let code = [0xab; 4096];
    let kernel = load_kernel(&mut kernel_file(&bzimage(&code)), &memory).unwrap();
    assert_eq!(kernel.entry, Entry::Linux64(GuestAddress(0x10_0200)));
    assert_eq!(kernel.range, 0x10_0000..0x120_0000);
    let limits = limits(&bzimage(&code));
    assert_eq!(
        (limits.end, limits.cmdline, limits.initrd_max),
        (0x120_0000, 100, 0x7fff_ffff)
    );
    assert_eq!(
        memory.read_obj::<u8>(GuestAddress(0x10_0fff)).unwrap(),
        0xab
    );
}

#[test]
fn truncated_bzimage_is_refused_with_both_lengths() {
    let mut image = bzimage(&[0; 4096]);
    image.truncate(2000);
    let text = message(&image);
    assert!(
        text.contains("truncated: 5120 bytes are needed, it has 2000"),
        "{text}"
    );
}

#[test]
fn bzimage_cut_in_its_header_is_refused() {
    let mut image = bzimage(&[]);
    image.truncate(0x210);
    assert!(matches!(load(&image), Err(KernelError::Truncated { .. })));
}

#[test]
fn bzimage_of_an_old_protocol_is_refused_with_its_version() {
    let mut image = bzimage(&[]);
    put(&mut image, 0x206, &0x0209u16.to_le_bytes());
    assert!(message(&image).contains("boot protocol 2.9:"));
}

#[test]
fn bzimage_without_64_bit_entry_is_refused() {
    let mut image = bzimage(&[]);
    put(&mut image, 0x236, &[0]);
    assert!(message(&image).contains("no 64-bit entry"));
}

#[test]
fn kernel_larger_than_memory_is_refused_with_what_would_do() {
    let mut image = bzimage(&[]);
    put(&mut image, 0x260, &0x400_0000u32.to_le_bytes());
    let text = message(&image);
    assert!(
        text.contains("64 MiB") && text.contains("at least 80M"),
        "{text}"
    );
}

#[test]
fn elf_with_pvh_note_is_entered_by_pvh() {
    let kernel = load(&aerostat_tiny_guest::hello_elf()).unwrap();
    assert_eq!(
        kernel.entry,
        Entry::Pvh(GuestAddress(aerostat_tiny_guest::LOAD_ADDRESS))
    );
}

#[test]
fn elf_without_pvh_note_is_entered_at_its_64_bit_entry() {
    let kernel = load(&aerostat_tiny_guest::script_elf()).unwrap();
    assert_eq!(
        kernel.entry,
        Entry::Linux64(GuestAddress(aerostat_tiny_guest::LOAD_ADDRESS))
    );
}

#[test]
fn elf_cut_anywhere_is_refused_as_truncated_or_no_kernel() {
    let image = aerostat_tiny_guest::hello_elf();
    for length in 0..image.len() {
        let refused = load(&image[..length]).unwrap_err();
        assert!(
            matches!(
                refused,
                KernelError::Truncated { .. } | KernelError::NotAKernel { .. }
            ),
            "{length} bytes: {refused}"
        );
    }
}

#[test]
fn elf_of_another_architecture_is_refused_by_name() {
    let mut image = aerostat_tiny_guest::hello_elf();
    put(&mut image, 18, &183u16.to_le_bytes());
    assert!(message(&image).contains("ELF file for AArch64"));
    put(&mut image, 18, &3u16.to_le_bytes());
    put(&mut image, 4, &[1]);
    assert!(message(&image).contains("ELF file for i386"));
}

#[test]
fn elf_segment_past_memory_is_refused_with_what_would_do() {
    let mut image = aerostat_tiny_guest::script_elf();
    put(&mut image, 64 + 24, &0x1000_0000u64.to_le_bytes());
    assert!(message(&image).contains("at least 257M"));
}

#[test]
fn elf_segment_in_the_hole_or_under_1_mib_is_refused() {
    for address in [0u64, 0xc000_0000, u64::MAX] {
        let mut image = aerostat_tiny_guest::script_elf();
        put(&mut image, 64 + 24, &address.to_le_bytes());
        assert!(
            matches!(load(&image), Err(KernelError::LoadAddress { .. })),
            "{address:#x}"
        );
    }
}

#[test]
fn elf_entered_outside_its_segments_is_refused() {
    let mut image = aerostat_tiny_guest::script_elf();
    put(&mut image, 24, &0x1234u64.to_le_bytes());
    assert!(message(&image).contains("entry point is in none of its segments"));
}

#[test]
fn other_files_are_refused_with_a_hint_where_there_is_one() {
    assert!(message(b"").contains("the file is empty"));
    assert!(message(b"#!/bin/sh\n").contains("is not a kernel"));
    assert!(message(&[0x1f, 0x8b, 8, 0, 0]).contains("gzip"));
    assert!(message(b"070701000").contains("--initrd"));
}

#[test]
fn missing_file_and_directory_are_refused_with_the_reason() {
    let missing = Image::kernel(Path::new("/no/such/kernel")).unwrap_err();
    assert_eq!(missing.to_string(), "Cannot open kernel /no/such/kernel");
    let directory = Image::kernel(Path::new("/")).unwrap_err();
    assert!(matches!(directory, KernelError::Open { .. }));
}

#[test]
fn command_line_is_taken_up_to_the_kernels_limit() {
    let memory = memory();
    let limits = limits(&bzimage(&[]));
    let image = kernel_file(&bzimage(&[]));
    let write = |length| write_cmdline(&"x".repeat(length), &limits, &image, &memory);
    assert!(write(100).is_ok());
    let refused = write(101).unwrap_err().to_string();
    assert!(
        refused.contains("101 bytes") && refused.contains("takes 100"),
        "{refused}"
    );
}

#[test]
fn initrd_lies_at_the_end_of_memory() {
    let memory = memory();
    let limits = limits(&bzimage(&[]));
    let mut image = initrd_file(&file(b"ramdisk"));
    let initrd = place_initrd(&mut image, &limits, &memory).unwrap();
    load_initrd(&mut image, initrd, &memory).unwrap();
    assert_eq!(
        initrd,
        Initrd {
            start: GuestAddress((64 << 20) - 4096),
            bytes: 7
        }
    );
    let mut content = [0; 7];
    memory.read_slice(&mut content, initrd.start).unwrap();
    assert_eq!(&content, b"ramdisk");
}

#[test]
fn initrd_that_does_not_fit_behind_the_kernel_is_refused() {
    let limits = limits(&bzimage(&[]));
    let large = NamedTempFile::new().unwrap();
    large.as_file().set_len(60 << 20).unwrap();
    let refused = place_initrd(&mut initrd_file(&large), &limits, &memory())
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("Initrd") && refused.contains("at least 78M"),
        "{refused}"
    );
}

#[test]
fn open_file_is_loaded_again_when_its_path_is_gone() {
    let mut image = kernel_file(&bzimage(&[0; 4096]));
    let first = load_kernel(&mut image, &memory()).unwrap();
    let second = load_kernel(&mut image, &memory()).unwrap();
    assert_eq!((first.entry, first.range), (second.entry, second.range));
}

#[test]
fn file_that_was_cut_since_it_was_opened_is_refused() {
    let file = file(&bzimage(&[0; 4096]));
    let mut image = Image::kernel(file.path()).unwrap();
    file.as_file().set_len(2000).unwrap();
    let refused = load_kernel(&mut image, &memory()).unwrap_err();
    assert!(matches!(
        refused,
        KernelError::Truncated { actual: 2000, .. }
    ));
}

#[test]
fn pipe_is_refused_rather_than_waited_for() {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let refused = Image::kernel(&path).unwrap_err();
    assert!(matches!(refused, KernelError::Open { .. }));
}
