//! Takes the ELF kernel out of a bzImage.
//!
//! The setup header (Linux boot protocol 2.08 and later, Documentation/arch/x86/boot.rst) says
//! where the compressed payload is. Debian compresses it with LZ4 in its legacy framing: a magic
//! number, then blocks, each with its compressed length before it and 8 MiB of contents at most
//! (lz4 block format, `lz4_Frame_format.md`, "Legacy frame").

use lz4_flex::block::decompress_into;

/// "HdrS", which tells a setup header.
const HEADER_MAGIC: &[u8] = b"HdrS";
const HEADER_MAGIC_OFFSET: usize = 0x202;
const VERSION_OFFSET: usize = 0x206;
const SETUP_SECTORS_OFFSET: usize = 0x1f1;
const PAYLOAD_OFFSET_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH_OFFSET: usize = 0x24c;
/// First version of the boot protocol with a payload offset.
const VERSION_WITH_PAYLOAD: u16 = 0x0208;
const SECTOR: usize = 512;
/// A setup header with 0 sectors means 4, for very old boot loaders.
const DEFAULT_SETUP_SECTORS: usize = 4;

const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Contents of a block, at most: fixed by the legacy framing.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// The uncompressed ELF kernel inside `image`.
///
/// # Errors
///
/// A sentence about the first thing that is not as it should be.
pub fn extract_elf(image: &[u8]) -> Result<Vec<u8>, String> {
    if bytes(image, HEADER_MAGIC_OFFSET, 4)? != HEADER_MAGIC {
        return Err("it has no setup header, so it is no bzImage".to_owned());
    }
    let version = u16::from_le_bytes([
        *bytes(image, VERSION_OFFSET, 1)?.first().unwrap_or(&0),
        *bytes(image, VERSION_OFFSET + 1, 1)?.first().unwrap_or(&0),
    ]);
    if version < VERSION_WITH_PAYLOAD {
        return Err(format!(
            "boot protocol {version:#06x} is older than {VERSION_WITH_PAYLOAD:#06x}"
        ));
    }
    let sectors = match image[SETUP_SECTORS_OFFSET] {
        0 => DEFAULT_SETUP_SECTORS,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR + word(image, PAYLOAD_OFFSET_OFFSET)?;
    let payload = bytes(image, start, word(image, PAYLOAD_LENGTH_OFFSET)?)?;
    let elf = match payload.strip_prefix(&LZ4_LEGACY_MAGIC) {
        Some(blocks) => decompress_legacy(blocks)?,
        None => return Err("its payload is not compressed with LZ4".to_owned()),
    };
    if !elf.starts_with(ELF_MAGIC) {
        return Err("its payload is no ELF file".to_owned());
    }
    Ok(elf)
}

/// Puts the contents of the blocks of a legacy frame together.
///
/// The kernel's build appends the contents' size as one more word, which looks like the length of
/// a block: the end is where no whole block is left.
fn decompress_legacy(mut input: &[u8]) -> Result<Vec<u8>, String> {
    let mut output = Vec::new();
    while let Ok(length) = word(input, 0) {
        let Ok(block) = bytes(input, 4, length) else {
            break;
        };
        let start = output.len();
        output.resize(start + LZ4_LEGACY_BLOCK, 0);
        let written = decompress_into(block, &mut output[start..])
            .map_err(|error| format!("LZ4 block at {start} bytes of contents: {error}"))?;
        output.truncate(start + written);
        input = &input[4 + length..];
    }
    Ok(output)
}

fn bytes(input: &[u8], start: usize, length: usize) -> Result<&[u8], String> {
    start
        .checked_add(length)
        .and_then(|end| input.get(start..end))
        .ok_or_else(|| format!("it ends before {start:#x} + {length:#x} bytes"))
}

fn word(input: &[u8], at: usize) -> Result<usize, String> {
    let word = bytes(input, at, 4)?;
    Ok(word
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[SETUP_SECTORS_OFFSET] = 1;
        image[HEADER_MAGIC_OFFSET..][..4].copy_from_slice(HEADER_MAGIC);
        image[VERSION_OFFSET..][..2].copy_from_slice(&[0x0f, 0x02]);
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH_OFFSET..][..4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    fn legacy_frame(blocks: &[&[u8]]) -> Vec<u8> {
        let mut frame = LZ4_LEGACY_MAGIC.to_vec();
        for contents in blocks {
            let block = lz4_flex::block::compress(contents);
            frame.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
            frame.extend_from_slice(&block);
        }
        frame
    }

    #[test]
    fn two_blocks_and_the_size_word_give_the_elf() {
        let mut frame = legacy_frame(&[b"\x7fELF one ", b"two"]);
        frame.extend_from_slice(&0xffff_u32.to_le_bytes());
        assert_eq!(extract_elf(&image(&frame)).unwrap(), b"\x7fELF one two");
    }

    #[test]
    fn payload_of_another_form_is_refused() {
        let error = extract_elf(&image(b"\x1f\x8bgzip")).unwrap_err();
        assert!(error.contains("LZ4"), "{error}");
    }

    #[test]
    fn file_without_header_is_refused() {
        let error = extract_elf(&[0; 0x400]).unwrap_err();
        assert!(error.contains("no bzImage"), "{error}");
    }

    #[test]
    fn truncated_image_is_refused() {
        let mut image = image(&legacy_frame(&[b"\x7fELF"]));
        image.pop();
        assert!(extract_elf(&image).unwrap_err().contains("ends before"));
    }
}
