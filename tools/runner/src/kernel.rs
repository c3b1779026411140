//! The files in which people have a kernel: an arm64 Image, one that is compressed, an EFI zboot image.
//!
//! Owns how they are told apart and unpacked. What comes out is an arm64 Image (Linux,
//! Documentation/arch/arm64/booting.rst) or a file that nobody knows, which Exeunt is given as it is: it says what is
//! wrong with it, and a bare-metal guest need not have a header.

use std::fmt;
use std::io::Read;
use std::path::Path;

/// Offsets in the header of an arm64 Image.
const TEXT_OFFSET: usize = 8;
const IMAGE_SIZE: usize = 16;
const MAGIC: usize = 56;
const HEADER: usize = 64;
const MAGIC_VALUE: &[u8] = b"ARM\x64";

/// The header of an EFI zboot image (Linux, drivers/firmware/efi/libstub/zboot-header.S): "MZ", "zimg" at 4, where the
/// compressed Image is at 8 and 12, and how it is compressed at 24.
const ZBOOT_MAGIC: usize = 4;
const ZBOOT_PAYLOAD: usize = 8;
const ZBOOT_SIZE: usize = 12;
const ZBOOT_COMPRESSION: usize = 24;
const ZBOOT_HEADER: usize = 56;

/// No Image is larger: a file that unpacks to more is not what it says.
const LARGEST: u64 = 1 << 30;

/// Why a file is no kernel.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// It is compressed in a way that is not known.
    Compression(String),
    /// It does not unpack.
    Broken(&'static str, String),
    /// A zboot image whose payload lies outside of the file.
    CutOff,
    /// It unpacks to something else.
    NoImage(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compression(name) => write!(f, "compressed by {name}, and known are gzip and zstd"),
            Self::Broken(how, error) => write!(f, "a file compressed by {how} that does not unpack: {error}"),
            Self::CutOff => f.write_str("an EFI zboot image that is cut off"),
            Self::NoImage(how) => write!(f, "a file compressed by {how}, and what is in it is no arm64 Image"),
        }
    }
}

/// A kernel, as the machine gets it.
#[derive(Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The file is one already, or nothing that is known.
    AsItIs,
    /// The file was a wrapping of this Image.
    Unpacked(Vec<u8>),
}

/// Looks what `file` is.
///
/// # Errors
/// It is a wrapping of a kernel that cannot be unwrapped.
pub fn open(file: &[u8]) -> Result<Kernel, Error> {
    if is_image(file) {
        return Ok(Kernel::AsItIs);
    }
    if file.starts_with(b"MZ") && at(file, ZBOOT_MAGIC, 4) == Some(b"zimg") && file.len() >= ZBOOT_HEADER {
        let number = |offset| Some(u32::from_le_bytes(at(file, offset, 4)?.try_into().ok()?) as usize);
        let payload = number(ZBOOT_PAYLOAD).zip(number(ZBOOT_SIZE)).and_then(|(start, size)| at(file, start, size));
        let name = &file[ZBOOT_COMPRESSION..ZBOOT_HEADER];
        let name = &name[..name.iter().position(|&byte| byte == 0).unwrap_or(name.len())];
        let payload = payload.ok_or(Error::CutOff)?;
        return match name {
            b"gzip" => image(gunzip(payload)?, "gzip"),
            b"zstd" | b"zstd22" => image(unzstd(payload)?, "zstd"),
            other => Err(Error::Compression(String::from_utf8_lossy(other).into_owned())),
        };
    }
    match file {
        [0x1f, 0x8b, ..] => image(gunzip(file)?, "gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => image(unzstd(file)?, "zstd"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Err(Error::Compression("xz".to_owned())),
        [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..] => Err(Error::Compression("lz4".to_owned())),
        [b'B', b'Z', b'h', ..] => Err(Error::Compression("bzip2".to_owned())),
        [0x89, b'L', b'Z', b'O', ..] => Err(Error::Compression("lzo".to_owned())),
        _ => Ok(Kernel::AsItIs),
    }
}

fn at(file: &[u8], offset: usize, size: usize) -> Option<&[u8]> {
    file.get(offset..offset.checked_add(size)?)
}

fn image(bytes: Vec<u8>, how: &'static str) -> Result<Kernel, Error> {
    if is_image(&bytes) { Ok(Kernel::Unpacked(bytes)) } else { Err(Error::NoImage(how)) }
}

fn gunzip(packed: &[u8]) -> Result<Vec<u8>, Error> {
    read(flate2::read::GzDecoder::new(packed), "gzip")
}

fn unzstd(packed: &[u8]) -> Result<Vec<u8>, Error> {
    let broken = |error: &dyn fmt::Display| Error::Broken("zstd", error.to_string());
    let decoder = ruzstd::decoding::StreamingDecoder::new(packed).map_err(|error| broken(&error))?;
    read(decoder, "zstd")
}

fn read(decoder: impl Read, how: &'static str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let broken = |error: &dyn fmt::Display| Error::Broken(how, error.to_string());
    decoder.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
    if bytes.len() as u64 > LARGEST { Err(broken(&"it has more than 1 GiB")) } else { Ok(bytes) }
}

/// Whether it begins as an arm64 Image does.
#[must_use]
pub fn is_image(file: &[u8]) -> bool {
    at(file, MAGIC, MAGIC_VALUE.len()) == Some(MAGIC_VALUE)
}

/// What an Image's header says of the memory that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Bytes above a multiple of 2 MiB at which it is to lie.
    pub text_offset: u64,
    /// Bytes from there on, BSS included.
    pub size: u64,
}

impl Footprint {
    /// Of a file with this beginning and so many bytes, on a machine with `ram` bytes. What a nonsensical header says
    /// is Exeunt's to refuse, and no reason to place it elsewhere.
    #[must_use]
    pub fn of(beginning: &[u8], file_size: u64, ram: u64) -> Self {
        let number =
            |offset| at(beginning, offset, 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
        let (mut text_offset, mut size) = (0, 0);
        if is_image(beginning) {
            (text_offset, size) = (number(TEXT_OFFSET), number(IMAGE_SIZE));
        }
        if text_offset >= 2 << 20 {
            text_offset = 0;
        }
        if size < file_size || size > ram {
            size = file_size;
        }
        Self { text_offset, size }
    }

    /// Of the file at `path`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_file(path: &Path, ram: u64) -> std::io::Result<Self> {
        let mut beginning = Vec::new();
        let file = std::fs::File::open(path)?;
        let size = file.metadata()?.len();
        file.take(HEADER as u64).read_to_end(&mut beginning)?;
        Ok(Self::of(&beginning, size, ram))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn plain() -> Vec<u8> {
        let mut image = vec![0; 4096];
        image[IMAGE_SIZE..IMAGE_SIZE + 8].copy_from_slice(&0x20_0000_u64.to_le_bytes());
        image[MAGIC..MAGIC + 4].copy_from_slice(MAGIC_VALUE);
        image
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn zboot(payload: &[u8], name: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..2].copy_from_slice(b"MZ");
        file[4..8].copy_from_slice(b"zimg");
        file[8..12].copy_from_slice(&64_u32.to_le_bytes());
        file[12..16].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        file[24..24 + name.len()].copy_from_slice(name);
        file.extend(payload);
        file
    }

    #[test]
    fn every_wrapping_is_unwrapped() {
        let image = plain();
        assert_eq!(open(&image), Ok(Kernel::AsItIs));
        for file in [
            gzip(&image),
            zstd(&image),
            zboot(&gzip(&image), b"gzip"),
            zboot(&zstd(&image), b"zstd"),
            zboot(&zstd(&image), b"zstd22"),
        ] {
            assert_eq!(open(&file), Ok(Kernel::Unpacked(image.clone())));
        }
        // A bare-metal program without a header, and a Debian kernel's "MZ" without "zimg".
        assert_eq!(open(&[0x14; 100]), Ok(Kernel::AsItIs));
        assert_eq!(open(b"MZ"), Ok(Kernel::AsItIs));
    }

    #[test]
    fn what_does_not_unpack_says_why() {
        let image = plain();
        assert_eq!(open(&gzip(b"no kernel")), Err(Error::NoImage("gzip")));
        assert_eq!(open(&zboot(b"", b"lzma")), Err(Error::Compression("lzma".to_owned())));
        assert_eq!(open(&zboot(&gzip(&image), b"gzip")[..100]), Err(Error::CutOff));
        assert_eq!(open(b"\xfd7zXZ\0"), Err(Error::Compression("xz".to_owned())));
        for packed in [gzip(&image), zstd(&image)] {
            let cut = &packed[..packed.len() / 2];
            assert!(matches!(open(cut), Err(Error::Broken(..) | Error::NoImage(_))), "{:?}", open(cut));
        }
    }

    #[test]
    fn the_header_says_how_much_memory() {
        let image = plain();
        let of = |image: &[u8], ram| Footprint::of(image, image.len() as u64, ram);
        assert_eq!(of(&image, 1 << 30), Footprint { text_offset: 0, size: 0x20_0000 });
        // More than there is, less than the file has, and no header.
        assert_eq!(of(&image, 1 << 20).size, 4096);
        assert_eq!(Footprint::of(&image, 3 << 20, 1 << 30).size, 3 << 20);
        assert_eq!(of(&[0xff; 80], 1 << 30), Footprint { text_offset: 0, size: 80 });
    }
}
