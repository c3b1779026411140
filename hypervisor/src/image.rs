//! The header of an arm64 Linux Image, and where such an image may be.
//!
//! Owns the questions "can this be started?" and "does it get in anything's way?". Touches no memory: it sees the
//! header's bytes and address ranges. "booting.rst" is Linux's Documentation/arch/arm64/booting.rst, of which section 4
//! defines the header.

use core::fmt;

use crate::devicetree::Region;

/// Length of the header in bytes.
pub const HEADER_SIZE: usize = 64;

/// The `magic` field: the bytes `ARM\x64`.
const MAGIC: [u8; 4] = *b"ARM\x64";

/// `flags` bit 0: the kernel is big-endian.
const FLAG_BIG_ENDIAN: u64 = 1 << 0;

/// `flags` bits 2:1: the kernel's page size, as [`Pages`] has it, or 0 where the header does not say.
const FLAG_PAGES: u64 = 0b11 << 1;

/// The image begins `text_offset` after a multiple of this.
const BASE_ALIGNMENT: u64 = 2 << 20;

/// `text_offset` of kernels older than 3.17, which one tells by an `image_size` of 0.
const OLD_TEXT_OFFSET: u64 = 0x80000;

/// Kernel and initial RAM disk lie in a window of this size that begins and ends at a multiple of [`WINDOW_ALIGNMENT`].
const WINDOW_SIZE: u64 = 32 << 30;

/// See [`WINDOW_SIZE`].
const WINDOW_ALIGNMENT: u64 = 1 << 30;

/// Where the header's fields are.
mod field {
    pub const TEXT_OFFSET: usize = 8;
    pub const IMAGE_SIZE: usize = 16;
    pub const FLAGS: usize = 24;
    pub const MAGIC: usize = 56;
}

/// A kernel that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Distance of the image's first byte, which is also its entry point, from a multiple of 2 MiB.
    pub text_offset: u64,
    /// Bytes of memory that it takes from its first byte on: more than the file has, because of its BSS.
    pub size: u64,
    /// Its page size; `None` where the header does not say.
    pub pages: Option<Pages>,
}

/// A kernel's page size: the granule of the tables that it will make for stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// 4 KiB.
    K4,
    /// 16 KiB.
    K16,
    /// 64 KiB.
    K64,
}

impl Pages {
    /// From the header's `flags`.
    const fn from_flags(flags: u64) -> Option<Self> {
        match (flags & FLAG_PAGES) >> 1 {
            1 => Some(Self::K4),
            2 => Some(Self::K16),
            3 => Some(Self::K64),
            _ => None,
        }
    }

    /// Whether a CPU with this ID_AA64MMFR0_EL1 has the granule at stage 1: TGran4, bits 31:28, and TGran64, bits
    /// 27:24, are negative where it is missing, and TGran16, bits 23:20, is 0 there.
    const fn are_in(self, id_aa64mmfr0_el1: u64) -> bool {
        match self {
            Self::K4 => id_aa64mmfr0_el1 >> 28 & 0xf < 8,
            Self::K16 => id_aa64mmfr0_el1 >> 20 & 0xf != 0,
            Self::K64 => id_aa64mmfr0_el1 >> 24 & 0xf < 8,
        }
    }
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::K4 => "4 KiB",
            Self::K16 => "16 KiB",
            Self::K64 => "64 KiB",
        })
    }
}

/// The things in memory that must not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The host's kernel.
    Kernel,
    /// The host's initial RAM disk.
    Initrd,
    /// The device tree.
    Tree,
    /// Exeunt's own memory.
    Exeunt,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "the host's kernel",
            Self::Initrd => "the host's initrd",
            Self::Tree => "the device tree",
            Self::Exeunt => "Exeunt",
        })
    }
}

/// Why a kernel cannot be started, or not where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The file is shorter than the header.
    TooShort {
        /// Bytes that there are.
        size: u64,
    },
    /// It is something else.
    NotAnImage {
        /// What there is instead of the magic number.
        magic: u32,
    },
    /// It is compressed, and nobody here unpacks it.
    Compressed,
    /// A big-endian kernel.
    BigEndian,
    /// The CPU has no pages of the kernel's size. Linux would stop before it can say anything (`__no_granule_support`
    /// in head.S).
    NoSuchPages(Pages),
    /// Not `text_offset` bytes after a multiple of 2 MiB.
    Misaligned {
        /// Where it is.
        start: u64,
        /// What the header says.
        text_offset: u64,
    },
    /// Something is not all in RAM.
    OutsideMemory {
        /// What.
        part: Part,
        /// Its first address.
        start: u64,
        /// Its length in bytes.
        size: u64,
    },
    /// Two things want the same memory.
    Overlap {
        /// The one.
        first: (Part, Region),
        /// The other.
        second: (Part, Region),
    },
    /// The kernel could not reach the initial RAM disk.
    TooFarApart {
        /// The kernel.
        kernel: Region,
        /// The initial RAM disk.
        initrd: Region,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { size } => {
                write!(
                    f,
                    "the host's kernel has {size} bytes, and an arm64 Image begins with a header of {HEADER_SIZE}"
                )
            }
            Self::NotAnImage { magic } => write!(
                f,
                "the host's kernel is not an arm64 Image: its magic number is {magic:#010x} instead of {:#010x}",
                u32::from_le_bytes(MAGIC)
            ),
            Self::Compressed => {
                f.write_str("the host's kernel is compressed: unpack it, Exeunt starts plain arm64 Images")
            }
            Self::BigEndian => f.write_str("the host's kernel is big-endian; Exeunt starts little-endian ones"),
            Self::NoSuchPages(pages) => {
                write!(f, "the host's kernel has pages of {pages}, and this CPU has none of that size")
            }
            Self::Misaligned { start, text_offset } => write!(
                f,
                "the host's kernel is at {start:#x}, but has to be at a multiple of 2 MiB plus its text_offset, \
                 {text_offset:#x}"
            ),
            Self::OutsideMemory { part, start, size } => {
                write!(f, "{part} takes {size:#x} bytes from {start:#x} on, and not all of that is RAM")
            }
            Self::Overlap { first: (first, here), second: (second, there) } => {
                write!(f, "{first} at {here} and {second} at {there} overlap")
            }
            Self::TooFarApart { kernel, initrd } => write!(
                f,
                "the host's kernel at {kernel} and its initrd at {initrd} do not lie within 32 GiB, which arm64 Linux \
                 wants"
            ),
        }
    }
}

impl core::error::Error for ImageError {}

impl Image {
    /// Reads the header of the image file that begins with `header` and has `file_size` bytes. `header` is at least the
    /// file's first [`HEADER_SIZE`] bytes, or all of a shorter file.
    ///
    /// # Errors
    ///
    /// [`ImageError::TooShort`], [`ImageError::NotAnImage`], [`ImageError::Compressed`] and [`ImageError::BigEndian`].
    pub fn parse(header: &[u8], file_size: u64) -> Result<Self, ImageError> {
        let header = match header.first_chunk::<HEADER_SIZE>() {
            Some(header) if file_size >= HEADER_SIZE as u64 => header,
            _ => return Err(ImageError::TooShort { size: file_size.min(header.len() as u64) }),
        };
        let magic = bytes(header, field::MAGIC);
        if magic != MAGIC {
            // The forms in which distributions pack kernels: gzip, and the EFI program that unpacks itself (Linux's
            // drivers/firmware/efi/libstub/zboot-header.S).
            let compressed = header.starts_with(&[0x1f, 0x8b]) || bytes(header, 4) == *b"zimg";
            let magic = u32::from_le_bytes(magic);
            return Err(if compressed { ImageError::Compressed } else { ImageError::NotAnImage { magic } });
        }
        let number = |field| u64::from_le_bytes(bytes(header, field));
        if number(field::FLAGS) & FLAG_BIG_ENDIAN != 0 {
            return Err(ImageError::BigEndian);
        }
        let pages = Pages::from_flags(number(field::FLAGS));
        Ok(match number(field::IMAGE_SIZE) {
            // How much more than the file such a kernel takes, nobody knows.
            0 => Self { text_offset: OLD_TEXT_OFFSET, size: file_size, pages },
            size => Self { text_offset: number(field::TEXT_OFFSET), size: size.max(file_size), pages },
        })
    }

    /// Says whether a CPU with this ID_AA64MMFR0_EL1 can run the image.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoSuchPages`].
    pub fn check_cpu(&self, id_aa64mmfr0_el1: u64) -> Result<(), ImageError> {
        match self.pages {
            Some(pages) if !pages.are_in(id_aa64mmfr0_el1) => Err(ImageError::NoSuchPages(pages)),
            _ => Ok(()),
        }
    }

    /// Says whether the image can be started at `start`, and returns the memory that it takes there. Its first address
    /// is the entry point.
    ///
    /// # Errors
    ///
    /// [`ImageError::Misaligned`], [`ImageError::OutsideMemory`], [`ImageError::Overlap`] and
    /// [`ImageError::TooFarApart`], also if it is not the image that is in the wrong place.
    pub fn check_placement(&self, start: u64, surroundings: &Surroundings) -> Result<Region, ImageError> {
        let Surroundings { exeunt, initrd, tree, memory } = *surroundings;
        if !start.wrapping_sub(self.text_offset).is_multiple_of(BASE_ALIGNMENT) {
            return Err(ImageError::Misaligned { start, text_offset: self.text_offset });
        }
        let outside = |part, start, size| ImageError::OutsideMemory { part, start, size };
        let kernel = Region::new(start, self.size).ok_or(outside(Part::Kernel, start, self.size))?;
        let parts = [
            Some((Part::Kernel, kernel)),
            Some((Part::Exeunt, exeunt)),
            initrd.map(|initrd| (Part::Initrd, initrd)),
            Some((Part::Tree, tree)),
        ];
        for (index, first) in parts.iter().enumerate() {
            let Some(first) = *first else { continue };
            for second in parts[index + 1..].iter().flatten() {
                if first.1.overlaps(second.1) {
                    return Err(ImageError::Overlap { first, second: *second });
                }
            }
            // The tree may be in a memory of its own.
            if first.0 != Part::Tree && !memory.iter().any(|bank| bank.contains(first.1)) {
                return Err(outside(first.0, first.1.start, first.1.size()));
            }
        }
        if let Some(initrd) = initrd {
            let window = kernel.start.min(initrd.start) / WINDOW_ALIGNMENT * WINDOW_ALIGNMENT;
            if kernel.end.max(initrd.end) - window > WINDOW_SIZE {
                return Err(ImageError::TooFarApart { kernel, initrd });
            }
        }
        Ok(kernel)
    }
}

/// What else there is in memory.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Exeunt's own memory.
    pub exeunt: Region,
    /// The host's initial RAM disk.
    pub initrd: Option<Region>,
    /// The device tree, all of its total size.
    pub tree: Region,
    /// RAM.
    pub memory: &'a [Region],
}

/// The field at byte `at`.
fn bytes<const N: usize>(header: &[u8; HEADER_SIZE], at: usize) -> [u8; N] {
    core::array::from_fn(|i| header[at + i])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// A header as Linux 6.12 has it.
    fn header(text_offset: u64, image_size: u64, flags: u64) -> [u8; HEADER_SIZE] {
        let mut header = [0; HEADER_SIZE];
        header[..2].copy_from_slice(b"MZ");
        header[8..16].copy_from_slice(&text_offset.to_le_bytes());
        header[16..24].copy_from_slice(&image_size.to_le_bytes());
        header[24..32].copy_from_slice(&flags.to_le_bytes());
        header[56..60].copy_from_slice(b"ARM\x64");
        header
    }

    fn region(start: u64, size: u64) -> Region {
        Region::new(start, size).unwrap()
    }

    const MEMORY: [Region; 1] = [Region { start: GIB, end: 2 * GIB }];

    /// QEMU's virt with 1 GiB, as `make run` fills it.
    fn surroundings() -> Surroundings<'static> {
        Surroundings {
            exeunt: region(GIB + 2 * MIB, 2 * MIB),
            initrd: Some(region(GIB + 132 * MIB, 3 * MIB)),
            tree: region(GIB + 128 * MIB, MIB),
            memory: &MEMORY,
        }
    }

    #[test]
    fn a_kernel_behind_exeunt_is_accepted() {
        let image = Image::parse(&header(0, 40 * MIB, 0xa), 38 * MIB).unwrap();
        assert_eq!(image, Image { text_offset: 0, size: 40 * MIB, pages: Some(Pages::K4) });
        let kernel = image.check_placement(GIB + 4 * MIB, &surroundings()).unwrap();
        assert_eq!(kernel, region(GIB + 4 * MIB, 40 * MIB));
    }

    #[test]
    fn a_kernel_before_3_17_is_given_its_file_size() {
        let image = Image::parse(&header(0x1234, 0, 0), 10 * MIB).unwrap();
        assert_eq!(image, Image { text_offset: 0x80000, size: 10 * MIB, pages: None });
        assert!(image.check_placement(GIB + 4 * MIB + 0x80000, &surroundings()).is_ok());
    }

    #[test]
    fn a_file_that_is_longer_than_its_header_says_counts_in_full() {
        assert_eq!(Image::parse(&header(0, MIB, 0), 2 * MIB).unwrap().size, 2 * MIB);
    }

    #[test]
    fn a_kernel_whose_pages_the_cpu_has_not_is_refused() {
        // Cortex-a57, neoverse-n1, one with 16 KiB only, one with FEAT_LPA2 in all.
        for (mmfr0, [k4, k16, k64]) in [
            (0x1124, [true, false, true]),
            (0x10_1125, [true, true, true]),
            (0xff10_1125, [false, true, false]),
            (0x1020_1126, [true, true, true]),
        ] {
            let runs = |flags| Image::parse(&header(0, MIB, flags), MIB).unwrap().check_cpu(mmfr0);
            assert_eq!([0x2, 0x4, 0x6].map(|flags| runs(flags).is_ok()), [k4, k16, k64], "{mmfr0:#x}");
            assert_eq!(runs(0x8), Ok(()), "one that does not say");
        }
        let refused = Image::parse(&header(0, MIB, 0xc), MIB).unwrap().check_cpu(0x1124).unwrap_err();
        assert_eq!(refused.to_string(), "the host's kernel has pages of 16 KiB, and this CPU has none of that size");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let good = header(0, MIB, 0);
        assert_eq!(Image::parse(&good[..63], MIB), Err(ImageError::TooShort { size: 63 }));
        assert_eq!(Image::parse(&good, 20), Err(ImageError::TooShort { size: 20 }));
        assert_eq!(Image::parse(&[], 0), Err(ImageError::TooShort { size: 0 }));
        assert_eq!(Image::parse(&header(0, MIB, 1), MIB), Err(ImageError::BigEndian));
        let mut other = good;
        other[56] = b'X';
        assert_eq!(Image::parse(&other, MIB), Err(ImageError::NotAnImage { magic: 0x644d_5258 }));
        other[..2].copy_from_slice(&[0x1f, 0x8b]);
        assert_eq!(Image::parse(&other, MIB), Err(ImageError::Compressed));
        other = good;
        other[56..].fill(0);
        other[4..8].copy_from_slice(b"zimg");
        assert_eq!(Image::parse(&other, MIB), Err(ImageError::Compressed));
    }

    #[test]
    fn what_is_in_the_way_is_named_with_its_addresses() {
        let image = Image { text_offset: 0, size: 40 * MIB, pages: None };
        let refused =
            |start, surroundings: &Surroundings| image.check_placement(start, surroundings).unwrap_err().to_string();
        let usual = surroundings();
        assert_eq!(
            refused(GIB + 2 * MIB, &usual),
            "the host's kernel at 0x40200000-0x429fffff and Exeunt at 0x40200000-0x403fffff overlap"
        );
        assert_eq!(
            refused(GIB + 90 * MIB, &usual),
            "the host's kernel at 0x45a00000-0x481fffff and the device tree at 0x48000000-0x480fffff overlap"
        );
        assert_eq!(
            refused(GIB + 130 * MIB, &usual),
            "the host's kernel at 0x48200000-0x4a9fffff and the host's initrd at 0x48400000-0x486fffff overlap"
        );
        assert_eq!(
            refused(2 * GIB - 2 * MIB, &usual),
            "the host's kernel takes 0x2800000 bytes from 0x7fe00000 on, and not all of that is RAM"
        );
        assert_eq!(
            refused(GIB + 5 * MIB, &usual),
            "the host's kernel is at 0x40500000, but has to be at a multiple of 2 MiB plus its text_offset, 0x0"
        );
        let initrd = Some(region(GIB + 3 * MIB, MIB));
        assert_eq!(
            refused(GIB + 4 * MIB, &Surroundings { initrd, ..usual }),
            "Exeunt at 0x40200000-0x403fffff and the host's initrd at 0x40300000-0x403fffff overlap"
        );
        let initrd = Some(region(3 * GIB, MIB));
        assert!(refused(GIB + 4 * MIB, &Surroundings { initrd, ..usual }).starts_with("the host's initrd takes"));
        let memory = [region(0, 64 * GIB)];
        let initrd = Some(region(33 * GIB, MIB));
        assert!(refused(GIB + 4 * MIB, &Surroundings { initrd, memory: &memory, ..usual }).contains("within 32 GiB"));
    }

    #[test]
    fn a_size_beyond_all_memory_is_refused() {
        let image = Image::parse(&header(0, u64::MAX, 0), MIB).unwrap();
        let error = image.check_placement(GIB + 4 * MIB, &surroundings());
        assert_eq!(error, Err(ImageError::OutsideMemory { part: Part::Kernel, start: GIB + 4 * MIB, size: u64::MAX }));
    }

    proptest! {
        #[test]
        fn no_header_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), size: u64, start: u64) {
            let mut bytes = bytes;
            if let Some(magic) = bytes.get_mut(56..60) {
                magic.copy_from_slice(&MAGIC);
            }
            if let Ok(image) = Image::parse(&bytes, size) {
                let _ = image.check_placement(start, &surroundings());
            }
        }

        /// An accepted placement is in RAM and apart from everything else.
        #[test]
        fn accepted_means_free(start in 0u64..1200, size in 1u64..1200) {
            let image = Image { text_offset: 0, size: size * MIB, pages: None };
            let around = surroundings();
            if let Ok(kernel) = image.check_placement(GIB - 100 * MIB + start * MIB, &around) {
                prop_assert!(MEMORY[0].contains(kernel));
                for other in [around.exeunt, around.tree, around.initrd.unwrap()] {
                    prop_assert!(kernel.end <= other.start || other.end <= kernel.start);
                }
            }
        }
    }
}
