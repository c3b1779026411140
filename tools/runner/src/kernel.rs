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
const FLAGS: usize = 24;
const MAGIC: usize = 56;
const HEADER: usize = 64;
const MAGIC_VALUE: &[u8] = b"ARM\x64";
/// In the flags: the kernel is big-endian.
const BIG_ENDIAN: u8 = 1;

/// The header of an EFI zboot image (Linux, drivers/firmware/efi/libstub/zboot-header.S): "MZ", "zimg" at 4, where the
/// compressed Image is at 8 and 12, and how it is compressed at 24.
const ZBOOT_MAGIC: usize = 4;
const ZBOOT_PAYLOAD: usize = 8;
const ZBOOT_SIZE: usize = 12;
const ZBOOT_COMPRESSION: usize = 24;
const ZBOOT_HEADER: usize = 56;
/// Behind a payload that does not say its size itself are 4 bytes that do; most programs that unpack pass over them.
const ZBOOT_TRAILER: usize = 4;

/// Where an ELF file has its machine, and the number of arm64 there.
const ELF_MACHINE: usize = 18;
const AARCH64: &[u8] = &[0xb7, 0];

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
    /// It is something that people take for a kernel; in words.
    Other(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compression(name) => {
                let known: Vec<&str> = Packing::ALL.iter().map(|packing| packing.name()).collect();
                write!(f, "compressed by {name}, and known are {}; unpack it first", known.join(", "))
            }
            Self::Broken(how, error) => write!(f, "a file compressed by {how} that does not unpack: {error}"),
            Self::CutOff => f.write_str("an EFI zboot image that is cut off"),
            Self::NoImage(how) => write!(f, "a file compressed by {how}, and what is in it is no arm64 Image"),
            Self::Other(what) => f.write_str(what),
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

/// A way to compress that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zstd,
    Xz,
    Lzma,
    Lz4,
    Bzip2,
}

impl Packing {
    const ALL: [Self; 6] = [Self::Gzip, Self::Zstd, Self::Xz, Self::Lzma, Self::Lz4, Self::Bzip2];

    const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Lz4 => "lz4",
            Self::Bzip2 => "bzip2",
        }
    }

    /// Of a file that begins so.
    fn of(file: &[u8]) -> Option<Self> {
        Some(match file {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // Its properties as they are nearly always, and a dictionary of full KiB.
            [0x5d, 0, 0, _, _, ..] => Self::Lzma,
            // A frame of today, and the older one that the kernel's Makefile makes.
            [0x04, 0x22, 0x4d, 0x18, ..] | [0x02, 0x21, 0x4c, 0x18, ..] => Self::Lz4,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            _ => return None,
        })
    }

    /// By the name that a zboot image has for it.
    fn of_zboot(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"gzip" => Self::Gzip,
            b"zstd" | b"zstd22" => Self::Zstd,
            b"xz" | b"xzkern" => Self::Xz,
            b"lzma" => Self::Lzma,
            b"lz4" => Self::Lz4,
            b"bzip2" | b"bzip2_with_size" => Self::Bzip2,
            _ => return None,
        })
    }

    fn unpack(self, packed: &[u8]) -> Result<Vec<u8>, String> {
        let said = |error: &dyn fmt::Display| error.to_string();
        match self {
            Self::Gzip => read(flate2::read::GzDecoder::new(packed)),
            Self::Zstd => read(ruzstd::decoding::StreamingDecoder::new(packed).map_err(|error| said(&error))?),
            Self::Xz => read(lzma_rust2::XzReader::new(packed, false)),
            Self::Lzma => {
                let reader = lzma_rust2::LzmaReader::new_mem_limit(packed, u32::MAX, None);
                read(reader.map_err(|error| said(&error))?)
            }
            Self::Lz4 => read(lz4_flex::frame::FrameDecoder::new(packed)),
            Self::Bzip2 => read(bzip2::read::BzDecoder::new(packed)),
        }
    }

    fn image(self, packed: &[u8]) -> Result<Kernel, Error> {
        let bytes = self.unpack(packed).map_err(|error| Error::Broken(self.name(), error))?;
        if !is_image(&bytes) {
            return Err(Error::NoImage(self.name()));
        }
        fits(&bytes)?;
        Ok(Kernel::Unpacked(bytes))
    }
}

fn read(decoder: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    decoder.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LARGEST { Err("it has more than 1 GiB".to_owned()) } else { Ok(bytes) }
}

/// Looks what `file` is.
///
/// # Errors
/// It is a wrapping of a kernel that cannot be unwrapped, or another thing that people take for a kernel.
pub fn open(file: &[u8]) -> Result<Kernel, Error> {
    if is_image(file) {
        fits(file)?;
        return Ok(Kernel::AsItIs);
    }
    if file.starts_with(b"MZ") && at(file, ZBOOT_MAGIC, 4) == Some(b"zimg") && file.len() >= ZBOOT_HEADER {
        let number = |offset| Some(u32::from_le_bytes(at(file, offset, 4)?.try_into().ok()?) as usize);
        let payload = number(ZBOOT_PAYLOAD).zip(number(ZBOOT_SIZE)).and_then(|(start, size)| at(file, start, size));
        let name = &file[ZBOOT_COMPRESSION..ZBOOT_HEADER];
        let name = &name[..name.iter().position(|&byte| byte == 0).unwrap_or(name.len())];
        let payload = payload.ok_or(Error::CutOff)?;
        let Some(packing) = Packing::of_zboot(name) else {
            return Err(Error::Compression(String::from_utf8_lossy(name).into_owned()));
        };
        let without = payload.len().checked_sub(ZBOOT_TRAILER).map(|size| &payload[..size]);
        return match (packing.image(payload), without) {
            (Err(error), Some(without)) => packing.image(without).map_err(|_| error),
            (done, _) => done,
        };
    }
    if let Some(packing) = Packing::of(file) {
        return packing.image(file);
    }
    match other(file) {
        Some(Error::Other(what)) => Err(Error::Other(what)),
        Some(error) => Err(error),
        None => Ok(Kernel::AsItIs),
    }
}

/// Things that people have beside a kernel, or instead of one.
fn other(file: &[u8]) -> Option<Error> {
    let has = |offset: usize, text: &[u8]| at(file, offset, text.len()) == Some(text);
    if has(0, &[0x89, b'L', b'Z', b'O']) {
        return Some(Error::Compression("lzo".to_owned()));
    }
    let what = if has(0, b"\x7fELF") && has(ELF_MACHINE, AARCH64) {
        "the ELF, which has the symbols (SYMBOLS= takes it); what boots is arch/arm64/boot/Image of the same build"
    } else if has(0, b"\x7fELF") {
        "an ELF, and not of arm64"
    } else if has(514, b"HdrS") {
        "a bzImage, which is a kernel for x86"
    } else if has(0x24, &[0x18, 0x28, 0x6f, 0x01]) || has(0x24, &[0x01, 0x6f, 0x28, 0x18]) {
        "a zImage, which is a kernel for 32-bit Arm"
    } else if has(MAGIC, b"RSC\x05") {
        "an Image of RISC-V"
    } else if has(0, b"!<arch>\n") {
        "a package of Debian's: unpack it (`dpkg-deb -x FILE DIRECTORY`), and take boot/vmlinuz-VERSION, or from 7.0 \
         on usr/lib/modules/VERSION/vmlinuz of linux-binary-VERSION"
    } else if has(0, &[0xed, 0xab, 0xee, 0xdb]) {
        "a package of rpm's: unpack it (`rpm2cpio FILE | cpio -id`), and take lib/modules/VERSION/vmlinuz of \
         kernel-core"
    } else if has(0, &[0x27, 0x05, 0x19, 0x56]) {
        "U-Boot's uImage: take the Image that it was made from"
    } else if has(0, &[0xd0, 0x0d, 0xfe, 0xed]) {
        "a device tree, or a FIT image of U-Boot's: take the Image that it was made from"
    } else if has(0, b"QFI\xfb") {
        "a disk image (qcow2), and no kernel"
    } else if has(0, b"070701") {
        "an initramfs, and no kernel: INITRD= takes it"
    } else if is_program_of_efi(file) {
        "a program for EFI, and no arm64 Image: a unified kernel image has it as its section .linux \
         (`objcopy -O binary --only-section=.linux FILE Image`)"
    } else {
        return None;
    };
    Some(Error::Other(what))
}

/// "MZ", and where that says it is, "PE".
fn is_program_of_efi(file: &[u8]) -> bool {
    let header = at(file, 0x3c, 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    file.starts_with(b"MZ") && header.is_some_and(|offset| at(file, offset as usize, 4) == Some(b"PE\0\0"))
}

fn at(file: &[u8], offset: usize, size: usize) -> Option<&[u8]> {
    file.get(offset..offset.checked_add(size)?)
}

/// Whether it begins as an arm64 Image does.
#[must_use]
pub fn is_image(file: &[u8]) -> bool {
    at(file, MAGIC, MAGIC_VALUE.len()) == Some(MAGIC_VALUE)
}

/// Whether Exeunt can be below this Image.
fn fits(image: &[u8]) -> Result<(), Error> {
    if at(image, FLAGS, 1).is_some_and(|flags| flags[0] & BIG_ENDIAN != 0) {
        return Err(Error::Other("a big-endian kernel (CONFIG_CPU_BIG_ENDIAN), and Exeunt's hosts are little-endian"));
    }
    Ok(())
}

/// Whether its memory has pages of 16 KiB, which not every CPU has.
#[must_use]
pub fn has_16k_pages(image: &[u8]) -> bool {
    /// Bits 1 and 2 of the flags, and what stands there for 16 KiB.
    const PAGES: (u8, u8) = (0b110, 0b100);
    is_image(image) && image[FLAGS] & PAGES.0 == PAGES.1
}

/// The version that a Linux says of itself: the first of "Linux version 6.12.1-x (...".
#[must_use]
pub fn version(image: &[u8]) -> Option<String> {
    let banner = banner(image)?;
    let end = banner.iter().position(|byte| *byte == b' ')?;
    String::from_utf8(banner[..end].to_vec()).ok()
}

/// Whether a Linux says of itself that it is built with `CONFIG_PREEMPT_RT`.
#[must_use]
pub fn is_realtime(image: &[u8]) -> bool {
    banner(image).is_some_and(|banner| find(banner, b" PREEMPT_RT").is_some())
}

/// What a Linux says of itself behind "Linux version ", to the end of the line.
fn banner(image: &[u8]) -> Option<&[u8]> {
    const BANNER: &[u8] = b"Linux version ";
    let mut rest = image;
    while let Some(found) = find(rest, BANNER) {
        rest = &rest[found + BANNER.len()..];
        let end = rest.iter().position(|byte| [b'\n', 0].contains(byte)).unwrap_or(rest.len());
        let version = rest.iter().position(|byte| *byte == b' ')?;
        // A format string of the kernel's has a % there.
        if rest[0].is_ascii_digit() && version < 100 {
            return Some(&rest[..end]);
        }
    }
    None
}

/// Where `wanted` is in `text`.
#[must_use]
pub(crate) fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = *wanted.first()?;
    let mut from = 0;
    while let Some(at) = text[from..].iter().position(|&byte| byte == first) {
        if text[from + at..].starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
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

    fn pack(packing: Packing, bytes: &[u8]) -> Vec<u8> {
        match packing {
            Packing::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Packing::Zstd => ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest),
            Packing::Xz => {
                let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Packing::Lzma => {
                // As the kernel's Makefile has it: the size is not known beforehand.
                let options = lzma_rust2::LzmaOptions::with_preset(6);
                let mut encoder = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Packing::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Packing::Bzip2 => {
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    /// What `lz4 -l` makes: the magic, and blocks with their sizes before them.
    fn old_lz4(bytes: &[u8]) -> Vec<u8> {
        let mut file = vec![0x02, 0x21, 0x4c, 0x18];
        let block = lz4_flex::block::compress(bytes);
        file.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        file.extend(block);
        file
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
        let unpacked = || Ok(Kernel::Unpacked(plain()));
        for packing in Packing::ALL {
            let packed = pack(packing, &image);
            assert_eq!(open(&packed), unpacked(), "{packing:?}");
            assert_eq!(open(&zboot(&packed, packing.name().as_bytes())), unpacked(), "{packing:?}");
            let with_size = [&packed[..], &4096_u32.to_le_bytes()].concat();
            assert_eq!(open(&zboot(&with_size, packing.name().as_bytes())), unpacked(), "{packing:?} with its size");
        }
        assert_eq!(open(&old_lz4(&image)), unpacked());
        let with_size = [&old_lz4(&image)[..], &4096_u32.to_le_bytes()].concat();
        assert_eq!(open(&zboot(&with_size, b"lz4")), unpacked());
        assert_eq!(open(&zboot(&pack(Packing::Zstd, &image), b"zstd22")), unpacked());
        assert_eq!(open(&zboot(&pack(Packing::Xz, &image), b"xzkern")), unpacked());
        // A bare-metal program without a header, and too little to be anything.
        assert_eq!(open(&[0x14; 100]), Ok(Kernel::AsItIs));
        assert_eq!(open(b"MZ"), Ok(Kernel::AsItIs));
    }

    #[test]
    fn what_does_not_unpack_says_why() {
        let image = plain();
        assert_eq!(open(&pack(Packing::Gzip, b"no kernel")), Err(Error::NoImage("gzip")));
        assert_eq!(open(&zboot(b"", b"lzo")), Err(Error::Compression("lzo".to_owned())));
        assert_eq!(open(&zboot(&pack(Packing::Gzip, &image), b"gzip")[..100]), Err(Error::CutOff));
        assert!(matches!(open(b"\xfd7zXZ\0"), Err(Error::Broken("xz", _))));
        for packing in Packing::ALL {
            let packed = pack(packing, &image);
            let cut = &packed[..packed.len() / 2];
            assert!(matches!(open(cut), Err(Error::Broken(..) | Error::NoImage(_))), "{packing:?}: {:?}", open(cut));
        }
    }

    #[test]
    fn what_people_take_for_a_kernel_is_called_what_it_is() {
        let with = |offset: usize, text: &[u8]| {
            let mut file = vec![0; 4096];
            file[offset..offset + text.len()].copy_from_slice(text);
            file
        };
        let mut big = plain();
        big[FLAGS] = BIG_ENDIAN;
        let mut vmlinux = with(0, b"\x7fELF");
        vmlinux[18] = 0xb7;
        let mut unified = with(0, b"MZ");
        unified[0x3c] = 0x80;
        unified[0x80..0x84].copy_from_slice(b"PE\0\0");
        for (file, words) in [
            (vmlinux, "arch/arm64/boot/Image"),
            (with(0, b"\x7fELF"), "not of arm64"),
            (with(514, b"HdrS"), "x86"),
            (with(0x24, &[0x18, 0x28, 0x6f, 0x01]), "32-bit Arm"),
            (with(0, b"!<arch>\n"), "dpkg-deb -x"),
            (with(0, &[0xed, 0xab, 0xee, 0xdb]), "rpm2cpio"),
            (with(0, &[0x89, b'L', b'Z', b'O']), "compressed by lzo"),
            (unified, ".linux"),
            (pack(Packing::Gzip, &big), "big-endian"),
            (big, "big-endian"),
        ] {
            let error = open(&file).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn a_linux_says_its_version() {
        let image = b"Linux version %s\0..Linux version 6.12.1-mine (me@here) (gcc)\0";
        assert_eq!(version(image).as_deref(), Some("6.12.1-mine"));
        assert_eq!(version(b"Linux version "), None);
        assert_eq!(version(b"Linux versi"), None);
    }

    #[test]
    fn a_linux_says_whether_it_is_realtime() {
        assert!(is_realtime(b"Linux version 6.12.118+deb13-rt-arm64 (me@here) (gcc) #1 SMP PREEMPT_RT Debian\n\0"));
        // What stands elsewhere in the image counts for nothing.
        assert!(!is_realtime(b"Linux version 7.2.12-arm64 (me@here) (gcc) #1 SMP PREEMPT Debian\n\0 PREEMPT_RT\0"));
        assert!(!is_realtime(b" PREEMPT_RT"));
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
