//! Bytes that decide what happens.

/// The bytes of an input; zeroes once they are used up.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub fn number(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// One of these.
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }

    /// How wide an access is, in bytes.
    pub fn width(&mut self) -> usize {
        1 + usize::from(self.byte() % 8)
    }
}
