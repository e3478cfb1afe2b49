//! The smallest ELF files: one loadable segment, and the PVH note where asked for.
//!
//! ELF-64 object file format; the note is Xen's `XEN_ELFNOTE_PHYS32_ENTRY`.

use crate::LOAD_ADDRESS;

const EHDR_SIZE: u16 = 64;
const PHDR_SIZE: u16 = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const EM_X86_64: u16 = 62;
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// Where Linux maps programs that want to be at a fixed place.
const PROGRAM_ADDRESS: u64 = 0x40_0000;

/// `code` as an ELF kernel that is loaded and entered at [`LOAD_ADDRESS`].
pub(crate) fn kernel(code: &[u8], pvh_entry: Option<u64>) -> Vec<u8> {
    file(code, pvh_entry, |_| LOAD_ADDRESS)
}

/// `code` as a Linux program, entered at its first byte.
pub(crate) fn program(code: &[u8]) -> Vec<u8> {
    // Pages are mapped whole: address and offset in the file must agree within one.
    file(code, None, |offset| PROGRAM_ADDRESS + offset)
}

fn file(code: &[u8], pvh_entry: Option<u64>, address: impl Fn(u64) -> u64) -> Vec<u8> {
    let note = pvh_entry.map(pvh_note).unwrap_or_default();
    let segments: u16 = if note.is_empty() { 1 } else { 2 };
    let note_offset = u64::from(EHDR_SIZE) + u64::from(PHDR_SIZE) * u64::from(segments);
    let code_offset = (note_offset + note.len() as u64).next_multiple_of(16);
    let address = address(code_offset);

    let mut image = Vec::new();
    image.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    image.resize(16, 0);
    image.extend(2u16.to_le_bytes()); // e_type: executable
    image.extend(EM_X86_64.to_le_bytes());
    image.extend(1u32.to_le_bytes()); // e_version
    image.extend(address.to_le_bytes()); // e_entry
    image.extend(u64::from(EHDR_SIZE).to_le_bytes()); // e_phoff
    image.extend(0u64.to_le_bytes()); // e_shoff
    image.extend(0u32.to_le_bytes()); // e_flags
    image.extend(EHDR_SIZE.to_le_bytes());
    image.extend(PHDR_SIZE.to_le_bytes());
    image.extend(segments.to_le_bytes());
    image.extend([0; 6]); // no sections

    image.extend(program_header(PT_LOAD, code_offset, address, code.len()));
    if !note.is_empty() {
        image.extend(program_header(PT_NOTE, note_offset, 0, note.len()));
    }
    image.extend(note);
    image.resize(
        usize::try_from(code_offset).expect("a few hundred bytes"),
        0,
    );
    image.extend(code);
    image
}

fn program_header(kind: u32, offset: u64, address: u64, size: usize) -> Vec<u8> {
    let flags: u32 = 7;
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(flags.to_le_bytes());
    for word in [offset, address, address, size as u64, size as u64, 4] {
        header.extend(word.to_le_bytes());
    }
    header
}

fn pvh_note(entry: u64) -> Vec<u8> {
    let mut note = Vec::new();
    note.extend(4u32.to_le_bytes()); // size of the name
    note.extend(8u32.to_le_bytes()); // size of the address
    note.extend(XEN_ELFNOTE_PHYS32_ENTRY.to_le_bytes());
    note.extend(b"Xen\0");
    note.extend(entry.to_le_bytes());
    note
}
