//! A kernel that is none: segments as stock kernels have them, and a relocation table.

/// Where it is linked to be.
pub(crate) const START: u64 = 0x100_0000;
/// Virtual less physical addresses.
pub(crate) const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// Bytes from its first to its last in memory.
pub(crate) const MEMORY_BYTES: u64 = 0x20_9000;

/// A segment: offset in the file, physical address, bytes in the file and in memory.
pub(crate) const SEGMENTS: [[u64; 4]; 4] = [
    [0x20_0000, START, 0x4000, 0x4000],
    [0x40_0000, START + 0x20_0000, 0x1000, 0x1000],
    // The per-CPU segment: later ones are closer together in memory than in the file.
    [0x80_0000, START + 0x20_1000, 0x1000, 0x1000],
    [0x80_2000, START + 0x20_2000, 0x3000, 0x7000],
];

/// Offsets from its first byte on of what has to be changed when it is moved.
pub(crate) const WIDE: [u64; 2] = [0x100, 0x20_0008];
pub(crate) const INVERSE: [u64; 1] = [0x20_1010];
pub(crate) const NARROW: [u64; 2] = [0x204, 0x20_2ffc];

/// What a byte of the kernel is, by its offset in memory.
pub(crate) fn content(offset: u64) -> u8 {
    match offset % 16 {
        // Calls, which the filter of xz changes.
        0 => 0xe8,
        4 => 0,
        _ => (offset >> 4).to_le_bytes()[0],
    }
}

/// What has to be changed there.
pub(crate) fn linked(offset: u64) -> u64 {
    KERNEL_MAP + START + offset + 0x40
}

/// The ELF file with its relocation table.
pub(crate) fn vmlinux() -> Vec<u8> {
    let end = SEGMENTS[3][0] + SEGMENTS[3][2];
    let mut file = vec![0; usize::try_from(end).unwrap()];
    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &2_u16.to_le_bytes());
    put(&mut file, 18, &62_u16.to_le_bytes());
    put(&mut file, 24, &(START + 0x10).to_le_bytes());
    put(&mut file, 32, &64_u64.to_le_bytes());
    put(&mut file, 40, &end.to_le_bytes());
    put(&mut file, 54, &56_u16.to_le_bytes());
    put(&mut file, 56, &4_u16.to_le_bytes());
    put(&mut file, 58, &64_u16.to_le_bytes());
    put(&mut file, 60, &1_u16.to_le_bytes());
    for (header, [offset, address, file_bytes, memory_bytes]) in (64..).step_by(56).zip(SEGMENTS) {
        put(&mut file, header, &1_u32.to_le_bytes());
        put(&mut file, header + 8, &offset.to_le_bytes());
        put(&mut file, header + 24, &address.to_le_bytes());
        put(&mut file, header + 32, &file_bytes.to_le_bytes());
        put(&mut file, header + 40, &memory_bytes.to_le_bytes());
        for byte in 0..file_bytes {
            let at = usize::try_from(offset + byte).unwrap();
            file[at] = content(address - START + byte);
        }
    }
    for offset in WIDE {
        put(&mut file, in_file(offset), &linked(offset).to_le_bytes());
    }
    for offset in NARROW.into_iter().chain(INVERSE) {
        put(
            &mut file,
            in_file(offset),
            &linked(offset).to_le_bytes()[..4],
        );
    }
    // Section headers, of which there is one.
    file.extend([0; 64]);
    for list in [&WIDE[..], &INVERSE, &NARROW] {
        file.extend([0; 4]);
        for offset in list {
            file.extend(&(KERNEL_MAP + START + offset).to_le_bytes()[..4]);
        }
    }
    file
}

fn in_file(offset: u64) -> usize {
    let segment = SEGMENTS.iter().rev().find(|it| it[1] <= START + offset);
    let [file, address, ..] = segment.unwrap();
    usize::try_from(file + START + offset - address).unwrap()
}

pub(crate) fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// A bzImage of protocol 2.15 with one setup sector, and `code` behind it.
pub(crate) fn bzimage(code: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 1024];
    let paragraphs = u32::try_from(code.len() / 16).unwrap();
    put(&mut image, 0x1f1, &[1]);
    put(&mut image, 0x1f4, &paragraphs.to_le_bytes());
    put(&mut image, 0x1fe, &0xaa55u16.to_le_bytes());
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020fu16.to_le_bytes());
    put(&mut image, 0x211, &[1]);
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut image, 0x234, &[1]);
    put(&mut image, 0x236, &0b11u16.to_le_bytes());
    put(&mut image, 0x238, &100u32.to_le_bytes());
    put(&mut image, 0x258, &START.to_le_bytes());
    put(&mut image, 0x260, &0x20_0000u32.to_le_bytes());
    image.extend(code);
    image
}

/// A bzImage with `payload` some bytes into its code. Its kernel needs 16 MiB.
pub(crate) fn bzimage_of(payload: &[u8]) -> Vec<u8> {
    let mut code = vec![0; 0x2cc];
    code.extend(payload);
    code.resize(code.len().next_multiple_of(16), 0);
    let mut image = bzimage(&code);
    let length = u32::try_from(payload.len()).unwrap();
    put(&mut image, 0x248, &0x2cc_u32.to_le_bytes());
    put(&mut image, 0x24c, &length.to_le_bytes());
    put(&mut image, 0x260, &0x100_0000u32.to_le_bytes());
    image
}
