//! LZ4 in its legacy framing: a magic number, then blocks of 8 MiB, but for the last, each with its
//! compressed length in four bytes before it (LZ4 frame format, "Legacy frame").
//!
//! No block needs another, so that they are unpacked side by side.

use std::ops::Range;

use super::Image;
use super::payload::{Format, NotOpened};
use super::side_by_side::side_by_side;

const MAGIC_BYTES: u64 = 4;
const LENGTH_BYTES: u64 = 4;
/// What a block unpacks to, but for the last.
const BLOCK_BYTES: usize = 8 << 20;

/// Fills `output` with what the frame at `place` unpacks to.
pub(super) fn unpack(
    image: &Image,
    place: &Range<u64>,
    output: &mut [u8],
) -> Result<(), NotOpened> {
    // Where each is in the file, and where it goes.
    let mut blocks = Vec::new();
    let mut at = place.start + MAGIC_BYTES;
    for output in output.chunks_mut(BLOCK_BYTES) {
        let length = u32::from_le_bytes(image.read_at(at)?);
        let start = at + LENGTH_BYTES;
        at = start + u64::from(length);
        if at > place.end {
            return Err(Format::Lz4.corrupt("a block goes on past its end".to_owned()));
        }
        blocks.push((start..at, output));
    }
    side_by_side(blocks, |compressed: &mut Vec<u8>, (place, output)| {
        unpack_block(image, &place, output, compressed)
    })
}

/// Unpacks a block, whose compressed bytes are kept in `compressed` meanwhile.
fn unpack_block(
    image: &Image,
    place: &Range<u64>,
    output: &mut [u8],
    compressed: &mut Vec<u8>,
) -> Result<(), NotOpened> {
    let length = usize::try_from(place.end - place.start).unwrap_or(usize::MAX);
    compressed.resize(length, 0);
    image.read_into(compressed, place.start)?;
    match lz4_flex::block::decompress_into(compressed, output) {
        Ok(written) if written == output.len() => Ok(()),
        Ok(_) => Err(Format::Lz4.corrupt("a block is too short".to_owned())),
        Err(error) => Err(Format::Lz4.corrupt(error.to_string())),
    }
}
