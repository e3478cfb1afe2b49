//! The compressed kernel in a bzImage: what it is compressed with, and how it is unpacked.
//!
//! Linux boot protocol 2.08 and later, `payload_offset` and `payload_length`. The kernel's build
//! appends the unpacked length, four bytes, to all but gzip, which ends in the same four bytes anyway
//! (`scripts/Makefile.lib`, `size_append`).

use std::io::{BufReader, Read};
use std::ops::Range;

use super::cache::{Cache, Key};
use super::lz4;
use super::{Image, KernelError};

/// The unpacked length behind the compressed bytes.
const LENGTH_BYTES: u64 = 4;
/// Bytes that are read from the file at a time.
const READ_BYTES: usize = 256 << 10;

/// Why a kernel is left to the guest to unpack.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOpened {
    /// There is nothing to unpack, or not in the file.
    #[error("its header names no compressed kernel")]
    NoPayload,
    /// A format that we do not know.
    #[error("its compressed kernel begins with {0:02x?}, which is no format known here")]
    Format([u8; 6]),
    /// The compressed bytes do not yield what they should.
    #[error("its {format} does not unpack: {reason}")]
    Corrupt {
        /// What it is compressed with.
        format: Format,
        /// What is wrong.
        reason: String,
    },
    /// What was unpacked is no kernel that could be placed.
    #[error("what it unpacks to {0}")]
    Content(&'static str),
    /// No kernel is built with it.
    #[error("its header asks for an alignment of {0:#x}")]
    Alignment(u64),
    /// There is no chance to leave its place to.
    #[error("there are no random numbers: {0}")]
    Random(#[from] std::io::Error),
    /// The unpacked kernel has no room.
    #[error("it does not fit into guest memory while it is unpacked")]
    NoRoom,
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] KernelError),
}

/// What stock kernels are compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// gzip (RFC 1952).
    Gzip,
    /// xz, with the filter for x86 code (`scripts/xz_wrap.sh`).
    Xz,
    /// LZ4 in its legacy framing.
    Lz4,
    /// zstd (RFC 8878), with windows as large as the kernel.
    Zstd,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lz4 => "LZ4",
            Self::Zstd => "zstd",
        })
    }
}

impl Format {
    fn of(magic: [u8; 6]) -> Option<Self> {
        match magic {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Self::Xz),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Self::Lz4),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Whether unpacking takes longer than reading and checking what was unpacked before.
    fn is_slow(self) -> bool {
        self != Self::Lz4
    }

    pub(super) fn corrupt(self, reason: String) -> NotOpened {
        NotOpened::Corrupt {
            format: self,
            reason,
        }
    }
}

/// A compressed kernel in a file.
#[derive(Debug)]
pub(super) struct Payload<'i> {
    image: &'i Image,
    /// Where in the file it is, without the length that was appended.
    place: Range<u64>,
    format: Format,
    /// Bytes that it unpacks to.
    unpacked_bytes: u32,
}

impl<'i> Payload<'i> {
    /// What is at `place` of `image`.
    pub(super) fn find(image: &'i Image, place: Range<u64>) -> Result<Self, NotOpened> {
        let length_at = place.end.checked_sub(LENGTH_BYTES);
        let length_at = length_at.filter(|at| *at > place.start && place.end <= image.length());
        let length_at = length_at.ok_or(NotOpened::NoPayload)?;
        let magic = image.read_at(place.start)?;
        let format = Format::of(magic).ok_or(NotOpened::Format(magic))?;
        let end = if format == Format::Gzip {
            place.end
        } else {
            length_at
        };
        Ok(Self {
            image,
            place: place.start..end,
            format,
            unpacked_bytes: u32::from_le_bytes(image.read_at(length_at)?),
        })
    }

    /// Bytes that it unpacks to.
    pub(super) fn unpacked_bytes(&self) -> u64 {
        self.unpacked_bytes.into()
    }

    /// What it is compressed with.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Fills `output`, which has [`Self::unpacked_bytes`], from `cache` if it is there, and it is there
    /// afterwards.
    pub(super) fn unpack(&self, output: &mut [u8], cache: Option<&Cache>) -> Result<(), NotOpened> {
        match cache {
            Some(cache) if self.format.is_slow() => self.unpack_once(output, cache),
            _ => self.decompress(output),
        }
    }

    /// What goes wrong with the cache leaves a line in the log, and a kernel that is unpacked.
    fn unpack_once(&self, output: &mut [u8], cache: &Cache) -> Result<(), NotOpened> {
        let key = Key::of(self.format, self.image.part(self.place.clone()));
        let key = key.map_err(|error| NotOpened::File(self.image.read_error(error)))?;
        let cached = cache.load(&key, output);
        let is_spoilt = match cached {
            Ok(true) => {
                log::debug!("The kernel was unpacked before");
                return Ok(());
            }
            Ok(false) => false,
            Err(error) => {
                log::warn!(
                    "A kernel in the cache {} is no good: {error}",
                    cache.display()
                );
                true
            }
        };
        self.decompress(output)?;
        if let Err(error) = cache.store(&key, output, is_spoilt) {
            log::warn!("The kernel is not kept in {}: {error}", cache.display());
        }
        Ok(())
    }

    fn decompress(&self, output: &mut [u8]) -> Result<(), NotOpened> {
        let corrupt = |reason: std::io::Error| self.format.corrupt(reason.to_string());
        match self.format {
            Format::Gzip => {
                let mut decoder = flate2::bufread::GzDecoder::new(self.reader());
                decoder.read_exact(output).map_err(corrupt)?;
                at_end(&mut decoder).map_err(corrupt)
            }
            Format::Xz => {
                let mut decoder = lzma_rust2::XzReader::new(self.reader(), false);
                decoder.read_exact(output).map_err(corrupt)?;
                at_end(&mut decoder).map_err(corrupt)
            }
            Format::Lz4 => lz4::unpack(self.image, &self.place, output),
            Format::Zstd => self.unpack_zstd(output),
        }
    }

    /// At once and in place: as a stream it would need a second copy of the kernel for its window.
    fn unpack_zstd(&self, output: &mut [u8]) -> Result<(), NotOpened> {
        let bytes = self.place.end - self.place.start;
        let mut input = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
        self.image.read_into(&mut input, self.place.start)?;
        let length = output.len();
        match zstd_safe::decompress(output, &input) {
            Ok(written) if written == length => Ok(()),
            Ok(written) => {
                let reason = format!("it has {written} bytes in place of {length}");
                Err(self.format.corrupt(reason))
            }
            Err(code) => {
                let reason = zstd_safe::get_error_name(code).to_owned();
                Err(self.format.corrupt(reason))
            }
        }
    }

    fn reader(&self) -> BufReader<impl Read + 'i> {
        BufReader::with_capacity(READ_BYTES, self.image.part(self.place.clone()))
    }
}

/// Reads the end of a stream that should have come: only then are its checksums compared.
fn at_end(stream: &mut impl Read) -> std::io::Result<()> {
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(std::io::Error::other(
            "it has more bytes than its length says",
        )),
    }
}
