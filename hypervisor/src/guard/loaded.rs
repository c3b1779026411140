//! What is loaded in the memory of the host's crash kernel, as far as the memory itself shows it.
//!
//! The system call that loads a kernel says where that begins ([`super::caller`]), or where what runs before it begins.
//! `kexec_file_load` does not, and of a load from before Exeunt came back nobody knows. Then the memory is looked
//! through. A crash kernel is an arm64 Image (booting.rst), and its device tree has `linux,elfcorehdr` in `/chosen`,
//! which no other tree has. kexec-tools and the kernel put both on a page's begin.
//!
//! Of a kernel that was loaded before there may be something left. So if more than one is found, none is taken.
//!
//! Owns the search; the memory comes through [`Ram`], and may be anything.

use core::fmt;

use super::Ram;
use crate::devicetree::{self, Region};
use crate::paging::PAGE_SIZE;
use crate::restart::ELF_CORE_HEADER;

/// The place of an Image's magic number, in the low word of what is there, and the number.
const MAGIC: u64 = 56;
const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"ARM\x64");
/// What a tree begins with, as the CPU reads it.
const TREE: u32 = u32::from_le_bytes([0xd0, 0x0d, 0xfe, 0xed]);

/// So many trees are looked into at most: memory that is full of what begins like one is no crash kernel's.
const MOST_TREES: u32 = 16;

/// How a crash kernel is entered: with its MMU off, all interrupts masked, and x1 to x3 zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The first instruction.
    pub entry: u64,
    /// x0: the tree; 0 if what runs first knows it.
    pub tree: u64,
}

/// Why none is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no kernel, or no tree.
    None,
    /// There are several.
    Several,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no crash kernel is loaded",
            Self::Several => "more than one crash kernel is in the memory, and none was seen to be loaded",
        })
    }
}

/// Looks for the crash kernel in these regions.
///
/// # Errors
/// Why none is found.
pub fn find(regions: [Option<Region>; 2], ram: &impl Ram) -> Result<Start, Error> {
    let mut kernel = Found::None;
    let mut tree = Found::None;
    let mut trees = 0;
    for region in regions.into_iter().flatten() {
        let pages = (region.start..region.end).step_by(PAGE_SIZE as usize);
        for page in pages.filter(|&page| page.is_multiple_of(PAGE_SIZE)) {
            let low = |address: u64| ram.word(address).map(|word| word as u32);
            if page.checked_add(MAGIC).and_then(low) == Some(MAGIC_VALUE) {
                kernel.add(page);
            } else if low(page) == Some(TREE) {
                trees += 1;
                if trees > MOST_TREES {
                    return Err(Error::Several);
                }
                if is_of_crash_kernel(page, ram) {
                    tree.add(page);
                }
            }
        }
    }
    Ok(Start { entry: kernel.one()?, tree: tree.one()? })
}

/// Whether the tree at `start` is that of a crash kernel.
#[inline(never)]
fn is_of_crash_kernel(start: u64, ram: &impl Ram) -> bool {
    let word = |offset: u32| {
        let at = start.checked_add(offset.into())?;
        Some((ram.word(at & !7)? >> (8 * (at & 4))) as u32)
    };
    devicetree::chosen_has(ELF_CORE_HEADER, &word) == Some(true)
}

/// How many there are of something.
enum Found {
    None,
    One(u64),
    Several,
}

impl Found {
    fn add(&mut self, address: u64) {
        *self = if matches!(self, Self::None) { Self::One(address) } else { Self::Several };
    }

    fn one(self) -> Result<u64, Error> {
        match self {
            Self::None => Err(Error::None),
            Self::One(address) => Ok(address),
            Self::Several => Err(Error::Several),
        }
    }
}
