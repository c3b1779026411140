//! The black box without Exeunt's help: it is RAM of Linux's, and `/proc/kcore` shows that. That is the way when Exeunt
//! has left, and when the box is so large that the mirror has no room.
//!
//! `/dev/mem` does not show it where the kernel is built with STRICT_DEVMEM.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use guest_abi::blackbox::{Header, SIZE};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache};

use crate::find::Place;
use crate::snapshot::Source;
use crate::trouble::Trouble;

/// The kernel's memory as an ELF core file.
pub const KCORE: &str = "/proc/kcore";

/// Where in an ELF core file `size` bytes at the physical address `address` are.
///
/// # Errors
/// When it has none.
pub fn place(file: &mut (impl Read + Seek), address: u64, size: u64) -> io::Result<u64> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let damaged = |error: object::Error| invalid(format!("its program headers are damaged: {error}"));
    let cache = ReadCache::new(file);
    let header = FileHeader64::<LittleEndian>::parse(&cache)
        .map_err(|error| invalid(format!("it is no ELF file of 64 bits: {error}")))?;
    let endian = header.endian().map_err(damaged)?;
    for segment in header.program_headers(endian, &cache).map_err(damaged)? {
        let (physical, length) = (segment.p_paddr(endian), segment.p_filesz(endian));
        let Some(distance) = address.checked_sub(physical).filter(|&distance| distance < length) else { continue };
        if segment.p_type(endian) == PT_LOAD && size <= length - distance {
            let place =
                segment.p_offset(endian).checked_add(distance).filter(|place| place.checked_add(size).is_some());
            return place.ok_or_else(|| invalid("a segment of it has no end".to_owned()));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "it has no memory at that address"))
}

/// The box in Linux's memory.
pub struct Kernel {
    file: RefCell<File>,
    path: PathBuf,
    place: u64,
    size: usize,
    start: u64,
}

impl Kernel {
    /// The one that the device tree names.
    ///
    /// # Errors
    /// When the kernel does not show it, or it is damaged.
    pub fn new(place: &Place, path: &Path) -> Result<Self, Trouble> {
        let core = place.core.ok_or_else(|| Trouble::BoxHidden("the device tree does not name it".to_owned()))?;
        let hidden = |error: io::Error| Trouble::BoxHidden(format!("{}: {error}", path.display()));
        let mut file = File::open(path).map_err(hidden)?;
        let mut header = [0; Header::SIZE];
        let at = self::place(&mut file, core, SIZE as u64).map_err(hidden)?;
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut header)).map_err(hidden)?;
        let header = Header::read(&header)?;
        if header.address != core || header.size < SIZE as u64 || header.start.checked_add(header.size).is_none() {
            return Err(Trouble::BoxPlace(header.start, header.size));
        }
        let place = self::place(&mut file, header.start, header.size).map_err(hidden)?;
        let size = header.size as usize;
        Ok(Self { file: RefCell::new(file), path: path.to_owned(), place, size, start: header.start })
    }
}

impl Source for Kernel {
    fn size(&self) -> usize {
        self.size
    }

    fn start(&self) -> u64 {
        self.start
    }

    fn load(&self, bytes: &mut [u8], range: Range<usize>) -> Result<(), Trouble> {
        let range = range.start.min(bytes.len())..range.end.min(bytes.len());
        let mut file = self.file.borrow_mut();
        let read = file.seek(SeekFrom::Start(self.place + range.start as u64));
        let read = read.and_then(|_| file.read_exact(&mut bytes[range]));
        read.map_err(|error| Trouble::BoxHidden(format!("{}: {error}", self.path.display())))
    }
}
