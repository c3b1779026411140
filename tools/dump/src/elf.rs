//! Memory out of an ELF: /proc/vmcore as it is, `makedumpfile -E`, or QEMU's `dump-guest-memory`.
//!
//! Owns the walk of its segments. The format is the crate object's.

use std::fs::File;

use guest_abi::blackbox::SIZE;
use object::elf::{EM_AARCH64, ET_CORE, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache};

use crate::{Memory, length_of, read_some};

/// A segment: the physical address, where it is in the file, and how many bytes the file has of it.
#[derive(Clone, Copy, Debug)]
struct Segment {
    address: u64,
    offset: u64,
    length: u64,
}

/// Such a file.
#[derive(Debug)]
pub struct Elf {
    file: File,
    /// In the order of their addresses, none of which two have.
    segments: Vec<Segment>,
}

impl Elf {
    /// Opens it.
    ///
    /// # Errors
    /// It is no ELF of an AArch64 machine's memory, or cannot be read; in words.
    pub fn open(file: File) -> Result<Self, String> {
        let length = length_of(&file)?;
        let wrong = |error: object::Error| format!("the ELF is damaged or cut off: {error}");
        let handle = file.try_clone().map_err(|error| error.to_string())?;
        let cache = ReadCache::new(handle);
        let header = FileHeader64::<Endianness>::parse(&cache)
            .map_err(|error| format!("no ELF of a 64-bit machine, or cut off: {error}"))?;
        let endian = header.endian().map_err(wrong)?;
        if header.e_type(endian) != ET_CORE {
            return Err("an ELF, but no dump of memory: it is no core".to_owned());
        }
        if header.e_machine(endian) != EM_AARCH64 {
            return Err("the dump of another kind of machine: it is not AArch64".to_owned());
        }
        let mut segments = Vec::new();
        let mut sum: u64 = 0;
        for program in header.program_headers(endian, &cache).map_err(wrong)? {
            if program.p_type(endian) != PT_LOAD {
                continue;
            }
            let (address, offset) = (program.p_paddr(endian), program.p_offset(endian));
            // What the file really has: it may be cut off.
            let there = length.saturating_sub(offset).min(program.p_filesz(endian)).min(u64::MAX - address);
            if there != 0 {
                segments.push(Segment { address, offset, length: there });
                sum = sum.saturating_add(there);
            }
        }
        // Each byte of a real dump belongs to one segment, with a few exceptions. Many that share theirs would take as
        // long as a far larger file.
        if sum / 4 > length {
            return Err("the ELF's segments overlap; it is damaged".to_owned());
        }
        Ok(Self { file, segments: disjoint(segments) })
    }

    /// The segment that has this address.
    fn segment(&self, address: u64) -> Option<&Segment> {
        let after = self.segments.partition_point(|segment| segment.address <= address);
        let segment = self.segments.get(after.checked_sub(1)?)?;
        (address - segment.address < segment.length).then_some(segment)
    }

    /// The bytes at an address, if the dump has them all.
    fn bytes(&self, address: u64, length: usize) -> Result<Option<Vec<u8>>, String> {
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            let at = address.saturating_add(done as u64);
            let Some(segment) = self.segment(at) else { return Ok(None) };
            let into = at - segment.address;
            let here = (segment.length - into).min((length - done) as u64) as usize;
            let read = read_some(&self.file, segment.offset + into, &mut bytes[done..done + here]);
            if read.map_err(|error| error.to_string())? != here {
                return Ok(None);
            }
            done += here;
        }
        Ok(Some(bytes))
    }
}

/// The segments in the order of their addresses. What two have is left to the one that begins first: so each address
/// is found in a few steps, however many segments a damaged file may have.
fn disjoint(mut segments: Vec<Segment>) -> Vec<Segment> {
    segments.sort_by_key(|segment| segment.address);
    let mut end = 0_u64;
    segments.retain_mut(|segment| {
        let inside = end.saturating_sub(segment.address).min(segment.length);
        *segment = Segment {
            address: segment.address + inside,
            offset: segment.offset + inside,
            length: segment.length - inside,
        };
        end = end.max(segment.address + segment.length);
        segment.length != 0
    });
    segments
}

impl Memory for Elf {
    fn places(&self) -> Vec<u64> {
        let size = SIZE as u64;
        let of = |segment: &Segment| {
            let end = segment.address + segment.length;
            let first = segment.address.checked_next_multiple_of(size).unwrap_or(end);
            (first..end).step_by(SIZE)
        };
        let mut places: Vec<u64> = self.segments.iter().flat_map(of).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    fn read(&self, places: &[u64], length: usize) -> Result<Vec<Option<Vec<u8>>>, String> {
        places.iter().map(|&place| self.bytes(place, length)).collect()
    }
}
