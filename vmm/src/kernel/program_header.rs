//! Program headers of ELF-64 files (System V ABI, "Program Header").

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
