//! What of the ELF-64 format kernels need (System V ABI, "ELF Header" and "Program Header").

/// How every ELF file begins.
pub(super) const MAGIC: [u8; 4] = *b"\x7fELF";
/// ELF-64, in e_ident.
pub(super) const CLASS_64: u8 = 2;
/// Little-endian, in e_ident.
pub(super) const LITTLE_ENDIAN: u8 = 1;
/// EM_X86_64.
pub(super) const MACHINE_X86_64: u16 = 62;

/// Where the file header has its fields: e_ident's class and byte order, e_machine and so on.
pub(super) const CLASS_OFFSET: u8 = 4;
pub(super) const DATA_OFFSET: u8 = 5;
pub(super) const MACHINE_OFFSET: u8 = 18;
pub(super) const ENTRY_OFFSET: u8 = 24;
pub(super) const PHOFF_OFFSET: u8 = 32;
pub(super) const SHOFF_OFFSET: u8 = 40;
pub(super) const PHENTSIZE_OFFSET: u8 = 54;
pub(super) const PHNUM_OFFSET: u8 = 56;
pub(super) const SHENTSIZE_OFFSET: u8 = 58;
pub(super) const SHNUM_OFFSET: u8 = 60;
/// Bytes of the file header.
pub(super) const HEADER_BYTES: u8 = 64;

/// Bytes of a program header.
pub(super) const PROGRAM_HEADER_BYTES: usize = 56;
/// PT_LOAD: a part of the file that belongs into memory.
const LOAD: u32 = 1;

/// A part of an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProgramHeader {
    pub(super) is_loaded: bool,
    /// Where in the file it is.
    pub(super) offset: u64,
    /// Where in memory it belongs: its physical address.
    pub(super) address: u64,
    pub(super) file_bytes: u64,
    /// Bytes in memory; what the file does not have is zeroes.
    pub(super) memory_bytes: u64,
}

impl ProgramHeader {
    pub(super) fn parse(bytes: &[u8; PROGRAM_HEADER_BYTES]) -> Self {
        let word = |offset: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[offset..offset + 8]);
            u64::from_le_bytes(word)
        };
        let kind = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let (file_bytes, memory_bytes) = (word(32), word(40));
        Self {
            is_loaded: kind == LOAD,
            offset: word(8),
            address: word(24),
            file_bytes,
            // A file that says otherwise is wrong; its bytes count.
            memory_bytes: memory_bytes.max(file_bytes),
        }
    }

    /// The end in the file, or as much as there are addresses.
    pub(super) fn file_end(&self) -> u64 {
        self.offset.saturating_add(self.file_bytes)
    }

    /// The end in memory, or as much as there are addresses.
    pub(super) fn memory_end(&self) -> u64 {
        self.address.saturating_add(self.memory_bytes)
    }
}
