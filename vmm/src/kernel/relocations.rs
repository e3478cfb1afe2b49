//! What has to be changed in a kernel that runs at other addresses than those for which it was linked.
//!
//! Linux, `arch/x86/tools/relocs.c` (`emit_relocs`): lists of 32-bit words, each of which, with its
//! sign extended, is the virtual address of something to change. A zero stands before each list: one
//! of 64-bit addresses, up to Linux 6.14 one of 32-bit offsets against which the per-CPU segment's
//! addresses count backwards, and one of 32-bit addresses.

use super::payload::NotOpened;

const WORD_BYTES: usize = 4;

/// What is to be changed, each as its virtual address without the upper 32 bits, which are ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Relocations {
    /// 64-bit addresses.
    wide: Vec<u32>,
    /// 32-bit offsets that become smaller as the kernel moves up.
    inverse: Vec<u32>,
    /// 32-bit addresses.
    narrow: Vec<u32>,
}

impl Relocations {
    /// Understands what is behind the ELF file; `None` when there is nothing: the kernel cannot be
    /// moved.
    pub(super) fn parse(table: &[u8]) -> Result<Option<Self>, NotOpened> {
        let words: Vec<u32> = table
            .chunks_exact(WORD_BYTES)
            .map(|word| {
                word.iter()
                    .rev()
                    .fold(0, |value, byte| value << 8 | u32::from(*byte))
            })
            .collect();
        if words.is_empty() {
            return Ok(None);
        }
        if words[0] != 0 || !table.len().is_multiple_of(WORD_BYTES) {
            return Err(NotOpened::Content("has a relocation table of another form"));
        }
        let mut lists = words[1..].split(|word| *word == 0).map(<[u32]>::to_vec);
        let lists = [lists.next(), lists.next(), lists.next(), lists.next()];
        let (wide, inverse, narrow) = match lists {
            [Some(wide), Some(narrow), None, None] => (wide, Vec::new(), narrow),
            [Some(wide), Some(inverse), Some(narrow), None] => (wide, inverse, narrow),
            _ => return Err(NotOpened::Content("has a relocation table of another form")),
        };
        Ok(Some(Self {
            wide,
            inverse,
            narrow,
        }))
    }

    /// Moves the kernel in `image`, which was linked to have its first byte at the virtual address
    /// `linked`, up by `offset` bytes.
    ///
    /// # Errors
    /// When something to change is not in `image`.
    pub(super) fn apply(
        &self,
        image: &mut [u8],
        linked: u64,
        offset: u64,
    ) -> Result<(), NotOpened> {
        // The kernel's addresses are the last 2 GiB: their lower halves are all that differs.
        let [low, _] = halves(linked);
        let [narrow_offset, _] = halves(offset);
        change(image, low, &self.wide, |value: [u8; 8]| {
            u64::from_le_bytes(value).wrapping_add(offset).to_le_bytes()
        })?;
        change(image, low, &self.inverse, |value: [u8; 4]| {
            u32::from_le_bytes(value)
                .wrapping_sub(narrow_offset)
                .to_le_bytes()
        })?;
        change(image, low, &self.narrow, |value: [u8; 4]| {
            u32::from_le_bytes(value)
                .wrapping_add(narrow_offset)
                .to_le_bytes()
        })
    }
}

/// Changes what `image` has at each of `addresses`; its first byte is at `first`.
fn change<const N: usize>(
    image: &mut [u8],
    first: u32,
    addresses: &[u32],
    change: impl Fn([u8; N]) -> [u8; N],
) -> Result<(), NotOpened> {
    for address in addresses {
        let place = address
            .checked_sub(first)
            .and_then(|at| image.get_mut(at as usize..))
            .and_then(<[u8]>::first_chunk_mut)
            .ok_or(NotOpened::Content("has relocations outside of the kernel"))?;
        *place = change(*place);
    }
    Ok(())
}

/// The lower half first.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn three_lists_are_wide_inverse_and_narrow() {
        let table = table(&[0, 1, 2, 0, 3, 0, 4, 5]);
        let relocations = Relocations::parse(&table).unwrap().unwrap();
        assert_eq!(
            relocations,
            Relocations {
                wide: vec![1, 2],
                inverse: vec![3],
                narrow: vec![4, 5],
            }
        );
    }

    #[test]
    fn two_lists_are_wide_and_narrow() {
        let relocations = Relocations::parse(&table(&[0, 1, 0, 4])).unwrap().unwrap();
        assert_eq!(
            relocations,
            Relocations {
                wide: vec![1],
                inverse: vec![],
                narrow: vec![4],
            }
        );
    }

    #[test]
    fn nothing_is_a_kernel_that_cannot_be_moved() {
        assert_eq!(Relocations::parse(&[]).unwrap(), None);
    }

    #[test]
    fn tables_of_another_form_are_not_understood() {
        for words in [&[1, 2][..], &[0], &[0, 1], &[0, 1, 0, 2, 0, 3, 0, 4]] {
            assert!(Relocations::parse(&table(words)).is_err(), "{words:?}");
        }
        assert!(Relocations::parse(&[0, 0, 0, 0, 1, 0]).is_err());
    }

    #[test]
    fn addresses_grow_and_inverse_offsets_shrink() {
        let mut image = [0; 24];
        image[8..16].copy_from_slice(&0xffff_ffff_8100_0000_u64.to_le_bytes());
        image[16..20].copy_from_slice(&0x8100_0010_u32.to_le_bytes());
        image[20..24].copy_from_slice(&(-5_i32).to_le_bytes());
        let relocations = Relocations {
            wide: vec![0x8100_0008],
            inverse: vec![0x8100_0014],
            narrow: vec![0x8100_0010],
        };
        let linked = 0xffff_ffff_8100_0000;
        relocations.apply(&mut image, linked, 0x20_0000).unwrap();
        assert_eq!(image[8..16], 0xffff_ffff_8120_0000_u64.to_le_bytes());
        assert_eq!(image[16..20], 0x8120_0010_u32.to_le_bytes());
        assert_eq!(image[20..24], (-0x20_0005_i32).to_le_bytes());
    }

    #[test]
    fn addresses_outside_of_the_kernel_are_refused() {
        for address in [0x80ff_ffff, 0x8100_0001, 0x8100_0008, u32::MAX, 1] {
            let relocations = Relocations {
                wide: vec![address],
                ..Relocations::default()
            };
            let applied = relocations.apply(&mut [0; 8], 0xffff_ffff_8100_0000, 0x20_0000);
            assert!(applied.is_err(), "{address:#x}");
        }
    }
}
