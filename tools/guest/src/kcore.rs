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

use crate::find::Place;
use crate::snapshot::Source;
use crate::trouble::Trouble;

/// The kernel's memory as an ELF core file.
pub const KCORE: &str = "/proc/kcore";

/// Bytes of an ELF header and of a program header (ELF-64).
const HEADER: usize = 64;
const SEGMENT: usize = 56;
/// p_type of a piece of memory.
const PT_LOAD: u32 = 1;

fn number<const N: usize>(bytes: &[u8], offset: usize) -> u64 {
    let mut number = [0; 8];
    if let Some(bytes) = bytes.get(offset..offset + N) {
        number[..N].copy_from_slice(bytes);
    }
    u64::from_le_bytes(number)
}

/// Where in an ELF core file `size` bytes at the physical address `address` are.
///
/// # Errors
/// When it has none.
pub fn place(file: &mut (impl Read + Seek), address: u64, size: u64) -> io::Result<u64> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut header = [0; HEADER];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut header)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(invalid("it is no ELF file of 64 bits"));
    }
    let (segments, entry, count) = (number::<8>(&header, 32), number::<2>(&header, 54), number::<2>(&header, 56));
    if entry != SEGMENT as u64 {
        return Err(invalid("its program headers are of another size"));
    }
    let mut table = vec![0; SEGMENT * count as usize];
    file.seek(SeekFrom::Start(segments))?;
    file.read_exact(&mut table)?;
    for segment in table.chunks_exact(SEGMENT) {
        let (offset, physical, length) = (number::<8>(segment, 8), number::<8>(segment, 24), number::<8>(segment, 32));
        let Some(distance) = address.checked_sub(physical).filter(|&distance| distance < length) else { continue };
        if number::<4>(segment, 0) == u64::from(PT_LOAD) && size <= length - distance {
            return offset.checked_add(distance).ok_or_else(|| invalid("a segment of it has no end"));
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
