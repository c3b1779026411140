//! The black box without Exeunt's help, when Exeunt has left: it is RAM of Linux's, and `/proc/kcore` shows that.
//!
//! `/dev/mem` does not where the kernel is built with STRICT_DEVMEM.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use guest_abi::blackbox::{Header, SIZE};

use crate::find::Place;
use crate::snapshot::Snapshot;
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

/// Reads `size` bytes at the physical address `address` out of an ELF core file.
///
/// # Errors
/// When they are not there.
pub fn read(file: &mut (impl Read + Seek), address: u64, size: usize) -> io::Result<Vec<u8>> {
    let mut header = [0; HEADER];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut header)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no ELF file of 64 bits"));
    }
    let (segments, entry, count) = (number::<8>(&header, 32), number::<2>(&header, 54), number::<2>(&header, 56));
    if entry != SEGMENT as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its program headers are of another size"));
    }
    let mut table = vec![0; SEGMENT * count as usize];
    file.seek(SeekFrom::Start(segments))?;
    file.read_exact(&mut table)?;
    for segment in table.chunks_exact(SEGMENT) {
        let (offset, physical, length) = (number::<8>(segment, 8), number::<8>(segment, 24), number::<8>(segment, 32));
        let Some(distance) = address.checked_sub(physical).filter(|&distance| distance < length) else { continue };
        if number::<4>(segment, 0) != u64::from(PT_LOAD) || (size as u64) > length - distance {
            continue;
        }
        let Some(place) = offset.checked_add(distance) else { continue };
        let mut bytes = vec![0; size];
        file.seek(SeekFrom::Start(place))?;
        file.read_exact(&mut bytes)?;
        return Ok(bytes);
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "it has no memory at that address"))
}

/// The box that the device tree names.
///
/// # Errors
/// When the kernel does not show it, or it is damaged.
pub fn snapshot(place: &Place, path: &Path) -> Result<Snapshot, Trouble> {
    let core = place.core.ok_or_else(|| Trouble::BoxHidden("the device tree does not name it".to_owned()))?;
    let hidden = |error: io::Error| Trouble::BoxHidden(format!("{}: {error}", path.display()));
    let mut file = File::open(path).map_err(hidden)?;
    let header = Header::read(&read(&mut file, core, SIZE).map_err(hidden)?)?;
    if header.address != core {
        return Err(Trouble::BoxPlace(header.start, header.size));
    }
    let bytes = read(&mut file, header.start, header.size as usize).map_err(hidden)?;
    // Nobody writes into it any more.
    Snapshot::of(bytes, header.start, 0)
}
