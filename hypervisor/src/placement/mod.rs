//! What lies where in the machine's address space, and whether it can.
//!
//! Owns the checks of addresses that come from outside, from the tree or the loader: each is a number that anybody may
//! have written. What passes can be mapped at EL2 where it is. `stage2` makes of the same facts what the host may do
//! where. Touches no memory but that of the tables.

mod host_ram;
mod stage2;
#[cfg(test)]
mod tests;

use core::fmt;

pub use host_ram::HostRam;

use crate::devicetree::{self, Platform, Region};
use crate::paging::PAGE_SIZE;
use crate::paging::registers::PaRange;
use crate::paging::stage1::IDENTITY_END;

/// What is in the address space that nothing else may be put over.
#[derive(Clone, Copy, Debug)]
pub struct AddressMap<'a> {
    /// Exeunt's own memory.
    pub exeunt: Region,
    /// The device tree, all of its total size.
    pub tree: Region,
    /// RAM, by the device tree.
    pub memory: &'a [Region],
    /// What the CPU can address.
    pub pa_range: PaRange,
}

/// Why a device cannot be where the tree says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// Its registers would not be aligned.
    Misaligned {
        /// Where it should be.
        base: u64,
        /// A multiple of how many bytes that has to be.
        alignment: u64,
    },
    /// The CPU, or EL2's stage 1, does not reach so far.
    OutOfReach {
        /// Where it should be.
        base: u64,
    },
    /// Its pages are somebody else's.
    Occupied {
        /// Where it should be.
        base: u64,
        /// Whose.
        by: Occupant,
        /// What that has.
        region: Region,
    },
}

/// What a device cannot be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupant {
    /// Exeunt's own memory.
    Exeunt,
    /// The device tree.
    Tree,
    /// RAM.
    Ram,
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exeunt => "Exeunt's memory",
            Self::Tree => "the device tree",
            Self::Ram => "RAM",
        })
    }
}

/// Reads after "its registers cannot be ".
impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Misaligned { base, alignment } => {
                write!(f, "at {base:#x}, which is not a multiple of {alignment:#x}")
            }
            Self::OutOfReach { base } => {
                write!(f, "at {base:#x}, which is beyond what this CPU or EL2's stage 1 reaches")
            }
            Self::Occupied { base, by, region } => write!(f, "at {base:#x}, which is in {by} ({region})"),
        }
    }
}

impl core::error::Error for DeviceError {}

impl AddressMap<'_> {
    /// Checks the address of a device with `size` bytes of registers at `base`, a multiple of `alignment`, before
    /// anybody maps or touches it. Returns the pages that hold them, which lie apart from RAM and from what is in use.
    ///
    /// That something answers there, only an access can say.
    ///
    /// # Errors
    ///
    /// A [`DeviceError`], which says what is in the way.
    pub fn device(&self, base: u64, size: u64, alignment: u64) -> Result<Region, DeviceError> {
        if !base.is_multiple_of(alignment) {
            return Err(DeviceError::Misaligned { base, alignment });
        }
        let pages = Region::new(base, size).and_then(|registers| registers.in_pages(PAGE_SIZE));
        let pages = pages.filter(|&pages| self.reaches(pages)).ok_or(DeviceError::OutOfReach { base })?;
        let occupied = [(Occupant::Exeunt, self.exeunt), (Occupant::Tree, self.tree)].into_iter();
        let occupied = occupied.chain(self.memory.iter().map(|&ram| (Occupant::Ram, ram)));
        for (by, region) in occupied {
            if pages.overlaps(region) {
                return Err(DeviceError::Occupied { base, by, region });
            }
        }
        Ok(pages)
    }

    /// The tree with as much memory after it as it can take: RAM that nobody else has, neither `kernel`, the memory of
    /// the host's kernel, nor what `platform` names.
    #[must_use]
    pub fn room_for_tree(&self, platform: &Platform, kernel: Region) -> Region {
        let tree = self.tree;
        let most = tree.start.saturating_add(devicetree::MAX_SIZE as u64).min(self.reach());
        let bank = self.memory.iter().find(|ram| ram.contains(tree)).map_or(tree.end, |ram| ram.end);
        let others = [self.exeunt, kernel].into_iter().chain(platform.initrd());
        let reserved = [&*platform.no_map, &*platform.claimed, &*platform.reserved].into_iter().flatten().copied();
        // A reservation that the tree begins in is the tree's own.
        let others = others.chain(reserved.filter(|region| !region.has(tree.start)));
        let free = others.filter(|other| other.end > tree.end).map(|other| other.start.max(tree.end)).min();
        Region { start: tree.start, end: tree.end.max(most.min(bank).min(free.unwrap_or(u64::MAX))) }
    }

    /// Whether EL2 can map all of `region` where it is.
    #[must_use]
    pub fn reaches(&self, region: Region) -> bool {
        reaches(self.pa_range, region)
    }

    fn reach(&self) -> u64 {
        reach(self.pa_range)
    }
}

/// The address after the last one that EL2 can map where it is, on a CPU with `pa_range`.
fn reach(pa_range: PaRange) -> u64 {
    pa_range.end().min(IDENTITY_END)
}

/// Whether EL2 can map all of `region` where it is, on a CPU with `pa_range`.
#[must_use]
pub fn reaches(pa_range: PaRange, region: Region) -> bool {
    region.end <= reach(pa_range)
}
