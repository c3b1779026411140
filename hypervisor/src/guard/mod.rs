//! The guard: where a Linux keeps its crash kernel, and who may write there.
//!
//! `linux` finds the memory in the kernel's own data. Owns no memory and no register: what it reads comes through
//! [`Ram`], and may be anything, since the host writes it. Nothing here panics, and every search ends.

pub mod linux;
#[cfg(test)]
mod tests;

use crate::devicetree::Region;
use crate::paging::PAGE_SIZE;

/// The host's RAM, to read.
pub trait Ram {
    /// The eight bytes at `address`, a multiple of 8; nothing where Exeunt keeps off, or where nothing answers.
    fn word(&self, address: u64) -> Option<u64>;

    /// Where `word` is for the first time in the rest of the 4 KiB page that begins at `start`, a multiple of 16.
    fn position(&self, start: u64, word: u64) -> Option<u64>;

    /// Whether all of `region` is RAM that is the host's alone.
    fn has(&self, region: Region) -> bool;
}

/// Whether a kernel's command line asks for memory for a crash kernel.
#[must_use]
pub fn asks_for_crash_kernel(arguments: &[u8]) -> bool {
    arguments.split(u8::is_ascii_whitespace).any(|word| word.starts_with(b"crashkernel="))
}

/// A region in one word, so that one store changes it and one load has all of it: the number of its first page above
/// that of its pages. 0 stands for none.
#[must_use]
pub fn pack(region: Option<Region>) -> u64 {
    let Some(region) = region else { return 0 };
    let (first, pages) = (region.start / PAGE_SIZE, region.size() / PAGE_SIZE);
    if first >> FIRST_BITS == 0 && pages >> PAGES_BITS == 0 { first << PAGES_BITS | pages } else { 0 }
}

/// What [`pack`] has packed.
#[must_use]
pub fn unpack(word: u64) -> Option<Region> {
    let (first, pages) = (word >> PAGES_BITS, word % (1 << PAGES_BITS));
    let start = first * PAGE_SIZE;
    (pages != 0).then_some(Region { start, end: start + pages * PAGE_SIZE })
}

/// Pages of addresses of 48 bits.
const FIRST_BITS: u32 = 36;
/// Pages of a region below 1 TiB.
const PAGES_BITS: u32 = u64::BITS - FIRST_BITS;
